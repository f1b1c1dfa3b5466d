# SPDX-License-Identifier: Apache-2.0
"""Whatever an input has, a command ends with one of its exit codes: no traceback, no sequence for a terminal."""

from __future__ import annotations

import base64
import json
import random
import struct
from pathlib import Path

import pytest

from cima_keylime.cli import main
from conftest import WEB, WEB_FILES, Write, good_node, reference_of
from test_key import public, said_of

ROUNDS = 150
# A quote of no PCR at all.
ATTEST = struct.pack(">IHHH25xIHB3xH", 0xFF544347, 0x8018, 0, 0, 1, 0x000B, 3, 0)
TOKENS = [
    *(
        b"\0",
        b"\xff",
        b"\x1b[2J",
        b"%",
        b"\\",
        b'"',
        b"{",
        b"[",
        b"]",
        b"}",
        b":",
        b" ",
        b"\n",
        b"null",
        b"-1",
        b"1e999",
    ),
    *(b"sha256:", b"cima-", b"%2F", b"\\ud800", b"9" * 5000, b"[" * 3000, b"shake_128"),
]


def mutated(source: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randrange(1, 4)):
        at = source.randrange(len(changed) + 1)
        kind = source.randrange(4)
        if kind == 0:
            changed[at:at] = source.choice(TOKENS)
        elif kind == 1:
            del changed[at : at + source.randrange(1, 40)]
        elif kind == 2:
            changed[at : at + 1] = bytes([source.randrange(256)])
        else:
            changed[at:at] = changed[at : at + source.randrange(1, 80)]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["reference", "policy", "ascii", "binary", "failure", "log", "evidence", "key"])
def test_mutated_inputs_end_with_an_exit_code(
    kind: str, policy: str, web: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = good_node("kernel")
    event = {"type": "x.runtime_policy_hash", "context": {"got": "1" * 64, "expected": ["2" * 64]}}
    good: dict[str, bytes] = {
        "reference": json.dumps(reference_of(WEB, "web:1", WEB_FILES)).encode(),
        "policy": Path(policy).read_bytes(),
        "ascii": node.list.text.encode(),
        "binary": node.list.binary,
        "failure": json.dumps({"agent_id": "a", "results": {"failures": [event, event]}}).encode(),
        "log": f"w - File not found in allowlist: cima-exec:{WEB}:/x\n".encode(),
        "evidence": json.dumps(
            {
                **dict.fromkeys(("tpm_ek", "tpm_ak"), "YWJj"),
                "nonce": "n",
                "hash_alg": "sha256",
                "quote": f"r{base64.b64encode(ATTEST).decode()}:YQ==:YQ==",
                "ima_measurement_list": node.list.text,
            }
        ).encode(),
        "key": json.dumps(said_of(public())).encode(),
    }
    path = str(tmp_path / "hostile")
    commands = {
        "reference": [["policy", "add", policy, path]],
        "policy": [["policy", "show", path], ["policy", "merge", path, policy], ["policy", "add", path, web]],
        "ascii": [["explain", "--list", path, "--policy", policy], ["policy", "make", "--agent-list", path]],
        "binary": [["explain", "--list", path, "--policy", policy], ["policy", "make", "--agent-list", path]],
        "failure": [["explain", path, "--policy", policy]],
        "log": [["explain", path, "--policy", policy]],
        "key": [["key", path], ["key", path, "--fingerprint"], ["key", path, "--json"]],
        # Never sent anywhere: the quote has no PCR.
        "evidence": [["verify", "--verifier", "https://127.0.0.1:1", "--policy", policy, path]],
    }
    source = random.Random(kind)
    codes = set()
    for _ in range(ROUNDS):
        Path(path).write_bytes(mutated(source, good[kind]))
        for command in commands[kind]:
            codes.add(main(command))
            output = capsys.readouterr()
            assert (output.out + output.err).isascii()
            assert "\x1b" not in output.out + output.err
    assert codes <= {0, 1, 2}
    assert 2 in codes


@pytest.mark.parametrize(
    "text", ["[" * 100000, '{"results":' * 900 + "1" + "}" * 900, "1" * 5000, '{"a":' + "9" * 5000 + "}"]
)
def test_json_that_no_parser_likes_is_named(text: str, policy: str, write: Write) -> None:
    path = write("deep", text)
    commands = (["explain", path], ["policy", "show", path], ["policy", "add", policy, path])
    assert [main(command) for command in commands] == [2, 2, 2]
