# SPDX-License-Identifier: Apache-2.0
"""Images, policies and nodes that the tests begin with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import software_tpm
import verifier_process
from cima_keylime.cli import main
from encoder import Node, sha
from verifier_process import Running

WEB = "sha256:" + "1b" * 32
DATABASE = "sha256:" + "db" * 32
WEB_FILES = {
    b"/usr/bin/nginx": b"nginx 1",
    b"/usr/bin/odd name%41\xff": b"odd",
    b"/usr/lib/" + b"deep/" * 40 + b"module.so": b"module",
}
DATABASE_FILES = {b"/bin/postgres": b"postgres 15"}


def reference_of(image: str, name: str | None, files: dict[bytes, bytes]) -> dict[str, Any]:
    """As `cima reference` writes it."""

    def shown(path: bytes) -> str:
        return "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x5C else f"\\x{b:02x}" for b in path)

    return {
        "cima-reference": 1,
        "image": image,
        "name": name,
        "manifest": None,
        "config": None,
        "platform": "linux/amd64",
        "labels": {},
        "annotations": {},
        "executables": [
            {"path": shown(path), "sha256": sha(files[path]).hex(), "why": ["elf", "mode"]}
            for path in sorted(files, key=lambda path: path.split(b"/"))
        ],
    }


HOST: dict[str, Any] = {
    "meta": {"version": 1, "generator": 3, "timestamp": "2026-11-01 00:00:00"},
    "release": 0,
    "digests": {
        "boot_aggregate": [sha(b"aggregate").hex()],
        "/usr/bin/bash": [sha(b"bash of the host").hex()],
    },
    "excludes": ["/tmp/.*"],
    "keyrings": {},
    "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
    "ima-buf": {"kernel_version": [sha(b"6.12").hex()]},
    "verification-keys": "",
}


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests, which store policies under names of their own."""
    with verifier_process.verifier(tmp_path_factory.mktemp("verifier")) as running:
        yield running


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[software_tpm.Tpm]:
    """One for each test: PCR 10 cannot be reset."""
    assert not software_tpm.missing(), f"install swtpm and tpm2-tools: {software_tpm.missing()}"
    with software_tpm.tpm(tmp_path / "tpm") as running:
        yield running


Write = Callable[[str, Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes JSON, or text as it is, to a file of this name; returns its path."""

    def written(name: str, content: Any) -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return written


@pytest.fixture
def web(write: Write) -> str:
    return write("web.json", reference_of(WEB, "localhost/web:1", WEB_FILES))


@pytest.fixture
def database(write: Write) -> str:
    return write("database.json", reference_of(DATABASE, "localhost/database:15", DATABASE_FILES))


@pytest.fixture
def host(write: Write) -> str:
    return write("host.json", HOST)


@pytest.fixture
def policy(web: str, host: str, write: Write, tmp_path: Path) -> str:
    """Allows the host, its agent, and the image web, with both sinks."""
    list_path = write("trusted.list", Node("kernel").list.text)
    made = str(tmp_path / "policy.json")
    assert main(["policy", "make", web, "--base", host, "--agent-list", list_path, "-o", made]) == 0
    return made


def good_node(sink: str, template: str = "ima-ng") -> Node:
    """A node on which nothing but the image web runs."""
    node = Node(sink, template)
    node.admit(WEB)
    for path, content in WEB_FILES.items():
        node.execute(WEB, path, content)
    node.say("cima-ctx:1", b"v1;\x0a\x02ho")
    return node
