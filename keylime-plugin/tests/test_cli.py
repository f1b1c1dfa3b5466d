# SPDX-License-Identifier: Apache-2.0
"""The command as a shell has it: help, exit codes, colour, pipes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cima_keylime.cli import main
from conftest import Write, good_node

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
