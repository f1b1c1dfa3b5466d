# SPDX-License-Identifier: Apache-2.0
"""What Keylime says is said again in terms of containers, from each of the places where it says it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cima_keylime.cli import main
from conftest import DATABASE, WEB, Write, good_node
from encoder import as_file, sha

Captured = pytest.CaptureFixture[str]
WEB_NAMED = f"image localhost/web:1 ({WEB})"


def not_allowed(name: str) -> dict[str, Any]:
    return {
        "type": "ima.validation.ima-ng.not_in_allowlist",
        "context": {"message": f"File not found in allowlist: {name}"},
    }


def said(capsys: Captured, *arguments: str) -> list[str]:
    assert main(["explain", *arguments]) == 1
    return capsys.readouterr().out.splitlines()[:-1]


NAMES = [
    (f"cima-image:{DATABASE}", f"image {DATABASE} was started, but is not in the policy"),
    (f"cima-exec:{WEB}:/bin/evil", f"{WEB_NAMED} executed /bin/evil, which is not in its reference"),
    (f"cima-exec:{DATABASE}:/bin/x", f"image {DATABASE} is not in the policy, and executed /bin/x"),
    ("cima-exec:unregistered:/bin/x", "an unregistered container executed /bin/x, which no policy knows of"),
    (
        "cima-exec:unmeasured:/bin/x",
        "a container whose image could not be measured executed /bin/x, which no policy knows of",
    ),
    ("cima-agent:binary", "the agent's binary is not in the policy"),
    ("cima-sink:kernel", "the agent's sink kernel is not one that the policy is made for"),
    ("cima-ctx:7", "context events are not excluded: the policy lacks the exclude cima-ctx:[0-9]+$"),
    ("cima-new:7", "an entry of cima's of a kind that is not known here: new"),
    (
        f"cima-violation:mprotect:{WEB}:",
        f"violation mprotect in {WEB_NAMED}: a mapping of a file was made executable after it was made",
    ),
    (
        "cima-violation:loss:unregistered:",
        "violation loss: events were lost: what ran in the meantime is not known",
    ),
    (
        "cima-violation:unregistered:unregistered:/bin/x",
        "violation unregistered in an unregistered container: a program was executed, or was to be, in a container"
        " that no hook registered: /bin/x",
    ),
    ("/usr/bin/host", "the host's file /usr/bin/host is not in the policy"),
    ("selinux-state", "the host's entry selinux-state is not in the policy"),
    (f"cima-exec:{WEB}:/\ud800", rf"{WEB_NAMED} executed /\xed\xa0\x80, which is not in its reference"),
    (f"cima-exec:{WEB}:/a%0A%1B[2Jb%FF", f"{WEB_NAMED} executed /a\\n\\x1b[2Jb\\xff, which is not in its reference"),
]


@pytest.mark.parametrize(("name", "text"), NAMES)
def test_a_name_becomes_a_sentence(name: str, text: str, policy: str, write: Write, capsys: Captured) -> None:
    assert said(capsys, write("one.json", not_allowed(name)), "--policy", policy) == [text]
    if not name.startswith("/") and name.isascii():
        assert said(capsys, write("one.json", not_allowed(as_file(name))), "--policy", policy) == [text]


def test_without_a_policy_images_have_their_digests(write: Write, capsys: Captured) -> None:
    path = write("one.json", not_allowed(f"cima-exec:{WEB}:/bin/x"))
    assert said(capsys, path) == [f"image {WEB} executed /bin/x, which is not in its reference"]


EVENT = not_allowed(f"cima-exec:{WEB}:/bin/evil")
MESSAGE = {
    "type": "revocation",
    "ip": "10.0.0.7",
    "agent_id": "node7",
    "event_id": EVENT["type"],
    "severity_label": "emergency",
    "context": json.dumps(EVENT["context"]),
}
FORMS = {
    "event": EVENT,
    "events": [EVENT],
    "answer": {"code": 200, "status": "Success", "results": {"valid": False, "claims": {}, "failures": [EVENT]}},
    "results": {"failures": [EVENT]},
    "message": MESSAGE,
    "notification": {"msg": json.dumps(MESSAGE), "signature": ""},
    "log": "2026-11-28 04:46:07,737 - keylime.ima - WARNING - File not found in allowlist: "
    f"cima-exec:{WEB}:/bin/evil\n2026-11-28 04:46:07,738 - keylime.web - INFO - Sent 200 in 2ms\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_failure_is_read(form: str, policy: str, write: Write, capsys: Captured) -> None:
    node = "node node7: " if form in ("message", "notification") else ""
    expected = [f"{node}{WEB_NAMED} executed /bin/evil, which is not in its reference"]
    assert said(capsys, write("failure", FORMS[form]), "--policy", policy) == expected


def test_the_verifiers_log_tells_which_file_has_another_content(policy: str, write: Write, capsys: Captured) -> None:
    log = (
        f"x - keylime.ima - WARNING - Hashes for file cima-exec:{WEB}:/usr/bin/nginx don't match {'a' * 64} not in ['{'b' * 64}']\n"
        f"x - keylime.ima - ERROR - IMA measurement list does not match TPM PCR {'c' * 64}\n"
        "x - keylime.ima - ERROR - Line was not parsable into a valid IMA entry: 10 \x1b[2J\n"
        "x - keylime.ima - WARNING - IMA entry PCR does not match 10. It was: 13\n"
        "x - keylime.ima - WARNING - Skipped template_hash validation entry with FF_HASH\n"
    )
    texts = said(capsys, write("log", log), "--policy", policy)
    assert texts[0] == f"{WEB_NAMED} executed /usr/bin/nginx, with another content than its reference has"
    assert texts[1].startswith("the list does not give the value of PCR 10: ")
    assert texts[2] == r"a line of the list is no entry that Keylime can read: 10 \x1b[2J"
    assert texts[3].startswith("an entry extends another PCR than 10")
    assert texts[4].startswith("an entry is a violation of IMA's own")


def test_a_long_line_of_the_log_takes_no_long_time(write: Write) -> None:
    # A node may have made it: Keylime logs a line that it cannot read.
    start = time.process_time()
    assert main(["explain", write("log", "Hashes for file " * 60000 + "\n")]) == 2
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("event", "context", "text"),
    [
        ("ima.pcr_mismatch", {}, "the list does not give the value of PCR 10"),
        (
            "qoute_validation.quote_validation",
            {"error": "nonce"},
            "the quote is not that of this key with this nonce: nonce",
        ),
        ("measured_boot.invalid_pcr_4", {"message": "m"}, "measured boot: Keylime says measured_boot.invalid_pcr_4: m"),
        ("new.thing", "a text", "Keylime says new.thing: a text"),
        ("ima.validation.ima-ng.runtime_policy_hash", {"got": "ab", "expected": ["cd"]}, "an entry has another digest"),
        ("ima.validation.ima-ng.not_in_allowlist", {}, "an entry of the list is not in the policy"),
    ],
)
def test_what_has_no_name_is_explained(event: str, context: Any, text: str, write: Write, capsys: Captured) -> None:
    (line,) = said(capsys, write("e.json", {"event_id": event, "context": context}))
    assert line.startswith(text)


def test_an_agents_status_has_an_event_or_none(write: Write, capsys: Captured) -> None:
    status = {"code": 200, "results": {"operational_state": 9, "last_event_id": "ima.pcr_mismatch"}}
    assert said(capsys, write("status.json", status))[0].startswith("the list does not give")
    status["results"] = {"operational_state": 3, "last_event_id": None}
    assert main(["explain", write("status.json", status)]) == 0
    assert capsys.readouterr().out == "no failure\n"


@pytest.mark.parametrize(
    "refusal",
    [
        {"results": {"valid": False, "failures": []}},
        {"results": {"operational_state": 9, "last_event_id": None}},
        {"results": {"operational_state": None, "attestation_status": "TIMEOUT", "last_event_id": None}},
    ],
)
def test_a_refusal_without_a_reason_is_a_refusal(refusal: Any, write: Write, capsys: Captured) -> None:
    assert said(capsys, write("refusal.json", refusal)) == ["Keylime refuses, and gives no reason"]


def test_an_unknown_image_is_named_once(policy: str, write: Write, capsys: Captured) -> None:
    events = [not_allowed(f"cima-exec:{DATABASE}:/bin/{number}") for number in range(300)]
    assert said(capsys, write("e.json", events), "--policy", policy) == [
        f"image {DATABASE} is not in the policy, and executed /bin/0 (300 times)"
    ]


def test_digests_that_many_names_have_are_not_guessed_at(policy: str, write: Write, capsys: Captured) -> None:
    with open(policy) as file:
        changed = json.load(file)
    changed["ima-buf"]["a"] = changed["ima-buf"]["b"] = ["1" * 64]
    event = {"type": "x.runtime_policy_hash", "context": {"got": "2" * 64, "expected": ["1" * 64]}}
    (line,) = said(capsys, write("e.json", event), "--policy", write("changed.json", changed))
    assert line.startswith("an entry has another digest than the policy; the list")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing that Keylime says of a failure"),
        ("all is well\n", "nothing that Keylime says of a failure"),
        ("{", "nothing that Keylime says of a failure"),
        ("[7]", "an event is no JSON object"),
        ("{}", "a JSON object with none of the keys"),
        ('{"event_id": "x", "context": 7}', 'the "context" of an event is no object'),
        ('{"event_id": "x", "context": "{"}', "context: no JSON"),
        ('{"msg": "x"}', "msg: no JSON"),
    ],
)
def test_what_is_no_failure_is_named(text: str, message: str, write: Write, capsys: Captured) -> None:
    path = write("failure", text)
    assert main(["explain", path]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert message in error


# --- a list, judged without a verifier


@pytest.mark.parametrize("sink", ["kernel", "ima-file"])
def test_a_list_is_judged_as_keylime_does(sink: str, policy: str, write: Write, capsys: Captured) -> None:
    node = good_node(sink)
    node.execute(WEB, b"/tmp/miner", b"miner")
    node.execute(WEB, b"/usr/bin/nginx", b"nginx 2")
    node.execute(DATABASE, b"/bin/postgres", b"postgres 15")
    node.execute(DATABASE, b"/bin/psql", b"psql")
    node.list.file("/tmp/of the host's", b"x")
    path = write("list", node.list.text)
    assert main(["explain", "--list", path, "--policy", policy, "--node", "node7", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["entries"], found["others"], found["node"]) == (16, 3, "node7")
    content = f" (sha256:{sha(b'miner').hex()})" if sink == "kernel" else ""
    miner, nginx, database = found["findings"]
    assert miner["text"] == f"{WEB_NAMED} executed /tmp/miner{content}, which is not in its reference"
    assert (miner["image"], miner["path"], miner["entry"]) == (WEB, "/tmp/miner", 15)
    assert nginx["text"].endswith("with another content than its reference has")
    assert (database["image"], database["count"]) == (DATABASE, 2)


def test_what_keylime_does_not_look_at_is_found_in_a_list(policy: str, write: Write, capsys: Captured) -> None:
    node = good_node("kernel")
    node.list.buffer(f"cima-image:{WEB}", b"v1;image=x", digest=sha(f"v1;image={WEB}".encode()))
    node.list.violation(f"cima-exec:{WEB}:/x")
    changed = node.list.text.replace("cima-sink:kernel", "cima-sink:kernal")
    node.list.entry("ima-buf", sha(b"v1;sink=pcr"), "cima-sink:pcr", b"v1;sink=pcr", pcr=13)
    texts = said(capsys, "--list", write("list", node.list.text), "--policy", policy)
    assert texts[0] == f"forged: the entry cima-image:{WEB} does not have the digest of its payload"
    assert texts[1] == f"violation of IMA's own with a name of cima's, which no hash covers: cima-exec:{WEB}:/x"
    assert texts[2].startswith("PCR 13: an entry extends another PCR than 10")
    texts = said(capsys, "--list", write("list", changed), "--policy", policy)
    assert texts[0] == "forged: the entry cima-sink:kernal does not have its own template hash"


def test_a_failure_or_a_list_and_a_policy_are_needed(policy: str, capsys: Captured) -> None:
    for arguments in ([], ["--policy", policy], ["--list", "/dev/null"]):
        assert main(["explain", *arguments]) == 2
        assert "explain needs FAILURE, or --list and --policy" in capsys.readouterr().err
