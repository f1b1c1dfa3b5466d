# SPDX-License-Identifier: Apache-2.0
"""Keylime itself, as a library, judges lists by the policies that are made here."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from keylime.agentstates import AgentAttestState
from keylime.common.algorithms import Hash
from keylime.ima import ima
from keylime.ima.file_signatures import ImaKeyrings

from cima_keylime.cli import main
from conftest import DATABASE, WEB, WEB_FILES, Write, good_node, reference_of
from encoder import MeasurementList, Node, sha

FORMS = [("kernel", "ima-ng"), ("kernel", "ima-sig"), ("ima-file", "ima-ng"), ("ima-file", "ima-sig")]
forms = pytest.mark.parametrize(("sink", "template"), FORMS)


def judge(policy_path: str, text: str, pcr: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Keylime's events: none if it accepts."""
    with open(policy_path) as file:
        policy = json.load(file)
    ima.validate_runtime_policy(policy)
    _, failure = ima.process_measurement_list(
        AgentAttestState("d432fbb3-d2f1-4a97-9ef7-75bd81c00000"),
        text.split("\n"),
        copy.deepcopy(policy),
        pcrval=pcr.hex(),
        ima_keyrings=ImaKeyrings(),
        boot_aggregates=None,
        hash_alg=Hash.SHA256,
    )
    return [(event.event_id, json.loads(event.context)) for event in failure.events]


def judge_node(policy: str, node: Node) -> list[str]:
    return [event for event, _ in judge(policy, node.list.text, node.list.pcr)]


NOT_ALLOWED = "ima.validation.ima-ng.not_in_allowlist"
OTHER_HASH = "ima.validation.ima-ng.runtime_policy_hash"


@forms
def test_a_node_that_runs_what_was_published_is_accepted(policy: str, sink: str, template: str) -> None:
    assert judge_node(policy, good_node(sink, template)) == []


@forms
def test_an_unknown_image_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.admit(DATABASE)
    assert judge_node(policy, node) == [NOT_ALLOWED]


@forms
def test_a_changed_executable_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.execute(WEB, b"/usr/bin/nginx", b"nginx, with a door in it")
    assert judge_node(policy, node) == [OTHER_HASH]


@forms
def test_an_executable_that_the_image_does_not_have_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.execute(WEB, b"/tmp/miner", b"miner")
    assert judge_node(policy, node) == [NOT_ALLOWED]


@forms
def test_the_same_file_in_an_unregistered_container_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.execute("unregistered", b"/usr/bin/nginx", b"nginx 1")
    node.execute("unmeasured", b"/usr/bin/nginx", b"nginx 1")
    assert judge_node(policy, node) == [NOT_ALLOWED, NOT_ALLOWED]


@forms
def test_a_violation_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.say(f"cima-violation:writer:{WEB}:/usr/bin/nginx", b"v1;writer;mapped")
    node.say("cima-violation:loss:unregistered:", b"v1;loss;cause=map-ring-full;count=3;at=7")
    assert judge_node(policy, node) == [NOT_ALLOWED, NOT_ALLOWED]


@forms
def test_another_agent_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.say("cima-agent:binary", f"v1;sha256:{sha(b'another').hex()}".encode())
    assert judge_node(policy, node) == [OTHER_HASH]


@forms
def test_a_truncated_list_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    text = "".join(line.text + "\n" for line in node.list.lines[:-1])
    assert [event for event, _ in judge(policy, text, node.list.pcr)] == ["ima.pcr_mismatch"]


@forms
def test_a_reordered_list_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    pcr = node.list.pcr
    lines = node.list.lines
    lines[-1], lines[-2] = lines[-2], lines[-1]
    assert [event for event, _ in judge(policy, node.list.text, pcr)] == ["ima.pcr_mismatch"]


@forms
def test_a_list_with_an_entry_removed_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    node.execute(WEB, b"/tmp/miner", b"miner")
    pcr = node.list.pcr
    del node.list.lines[-1]
    assert [event for event, _ in judge(policy, node.list.text, pcr)] == ["ima.pcr_mismatch"]


@forms
def test_a_line_that_was_changed_is_refused(policy: str, sink: str, template: str) -> None:
    node = good_node(sink, template)
    text = node.list.text.replace(sha(b"bash of the host").hex(), sha(b"another").hex())
    events = [event for event, _ in judge(policy, text, node.list.pcr)]
    assert events == ["ima.validation.ima_hash", "ima.pcr_mismatch"]


def test_a_forged_payload_with_the_right_digest_is_accepted_and_only_found_here(policy: str, write: Write) -> None:
    # Keylime never compares d-ng of an ima-buf entry with its payload. The kernel makes no such entry: root of
    # the node can, by extending PCR 10 itself. `cima verify` and `cima-keylime explain --list` refuse it.
    node = good_node("kernel")
    payload = f"v1;image={WEB}".encode()
    node.list.buffer(f"cima-image:{WEB}", b"v1;image=sha256:" + b"0" * 64, digest=sha(payload))
    assert judge_node(policy, node) == []
    assert main(["explain", "--list", write("list", node.list.text), "--policy", policy]) == 1


@pytest.mark.parametrize(("option", "events"), [(False, []), (True, ["ima.validation.tomtou"])])
def test_a_violation_of_imas_own_passes_by_default_and_is_only_found_here(
    option: bool, events: list[str], policy: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No hash covers the name of such an entry. `ignore_tomtou_errors` is False in Keylime's templates, to treat them
    # as errors; it does the reverse (`Entry.invalid`, keylime/ima/ast.py).
    monkeypatch.setattr("keylime.ima.ast.config.getboolean", lambda *_, **__: option)
    node = good_node("ima-file")
    node.list.violation(f"cima-image:{WEB}")
    assert judge_node(policy, node) == events
    assert main(["explain", "--list", write("list", node.list.text), "--policy", policy]) == 1


def test_excludes_that_do_not_compile_are_all_ignored_by_keylime_and_refused_here(policy: str, write: Write) -> None:
    with open(policy) as file:
        changed = json.load(file)
    changed["excludes"].append("/tmp/(")
    path = write("changed.json", changed)
    assert judge_node(path, good_node("kernel")) == [NOT_ALLOWED, NOT_ALLOWED]
    assert main(["policy", "merge", path]) == 2


def test_entries_of_a_pcr_of_cimas_own_are_refused(policy: str) -> None:
    node = good_node("kernel")
    node.list.entry("ima-buf", sha(b"v1;sink=pcr"), "cima-sink:pcr", b"v1;sink=pcr", pcr=13)
    assert judge_node(policy, node) == ["ima.validation.ima_pcr", NOT_ALLOWED]


def test_a_context_event_that_is_not_a_number_is_not_excluded(policy: str) -> None:
    for name in ("cima-ctx:", "cima-ctx:1x", "cima-ctx:1:/bin/x", "cima-ctx:1%0A"):
        node = good_node("kernel")
        node.say(name, b"v1;x")
        assert judge_node(policy, node) == [NOT_ALLOWED], name


def test_a_policy_for_one_sink_refuses_the_other(web: str, host: str, write: Write, tmp_path: Path) -> None:
    trusted = write("trusted", Node("kernel").list.text)
    made = str(tmp_path / "made.json")
    for sink, other in (("kernel", "ima-file"), ("ima-file", "kernel")):
        main(["policy", "make", web, "--base", host, "--agent-list", trusted, "--sink", sink, "-o", made])
        assert judge_node(made, good_node(sink)) == []
        assert NOT_ALLOWED in judge_node(made, good_node(other))


@pytest.mark.parametrize("sink", ["kernel", "ima-file"])
def test_ten_thousand_entries_are_no_false_alarm_and_hide_nothing(
    policy: str, write: Write, tmp_path: Path, sink: str
) -> None:
    files = {f"/usr/lib/module{number}.so".encode(): b"%d" % number for number in range(9000)}
    large = write("large.json", reference_of(DATABASE, "localhost/large:1", files))
    made = str(tmp_path / "large.policy.json")
    assert main(["policy", "add", policy, large, "-o", made]) == 0
    node = good_node(sink)
    node.admit(DATABASE)
    for number, (path, content) in enumerate(files.items()):
        node.execute(DATABASE, path, content)
        if number % 9 == 0:
            node.say(f"cima-ctx:{number // 9 + 2}", b"v1;\x0a\x02ho")
    assert node.list.text.count("\n") >= 10000
    assert judge_node(made, node) == []
    node.execute(DATABASE, b"/usr/lib/module9000.so", b"9000")
    assert judge_node(made, node) == [NOT_ALLOWED]


def test_a_rollout_allows_the_old_and_the_new_and_then_only_the_new(policy: str, database: str) -> None:
    old = good_node("kernel")
    new = Node("kernel")
    new.admit(DATABASE)
    new.execute(DATABASE, b"/bin/postgres", b"postgres 15")
    assert judge_node(policy, new) == [NOT_ALLOWED, NOT_ALLOWED]
    assert main(["policy", "add", policy, database, "-o", policy]) == 0
    assert (judge_node(policy, old), judge_node(policy, new)) == ([], [])
    assert main(["policy", "remove", policy, "localhost/web:1", "-o", policy]) == 0
    assert judge_node(policy, old) == [NOT_ALLOWED] * (1 + len(WEB_FILES))
    assert judge_node(policy, new) == []


@pytest.mark.parametrize("sink", ["kernel", "ima-file"])
def test_a_host_policy_that_keylimes_tool_made_of_a_nodes_list_is_stripped_of_cima(
    web: str, tmp_path: Path, write: Write, sink: str
) -> None:
    node = good_node(sink)
    node.execute(WEB, b"/tmp/miner", b"miner")
    node.say(f"cima-violation:writer:{WEB}:/bin/x", b"v1;writer;mapped")
    listed, base, made = write("node.list", node.list.text), str(tmp_path / "base.json"), str(tmp_path / "made.json")
    tool = str(Path(sys.executable).with_name("keylime-policy"))
    subprocess.run(
        [tool, "create", "runtime", "--ima-measurement-list", listed, "--ima-buf", "-o", base], check=True, timeout=60
    )
    # What a node did is no policy: it has the violations, too.
    assert main(["policy", "make", web, "--base", base, "-o", made]) == 2
    assert main(["policy", "make", web, "--base", base, "--drop-cima", "--agent-list", listed, "-o", made]) == 0
    assert judge_node(made, good_node(sink)) == []
    assert judge_node(made, node) == [NOT_ALLOWED, NOT_ALLOWED]


def test_what_keylime_says_is_explained(policy: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    node = good_node("kernel")
    node.execute(WEB, b"/usr/bin/nginx", b"nginx, with a door in it")
    node.execute(WEB, b"/tmp/miner", b"miner")
    events = judge(policy, node.list.text, node.list.pcr)
    answer = write("answer.json", {"results": {"failures": [{"type": e, "context": c} for e, c in events]}})
    assert main(["explain", answer, "--policy", policy, "--node", "node7"]) == 1
    said = capsys.readouterr().out
    assert f"node node7: image localhost/web:1 ({WEB}) executed /usr/bin/nginx, with another content" in said
    assert f"node node7: image localhost/web:1 ({WEB}) executed /tmp/miner, which is not in its reference" in said
    assert main(["explain", answer, "--policy", policy, "--list", write("list", node.list.text)]) == 1
    said = capsys.readouterr().out
    assert f"executed /usr/bin/nginx (sha256:{sha(b'nginx, with a door in it').hex()})" in said
    assert f"executed /tmp/miner (sha256:{sha(b'miner').hex()})" in said


def test_the_encoder_makes_lines_that_a_kernel_made() -> None:
    made = MeasurementList()
    line = made.entry(
        "ima-buf",
        bytes.fromhex("46798a49cf757f96034a040144d4dc256f3568a2d7408e1353c6fe3205b8d91a"),
        "container",
        bytes.fromhex(
            "02bcda52c1a5dfc236f94d9e5255b4a0e26347d8a372a5223b650e31f291ce3c0100000000000000010000f000000000"
        ),
    )
    assert line.text.startswith("10 461cdd889acc0a3978c36968b62c43568a393a98 ima-buf sha256:46798a49")
    line = made.entry(
        "ima-ng", bytes.fromhex("d3f7d10e296e5c626ea78539cb38cd8dffd043bea3627da35ce3b20c0ac68014"), "/hello"
    )
    assert line.text.startswith("10 5c4f7bddfc3988228ca9d50629d524b4dacb1454 ima-ng ")
