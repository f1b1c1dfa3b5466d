# SPDX-License-Identifier: Apache-2.0
"""What a running Keylime makes of evidence from guests: real kernels, a software TPM each, containers of podman.

`CIMA_GUESTS` has the directories that the scenarios `attest-*` left (`tests/src/scenarios/attest.rs`), with colons between.
`cargo xtask test` sets it; without it nothing is judged here.
"""

from __future__ import annotations

import hashlib
import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from keylime.agentstates import AgentAttestState
from keylime.common.algorithms import Hash
from keylime.ima import ima
from keylime.ima.file_signatures import ImaKeyrings

from cima_keylime.cli import main
from verifier_process import Running

Captured = pytest.CaptureFixture[str]

GUESTS = [Path(directory) for directory in os.environ.get("CIMA_GUESTS", "").split(":") if directory]
#: Those of one sink each.
NODES = [guest for guest in GUESTS if not guest.parent.parent.name.endswith("-guide")]
DEBIAN, NEXT, TINY = ("localhost/debian:1", "localhost/debian:2", "localhost/tiny:1")

pytestmark = pytest.mark.skipif(not NODES, reason="CIMA_GUESTS names no guests")


def label(guest: Path) -> str:
    """`6.12-attest-kernel` of `…/runs/6.12-attest-kernel/out/attest`."""
    return guest.parent.parent.name


def sink(guest: Path) -> str:
    return label(guest).partition("-attest-")[2]


@pytest.fixture(params=NODES, ids=label)
def guest(request: pytest.FixtureRequest) -> Path:
    directory: Path = request.param
    return directory


def evidence(guest: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((guest / f"{name}.evidence.json").read_text())
    return found


def images(guest: Path, *names: str) -> list[str]:
    return [str(guest / f"{name}.reference.json") for name in names]


@pytest.fixture
def policy(guest: Path, tmp_path: Path) -> str:
    """Allows the host, and the image that is rolled out; the agent's parts are those of another boot, if there is one."""
    others = [other for other in NODES if sink(other) == sink(guest) and other != guest]
    trusted, host = tmp_path / "trusted.list", tmp_path / "host.json"
    trusted.write_text(evidence((others or [guest])[0], "good")["ima_measurement_list"])
    lines = evidence(guest, "good")["ima_measurement_list"].splitlines()
    names = {line.split(" ")[4]: line.split(" ")[3] for line in lines if " cima-" not in line}
    host.write_text(
        json.dumps(
            {
                "meta": {"version": 1, "generator": 0},
                "release": 0,
                "digests": {name: [digest.partition(":")[2]] for name, digest in names.items()},
                "excludes": [],
                "keyrings": {},
                "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
                "ima-buf": {},
                "verification-keys": "",
            }
        )
    )
    made = str(tmp_path / "policy.json")
    arguments = ["--base", str(host), "--agent-list", str(trusted), "--sink", sink(guest), "-o", made]
    assert main(["policy", "make", *images(guest, "debian"), *arguments]) == 0
    return made


def verdict(verifier: Running, policy: str, guest: Path, name: str) -> int:
    key = hashlib.sha256(b64decode(evidence(guest, name)["tpm_ak"])).hexdigest()
    arguments = [*verifier.arguments[:4], "--policy", policy, "--nonce", f"cima-{name}", "--ak-sha256", key]
    return main(["verify", *arguments, str(guest / f"{name}.evidence.json")])


@pytest.mark.parametrize("name", ["good", "stopped", "killed"])
def test_a_node_is_trusted_before_and_after_its_agent_is_started_again(
    verifier: Running, policy: str, guest: Path, name: str, capsys: Captured
) -> None:
    assert verdict(verifier, policy, guest, name) == 0, capsys.readouterr().out


def test_entries_that_come_during_quotes_are_no_false_alarm(
    verifier: Running, policy: str, guest: Path, capsys: Captured
) -> None:
    names = [path.name.partition(".")[0] for path in guest.glob("churn-*.evidence.json")]
    assert len(names) >= 5
    for name in names:
        assert verdict(verifier, policy, guest, name) == 0, f"{name}: {capsys.readouterr().out}"


def test_an_enrolled_agent_that_sends_what_is_new_is_accepted_each_time(policy: str, guest: Path) -> None:
    # As the verifier keeps an agent's state from one quote to the next, in its mode `pull`.
    state = AgentAttestState("d432fbb3-d2f1-4a97-9ef7-75bd81c00000")
    asked = len(list(guest.glob("churn-*.evidence.json")))
    increments = 0
    for number in range(asked):
        said = evidence(guest, f"churn-{number}")
        new = said["ima_measurement_list"].splitlines()[state.get_next_ima_ml_entry() :]
        increments += bool(new)
        # The value of the one PCR, where `tpm2_quote -F serialized` has it.
        pcr = b64decode(said["quote"].split(":")[2])[142:174].hex()
        _, failure = ima.process_measurement_list(
            state,
            [line + "\n" for line in new],
            json.loads(Path(policy).read_text()),
            pcrval=pcr,
            ima_keyrings=ImaKeyrings(),
            boot_aggregates=None,
            hash_alg=Hash.SHA256,
        )
        assert [event.event_id for event in failure.events] == [], number
    assert increments >= 5


def test_a_rollout_is_allowed_before_it_begins_and_the_old_image_withdrawn_after(
    verifier: Running, policy: str, guest: Path, capsys: Captured
) -> None:
    assert verdict(verifier, policy, guest, "rollout") == 1
    assert "was started, but is not in the policy" in capsys.readouterr().out
    assert main(["policy", "add", policy, *images(guest, "next"), "-o", policy]) == 0
    assert verdict(verifier, policy, guest, "rollout") == 0, capsys.readouterr().out
    old = json.loads(Path(images(guest, "debian")[0]).read_text())["image"]
    assert main(["policy", "remove", policy, old, "-o", policy]) == 0
    # It has run in this boot.
    capsys.readouterr()
    assert verdict(verifier, policy, guest, "rollout") == 1
    assert f"image {old} was started, but is not in the policy" in capsys.readouterr().out


def test_an_upgrade_of_the_agent_is_allowed_before_it_begins(
    verifier: Running, policy: str, guest: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["policy", "add", policy, *images(guest, "next"), "-o", policy]) == 0
    capsys.readouterr()
    assert verdict(verifier, policy, guest, "upgraded") == 1
    assert "the agent's config is another than in the policy" in capsys.readouterr().out
    upgraded = tmp_path / "upgraded.list"
    upgraded.write_text(evidence(guest, "upgraded")["ima_measurement_list"])
    arguments = ["--base", policy, "--agent-list", str(upgraded), "--sink", sink(guest), "-o", policy]
    assert main(["policy", "make", *arguments]) == 0
    assert verdict(verifier, policy, guest, "upgraded") == 0, capsys.readouterr().out


def test_what_is_in_no_reference_is_named(verifier: Running, policy: str, guest: Path, capsys: Captured) -> None:
    assert main(["policy", "add", policy, *images(guest, "next"), "-o", policy]) == 0
    said = []
    for name in ("changed", "unknown", "violation"):
        capsys.readouterr()
        assert verdict(verifier, policy, guest, name) == 1
        said.append(capsys.readouterr().out)
    changed, unknown, violation = said
    assert f"image {DEBIAN} (sha256:" in changed
    # As a file an entry has no content but its digest.
    content = "" if sink(guest) == "ima-file" else " (sha256:"
    assert f"executed /usr/bin/evil{content}" in changed
    assert "which is not in its reference" in changed
    assert f"executed /usr/bin/factor{content}" in changed
    assert "with another content than its reference has" in changed
    tiny = json.loads(Path(images(guest, "tiny")[0]).read_text())["image"]
    assert tiny not in changed
    assert f"image {tiny} was started, but is not in the policy" in unknown
    assert "unregistered" not in unknown
    assert "an unregistered container executed" in violation


def removed(lines: list[str]) -> list[str]:
    return lines[:3] + lines[4:]


def swapped(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def cut(lines: list[str]) -> list[str]:
    return lines[:-1]


@pytest.mark.parametrize("change", [removed, swapped, cut])
def test_a_list_that_was_changed_is_refused(
    change: Any, verifier: Running, policy: str, guest: Path, tmp_path: Path, capsys: Captured
) -> None:
    changed = evidence(guest, "good")
    lines = changed["ima_measurement_list"].splitlines()
    changed["ima_measurement_list"] = "".join(line + "\n" for line in change(lines))
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    arguments = [*verifier.arguments[:4], "--policy", policy, "--nonce", "cima-good", str(path)]
    assert main(["verify", *arguments]) == 1
    assert "the list does not give the value of PCR 10" in capsys.readouterr().out


def test_the_same_image_is_the_same_on_every_kernel_and_with_every_sink() -> None:
    references = {json.loads(Path(path).read_text())["image"] for guest in NODES for path in images(guest, "debian")}
    assert len(references) == 1
