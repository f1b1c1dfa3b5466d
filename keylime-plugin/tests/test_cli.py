# SPDX-License-Identifier: Apache-2.0
"""The command as a shell has it: help, exit codes, colour, pipes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cima_keylime.cli import main
from conftest import WEB, Write, good_node
from test_key import public, said_of

COMMAND = str(Path(sys.executable).with_name("cima-keylime"))
COMMANDS = [
    ["policy", "make"],
    ["policy", "merge"],
    ["policy", "add"],
    ["policy", "remove"],
    ["policy", "show"],
    ["push"],
    ["key"],
    ["verify"],
    ["explain"],
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples_and_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "Examples:\n  " in text
    assert "Exit codes: 0 " in text


@pytest.mark.parametrize("arguments", [[], ["policy"], ["nothing"], ["push"], ["policy", "show", "p", "--js"]])
def test_usage_errors_are_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2


def test_the_installed_command_says_its_version() -> None:
    assert run("--version").stdout.startswith("cima-keylime 0.")
    module = subprocess.run(
        [sys.executable, "-m", "cima_keylime", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == run("--version").stdout


def test_a_reader_that_goes_away_is_no_error(policy: str) -> None:
    shell = f"set -o pipefail; {COMMAND} policy merge {policy} {policy} | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_verdict_stands_though_its_reader_went_away(policy: str, write: Write) -> None:
    node = good_node("kernel")
    node.execute(WEB, b"/tmp/miner", b"miner")
    bad = write("bad.json", {**json.loads(Path(policy).read_text()), "excludes": [".*"]})
    key = write("key.json", {**said_of(public()), "ak_sha256": "00"})
    near, far = os.pipe()
    os.close(near)
    for arguments in (
        ["explain", "--list", write("list", node.list.text), "--policy", policy],
        ["policy", "show", bad],
        ["key", key, "--json"],
    ):
        done = subprocess.run([COMMAND, *arguments], stdout=far, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, ""), arguments
    os.close(far)


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("> /dev/full", "error: standard output: No space left on device\n"),
        (">&-", "error: standard output is closed\n"),
        ("- <&-", "error: standard input is closed\n"),
    ],
)
def test_streams_that_cannot_be_used_are_named(policy: str, redirection: str, said: str) -> None:
    shell = f"{COMMAND} policy merge {policy} {redirection}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(
    policy: str, write: Write, environment: dict[str, str], coloured: bool
) -> None:
    arguments = [COMMAND, "explain", "--list", write("list", good_node("kernel").list.text), "--policy", policy]
    plain = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "\x1b" not in plain.stdout
    base = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    near, far = pty.openpty()
    subprocess.run(arguments, stdout=far, check=True, env={**base, "TERM": "xterm", **environment})
    os.close(far)
    text = os.read(near, 65536).decode()
    os.close(near)
    assert ("\x1b[32m" in text) == coloured
