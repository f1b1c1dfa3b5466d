# SPDX-License-Identifier: Apache-2.0
"""`docs/KEYLIME.md`, as far as the operator has commands in it: each is run with a real verifier, on what a guest left.

The guest has run those of publishers and nodes before (`tests/src/scenarios/guide.rs`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_guests import GUESTS, label
from verifier_process import Running

GUIDE = Path(__file__).parents[2] / "docs" / "KEYLIME.md"
GUESTS_OF_GUIDE = [guest for guest in GUESTS if label(guest).endswith("-guide")]
#: The scenario's.
NONCE = "5f1c08a9"


def blocks() -> list[tuple[str, str]]:
    """Kind and text of each."""
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not GUESTS_OF_GUIDE, reason="CIMA_GUESTS names no guest that has followed the guide")
def test_every_command_of_the_operator_does_what_the_guide_says(verifier: Running, tmp_path: Path) -> None:
    directory = tmp_path / "operator"
    shutil.copytree(GUESTS_OF_GUIDE[0], directory)
    url, ca, certificate, key = verifier.arguments[1::2]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VERIFIER": url,
        "CA": ca,
        "CERT": certificate,
        "KEY": key,
        "NONCE": NONCE,
    }
    told, ran = "", 0
    for kind, text in blocks():
        if kind == "said":
            pattern = ".*".join(re.escape(part) for part in text.split("…"))
            assert re.fullmatch(pattern, told), told
        if not kind.startswith("sh operator"):
            continue
        done = subprocess.run(
            ["sh", "-e", "-c", text], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == (1 if kind.endswith("refused") else 0), f"{text}\n{done.stdout}{done.stderr}"
        told, ran = done.stdout, ran + 1
    assert ran >= 5
