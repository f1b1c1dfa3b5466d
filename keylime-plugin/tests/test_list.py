# SPDX-License-Identifier: Apache-2.0
"""Lists of either format are read, and what is none is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from cima_keylime import images, measurement_list, names
from cima_keylime.measurement_list import Entry
from cima_keylime.reference import Executable, Reference
from cima_keylime.unusable import UnusableError
from conftest import good_node
from encoder import MeasurementList, Node, sha


def read(tmp_path: Path, content: bytes) -> list[Entry]:
    path = tmp_path / "list"
    path.write_bytes(content)
    return list(measurement_list.read(str(path)))


@pytest.mark.parametrize(("sink", "template"), [("kernel", "ima-ng"), ("ima-file", "ima-sig")])
def test_ascii_and_binary_say_the_same(tmp_path: Path, sink: str, template: str) -> None:
    node = good_node(sink, template)
    entries = read(tmp_path, node.list.text.encode())
    assert entries == read(tmp_path, node.list.binary)
    assert len(entries) == len(node.list.lines)
    assert all(entry.fault is None and not entry.is_violation for entry in entries)
    assert entries[3].name == f"cima-sink:{sink}"


def test_a_changed_entry_is_not_consistent(tmp_path: Path) -> None:
    node = Node("kernel")
    node.list.buffer("cima-sink:x", b"v1;a", digest=sha(b"v1;b"))
    (*_, last) = read(tmp_path, node.list.text.replace("/usr/bin/bash", "/usr/bin/evil").encode())
    assert not last.payload_fits
    changed = read(tmp_path, node.list.text.replace("/usr/bin/bash", "/usr/bin/evil").encode())[1]
    assert changed.fault == "does not have its own template hash"


def test_what_a_node_said_is_what_a_policy_of_its_image_has() -> None:
    entries = list(measurement_list.read(str(Path(__file__).with_name("data") / "ledger.ascii")))
    assert all(entry.fault is None for entry in entries)
    said = [names.parse(entry.name) for entry in entries]
    image, *executables = (entry for entry in entries if not entry.name.startswith("cima-violation:"))
    of = image.name.partition(":")[2]
    files = tuple(
        Executable(event.path, (entry.payload or b"").decode().rpartition(":")[2])
        for entry, event in zip(entries, said)
        if event is not None and event.family == "exec"
    )
    assert [one.path for one in files] == [b"/usr/bin/stat", b"/usr/bin/sleep"]
    made = dict(images.entries(Reference(of, None, None, None, files)))
    assert made == {entry.name: entry.digest.hex() for entry in (image, *executables)}


def test_a_list_of_another_template_hash_is_consistent(tmp_path: Path) -> None:
    # Linux 6.10 and later show a list for each algorithm; `ima.log_hash_alg` of a policy is for those.
    line = Node("kernel").list.lines[3]
    data = line.record[28 + len("ima-buf") + 4 :]
    text = line.text.replace(sha(data, "sha1").hex(), sha(data).hex())
    (entry,) = read(tmp_path, text.encode())
    assert (entry.fault, len(entry.template_hash)) == (None, 32)


def test_other_templates_have_no_name(tmp_path: Path) -> None:
    listed = MeasurementList()
    listed.entry("ima-ngv2", sha(b"x"), "cima-image:x")
    for content in (listed.text.encode(), listed.binary):
        (entry,) = read(tmp_path, content)
        assert (entry.template, entry.name, entry.fault) == ("ima-ngv2", "", None)


def test_a_violation_of_imas_own_is_one(tmp_path: Path) -> None:
    listed = MeasurementList()
    listed.violation("/usr/bin/x")
    (entry,) = read(tmp_path, listed.text.encode())
    assert entry.is_violation


def test_the_templates_ima_is_read_as_text(tmp_path: Path) -> None:
    digest = bytes.fromhex("cd" * 20)
    template_hash = sha(digest + b"/usr/bin/x_y".ljust(256, b"\0"), "sha1")
    line = f"10 {template_hash.hex()} ima {digest.hex()} /usr/bin/x_y\n"
    (entry,) = read(tmp_path, line.encode())
    assert (entry.algorithm, entry.name, entry.fault) == ("sha1", "/usr/bin/x_y", None)
    (changed,) = read(tmp_path, line.replace("x_y", "x_z").encode())
    assert changed.fault == "does not have its own template hash"


GOOD = Node("kernel").list


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nonsense\n", 'line 1 is no entry of a list: "nonsense"'),
        (b"1_0 00 ima-ng sha256:00 x\n", "line 1 is no entry of a list"),
        (b"10 00 ima-ng sha256:00 x\0y\n", "line 1 is no entry of a list"),
        (b"10 00 ima sha1:" + b"cd" * 20 + b" x\n", "line 1 is no entry of a list"),
        (b"10 00 ima " + b"cd" * 21 + b" x\n", "line 1 is no entry of a list"),
        (b"10 00 ima " + b"cd" * 20 + b" " + b"x" * 256 + b"\n", "line 1 is no entry of a list"),
        (b"10 zz ima-ng sha256:00 x\n", "line 1 is no entry of a list"),
        (GOOD.text.encode() + b"10 00 ima-buf sha256:00 name\n", f"line {len(GOOD.lines) + 1} is no entry"),
        (b"10 \xff\x1b[2J\n", r'line 1 is no entry of a list: "10 \udcff\x1b[2J"'),
        (GOOD.binary[:-1], f"ends inside entry {len(GOOD.lines)}"),
        (GOOD.binary + b"\x0a\0", f"ends inside entry {len(GOOD.lines) + 1}"),
        (b"\x0a\0\0\0" + bytes(20) + b"\xff\xff\xff\xff", "entry 1 has a field of 4294967295 bytes"),
        (b"\x0a\0\0\0" + bytes(20) + b"\x03\0\0\0ima", "entry 1 has the template ima"),
        (b"\x0a\0\0\0" + bytes(20) + b"\x06\0\0\0ima-ng\x02\0\0\0ab", "entry 1 has fields that are none"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UnusableError) as error:
        read(tmp_path, content)
    assert str(tmp_path / "list") in str(error.value)
    assert said in str(error.value)


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == []


def test_a_long_list_takes_the_memory_of_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "list"
    line = Node("kernel").list.text.splitlines(keepends=True)[3]
    with path.open("w") as file:
        for _ in range(400):
            file.write(line * 50)

    def count(entries: Iterator[Entry]) -> int:
        return sum(1 for _ in entries)

    tracemalloc.start()
    try:
        assert count(measurement_list.read(str(path))) == 20000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
