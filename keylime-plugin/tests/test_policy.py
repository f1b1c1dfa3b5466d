# SPDX-License-Identifier: Apache-2.0
"""Policies are made, joined and changed, and none lets a violation pass."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cima_keylime.cli import main
from conftest import DATABASE, HOST, WEB, WEB_FILES, Write, good_node, reference_of
from encoder import Node, as_file, escaped, sha

Captured = pytest.CaptureFixture[str]


def load(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(path).read_text())
    return loaded


def made(capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert main(["policy", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# --- make


def test_a_policy_has_every_executable_in_both_forms(policy: str) -> None:
    found = load(policy)
    for path, content in WEB_FILES.items():
        name = f"cima-exec:{WEB}:{escaped(path)}"
        digest = sha(f"v1;sha256:{sha(content).hex()}".encode()).hex()
        assert found["ima-buf"][name] == [digest]
        assert found["digests"][as_file(name)] == [digest]
    image = sha(f"v1;image={WEB}".encode()).hex()
    assert found["ima-buf"][f"cima-image:{WEB}"] == found["digests"][f"cima-image:{WEB}"] == [image]
    assert found["ima-buf"]["cima-sink:kernel"] == [sha(b"v1;sink=kernel").hex()]
    assert found["digests"]["cima-sink:ima-file"] == [sha(b"v1;sink=ima-file").hex()]
    assert "cima-sink:ima-file" not in found["ima-buf"]
    assert found["excludes"] == ["/tmp/.*", "cima-ctx:[0-9]+$"]


def test_the_hosts_policy_stays_as_it_is(policy: str) -> None:
    found = load(policy)
    for key in ("digests", "ima-buf", "keyrings"):
        host = {name: digests for name, digests in found[key].items() if not name.startswith("cima-")}
        assert host == HOST[key]
    assert found["ima"] == HOST["ima"]
    assert found["meta"]["cima"]["images"] == {WEB: {"name": "localhost/web:1", "platform": "linux/amd64"}}


@pytest.mark.parametrize(
    ("sink", "has", "lacks"), [("kernel", "ima-buf", "digests"), ("ima-file", "digests", "ima-buf")]
)
def test_a_policy_for_one_sink_has_no_entry_of_the_other(
    web: str, capsys: Captured, sink: str, has: str, lacks: str
) -> None:
    found = made(capsys, "make", web, "--sink", sink)
    assert len(found[has]) == 2 + len(WEB_FILES)
    assert found[lacks] == {}


def test_the_same_inputs_make_the_same_bytes(web: str, database: str, host: str, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        assert main(["policy", "make", web, database, "--base", host, "-o", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes().isascii()


def test_parts_of_the_agent_come_from_files_digests_and_lists(web: str, write: Write, capsys: Captured) -> None:
    binary = write("cimad", "the binary")
    listed = write("node.list", Node("ima-file").list.text)
    arguments = ["--agent", f"binary={binary}", "--agent", f"admission=sha256:{'a' * 64}", "--agent-list", listed]
    found = made(capsys, "make", web, *arguments, "--sink", "kernel")["ima-buf"]
    digests = [sha(f"v1;sha256:{sha(content).hex()}".encode()).hex() for content in (b"the binary", b"binary")]
    assert found["cima-agent:binary"] == digests
    assert found["cima-agent:admission"][0] == sha(f"v1;sha256:{'a' * 64}".encode()).hex()
    assert len(found["cima-agent:admission"]) == 2


def test_without_parts_of_the_agent_there_is_a_warning(web: str, capsys: Captured) -> None:
    assert main(["policy", "make", web]) == 0
    assert "warning: no part of the agent is allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agent", "binary"], '--agent "binary": not PART=FILE'),
        (["--agent", "other=x"], '--agent "other=x": not PART=FILE'),
        (["--agent", "binary=/nowhere"], "/nowhere: No such file or directory"),
        (["--agent", "admission=/etc/passwd"], "is not that of a file"),
        (["--agent-list", "/nowhere"], "/nowhere: No such file or directory"),
        (["--base", "/"], "/: Is a directory"),
        (["-o", "/nowhere/policy.json"], "/nowhere/policy.json: No such file or directory"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: list[str], said: str, web: str, capsys: Captured) -> None:
    assert main(["policy", "make", web, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_lists_that_say_nothing_of_the_agent_are_refused(web: str, write: Write, capsys: Captured) -> None:
    node = Node("kernel")
    forged = node.list.text.replace(b"v1;sha256".hex(), b"v1;sha257".hex())
    for text, said in ((forged, "is not consistent with itself"), ("", "no entry of the agent's in it")):
        assert main(["policy", "make", web, "--agent-list", write("node.list", text)]) == 2
        assert said in capsys.readouterr().err


# --- violations never pass


VIOLATION = f"cima-violation:writer:{WEB}:/x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ima-buf": {VIOLATION: ["0" * 64]}}, f'"ima-buf" allows violations, which no policy may: "{VIOLATION}"'),
        ({"digests": {as_file(VIOLATION): ["0" * 64]}}, '"digests" allows violations'),
        ({"excludes": ["cima-"]}, 'the exclude "cima-" would'),
        ({"excludes": ["/tmp/.*", "cima-v.*miner"]}, 'the exclude "cima-v.*miner" would have Keylime pass over'),
        ({"excludes": [f"cima-violation:writer:{DATABASE}"]}, "would have Keylime pass over"),
        ({"excludes": [r"^cima\-exec:sha256:"]}, "would have Keylime pass over"),
        ({"excludes": ["cima-exec:unregistered:.*"]}, "would have Keylime pass over"),
        ({"excludes": ["cima-exec:unregistered:/.*"]}, "would have Keylime pass over"),
        ({"excludes": ["cima-exec:unregistered:/usr|.*"]}, "would have Keylime pass over"),
        ({"excludes": ["cima-ctx:[0-9]+"]}, "would have Keylime pass over"),
    ],
)
@pytest.mark.parametrize("command", ["make", "merge", "merge-second", "add", "show"])
def test_a_policy_that_lets_violations_pass_is_refused(
    change: dict[str, Any], said: str, command: str, web: str, host: str, write: Write, capsys: Captured
) -> None:
    bad = write("bad.json", {**HOST, **change})
    arguments = {
        "make": ["make", web, "--base", bad],
        "merge": ["merge", bad, host],
        "merge-second": ["merge", host, bad],
        "add": ["add", bad, web],
        "show": ["show", bad],
    }[command]
    assert main(["policy", *arguments]) == (1 if command == "show" else 2)
    output = "".join(capsys.readouterr())
    assert "bad.json: " in output
    assert said in output


def test_an_operator_may_let_unregistered_containers_pass(web: str, write: Write, capsys: Captured) -> None:
    base = write("base.json", {**HOST, "excludes": ["cima-exec:unregistered:%2Fusr%2Fbin%2Fbwrap"]})
    assert made(capsys, "make", web, "--base", base)["excludes"][0].startswith("cima-exec:unregistered:")


# --- what is no policy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"meta": {"version": 2, "generator": 2}}, "a runtime policy of version 2, and only 1 is known here"),
        ({"meta": {"version": 1}}, '"meta.generator" is none that Keylime knows'),
        ({"meta": None}, '"meta" has no version'),
        ({"release": "1"}, '"release" is no number'),
        ({"digests": []}, '"digests" is no object'),
        ({"digests": {"/x": []}}, '"digests": "/x" has no list of digests'),
        ({"digests": {"/\x1b[2J": ["x"]}}, r'"/\x1b[2J": "x" is no digest'),
        ({"keyrings": {".ima": [7]}}, '"keyrings": ".ima": "7" is no digest'),
        ({"excludes": "x"}, '"excludes" is no list of texts'),
        ({"excludes": ["("]}, 'the exclude "(" is no regular expression'),
        ({"excludes": ["(?i)a", "b(?i)"]}, "is no regular expression"),
        ({"ima": {"ignored_keyrings": []}}, '"ima.log_hash_alg" is none of sha1'),
        ({"ima": {**HOST["ima"], "dm_policy": {}}}, '"ima.dm_policy" is not null'),
        ({"ima": []}, '"ima.ignored_keyrings" is no list of texts'),
        ({"verification-keys": None}, '"verification-keys" is no text'),
        ({"meta": {**HOST["meta"], "cima": {"version": 2}}}, '"meta.cima" is of a version that is not known here'),
        ({"meta": {**HOST["meta"], "cima": {"version": 1, "images": []}}}, '"meta.cima.images" is no object'),
        ({"payload": "e30=", "payloadType": "x"}, "a signed policy (DSSE)"),
    ],
)
def test_what_is_wrong_in_a_policy_is_named(change: dict[str, Any], said: str, write: Write, capsys: Captured) -> None:
    path = write("policy.json", {**HOST, **change})
    assert main(["policy", "show", path]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert said in error


@pytest.mark.parametrize("key", HOST)
def test_a_key_that_is_missing_is_named(key: str, write: Write, capsys: Captured) -> None:
    assert main(["policy", "show", write("p", {k: v for k, v in HOST.items() if k != key})]) == 2
    assert f'"{key}"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sha256:ab /bin/x\n", "an allowlist of old is converted by"),
        ('{"meta": 1, "meta": 2}', 'the key "meta" is there twice'),
        ("{", "no JSON: line 1"),
        ("[]", "no JSON object"),
    ],
)
def test_what_is_no_policy_is_named(text: str, said: str, write: Write, capsys: Captured) -> None:
    assert main(["policy", "show", write("p", text)]) == 2
    assert said in capsys.readouterr().err


def test_bytes_that_are_no_text_are_named(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "p").write_bytes(b'{"\xff')
    assert main(["policy", "show", str(tmp_path / "p")]) == 2
    assert "p: byte 2 is not UTF-8" in capsys.readouterr().err


# --- merge


def test_a_merge_allows_what_either_does(policy: str, database: str, write: Write, capsys: Captured) -> None:
    other = copy.deepcopy(HOST)
    other["digests"] = {"/usr/bin/bash": ["1" * 64], "/usr/bin/zsh": ["2" * 64]}
    other["ima-buf"] = {"kernel_version": ["3" * 64]}
    other["excludes"] = ["/var/.*"]
    other["keyrings"] = {".ima": ["4" * 64]}
    other["release"] = 3
    other["ima"] = {**HOST["ima"], "ignored_keyrings": [".evm"]}
    second = write("second.json", other)
    third = write("third.json", made(capsys, "make", database))
    found = made(capsys, "merge", policy, second, third)
    assert found["digests"]["/usr/bin/bash"] == [sha(b"bash of the host").hex(), "1" * 64]
    assert found["digests"]["/usr/bin/zsh"] == ["2" * 64]
    assert found["ima-buf"]["kernel_version"] == [sha(b"6.12").hex(), "3" * 64]
    assert found["excludes"] == ["/tmp/.*", "cima-ctx:[0-9]+$", "/var/.*"]
    assert found["keyrings"] == {".ima": ["4" * 64]}
    assert (found["release"], found["ima"]["ignored_keyrings"]) == (3, [".evm"])
    assert set(found["meta"]["cima"]["images"]) == {WEB, DATABASE}
    # The same again changes nothing.
    again = write("again.json", found)
    assert made(capsys, "merge", again, again) == found


def test_what_is_others_in_a_policy_is_not_lost_by_a_merge(write: Write, capsys: Captured) -> None:
    first, second = copy.deepcopy(HOST), copy.deepcopy(HOST)
    second["signed-by"] = "somebody"
    second["meta"]["note"] = {"kept": True}
    second["ima"]["later"] = [1]
    found = made(capsys, "merge", write("first.json", first), write("second.json", second), write("f.json", first))
    assert (found["signed-by"], found["meta"]["note"], found["ima"]["later"]) == ("somebody", {"kept": True}, [1])


def test_no_other_content_is_slipped_into_an_image(web: str, policy: str, write: Write, capsys: Captured) -> None:
    # An image's digest is over all of its files.
    files = {**WEB_FILES, b"/usr/bin/nginx": b"nginx, with a door in it"}
    evil = write("evil.json", reference_of(WEB, "localhost/web:1", files))
    other = write("other.json", made(capsys, "make", evil))
    listed = write("listed.json", {**HOST, "ima-buf": {f"cima-image:{WEB}": ["0" * 64]}})
    said = f'"cima-exec:{WEB}:/usr/bin/nginx" has another digest than in the policy: not both are of this image'
    for arguments, source in (
        (["add", policy, evil], "evil.json"),
        (["make", web, evil], "evil.json"),
        (["merge", policy, other], "other.json"),
        (["make", web, "--base", listed], "web.json"),
    ):
        assert main(["policy", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert f"{source}: " in error
        assert (said if source != "web.json" else f'"cima-image:{WEB}" has another digest') in error
    assert made(capsys, "add", policy, web) == load(policy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ima": {**HOST["ima"], "log_hash_alg": "sha256"}}, '"ima.log_hash_alg" is another'),
        ({"meta": {**HOST["meta"], "note": "b"}}, '"meta.note" is another'),
        ({"others": 2}, '"others" is another'),
        ({"verification-keys": '{"b": 1}'}, '"verification-keys" are others'),
        ({"excludes": ["(?P<a>x)"]}, "is no regular expression"),
    ],
)
def test_what_cannot_be_joined_is_named(change: dict[str, Any], said: str, write: Write, capsys: Captured) -> None:
    theirs = {"others": 1, "meta": {**HOST["meta"], "note": "a"}}
    first = write("first.json", {**HOST, **theirs, "verification-keys": '{"a": 1}', "excludes": ["(?P<a>y)"]})
    second = write("second.json", {**HOST, **change})
    assert main(["policy", "merge", first, second]) == 2
    error = capsys.readouterr().err
    assert "second.json: " in error
    assert said in error


# --- add, remove, show


def test_what_was_added_and_removed_again_leaves_no_trace(
    policy: str, database: str, tmp_path: Path, capsys: Captured
) -> None:
    before = load(policy)
    added = str(tmp_path / "added.json")
    assert main(["policy", "add", policy, database, "-o", added]) == 0
    assert len(load(added)["meta"]["cima"]["images"]) == 2
    for wanted in ("localhost/database:15", DATABASE, DATABASE[7:15], DATABASE[:20]):
        assert made(capsys, "remove", added, wanted) == before


def test_an_added_image_has_the_sinks_of_the_others(web: str, database: str, write: Write, capsys: Captured) -> None:
    one = write("one.json", made(capsys, "make", web, "--sink", "ima-file"))
    assert made(capsys, "add", one, database)["ima-buf"] == {}
    assert f"cima-image:{DATABASE}" in made(capsys, "add", one, database, "--sink", "kernel")["ima-buf"]


def test_removing_leaves_what_is_others(policy: str, write: Write, capsys: Captured) -> None:
    changed = load(policy)
    changed["ima-buf"]["kexec-cmdline"] = ["0" * 64]
    changed["ima-buf"][f"cima-exec:unregistered:/{WEB}"] = ["0" * 64]
    changed["meta"]["note"] = "kept"
    changed["others"] = {"kept": True}
    found = made(capsys, "remove", write("changed.json", changed), WEB)
    assert found["meta"]["note"] == "kept"
    assert found["others"] == {"kept": True}
    assert set(found["ima-buf"]) == {
        "kernel_version",
        "cima-sink:kernel",
        "kexec-cmdline",
        f"cima-exec:unregistered:/{WEB}",
    } | {f"cima-agent:{part}" for part in ("binary", "probes", "config", "policy", "admission")}


def test_an_image_that_is_not_there_or_not_the_only_one_is_named(policy: str, write: Write, capsys: Captured) -> None:
    for wanted in ("none", "sha256:", "1b1b1b1", WEB[:-1] + "x"):
        assert main(["policy", "remove", policy, wanted]) == 2
        assert f'no image "{wanted}" in it' in capsys.readouterr().err
    image = "sha256:" + "2" * 64
    newer = write("newer.json", reference_of(image, "localhost/web:1", {b"/x": b""}))
    assert main(["policy", "add", policy, newer, "-o", policy]) == 0
    assert main(["policy", "remove", policy, "localhost/web:1"]) == 2
    assert '"localhost/web:1" may mean 2 images; give the digest of one' in capsys.readouterr().err
    # An image may be named like the beginning of another's digest.
    named = write("named.json", reference_of("sha256:" + "3" * 64, WEB[7:15], {b"/x": b""}))
    assert main(["policy", "add", policy, named, "-o", policy]) == 0
    assert main(["policy", "remove", policy, WEB[7:15]]) == 2
    assert f'"{WEB[7:15]}" may mean 2 images' in capsys.readouterr().err


def test_what_is_no_digest_of_an_image_is_none(policy: str, write: Write, capsys: Captured) -> None:
    changed = load(policy)
    for name in (
        "cima-image:sha256:1b",
        "cima-exec:sha256:1b:/x",
        "cima-image:sha256:\x1b[2J",
        "cima-exec:unregistered:/x",
    ):
        changed["ima-buf"][name] = ["0" * 64]
    path = write("changed.json", changed)
    # The beginning of a digest is not taken for all of it.
    assert main(["policy", "remove", path, "sha256:1b"]) == 2
    assert 'no image "sha256:1b" in it' in capsys.readouterr().err
    assert main(["policy", "show", path]) == 0
    *_, summary, first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert summary.startswith("1 images; ")
    assert (first, second) == ("also allowed: cima-exec:sha256:1b:/x", "also allowed: cima-exec:unregistered:/x")
    assert (third, fourth) == (r"also allowed: cima-image:sha256:\x1b[2J", "also allowed: cima-image:sha256:1b")


@pytest.mark.parametrize("sink", ["kernel", "ima-file", "pcr"])
def test_show_names_the_sink_that_a_policy_is_for(web: str, write: Write, sink: str, capsys: Captured) -> None:
    path = write("p", made(capsys, "make", web, "--sink", sink))
    assert main(["policy", "show", path]) == 0
    assert f"localhost/web:1  3 executables  {sink}\n" in capsys.readouterr().out


def test_show_lists_images_by_name(policy: str, database: str, capsys: Captured) -> None:
    assert main(["policy", "add", policy, database, "-o", policy]) == 0
    assert main(["policy", "show", policy]) == 0
    assert capsys.readouterr().out == (
        f"{DATABASE}  localhost/database:15  1 executables  kernel, ima-file\n"
        f"{WEB}  localhost/web:1  3 executables  kernel, ima-file\n"
        "2 images; agent: admission, binary, config, policy, probes; 3 names of the host's\n"
    )
    assert main(["policy", "show", policy, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["images"][0] == {
        "image": DATABASE,
        "name": "localhost/database:15",
        "platform": "linux/amd64",
        "sinks": ["kernel", "ima-file"],
        "executables": 1,
    }
    assert (shown["host"], shown["fault"]) == (3, None)


def test_names_of_images_do_not_reach_the_terminal_as_they_are(write: Write, capsys: Captured) -> None:
    reference = write("r", reference_of(WEB, "evil\x1b[2J\nname", {b"/x": b""}))
    path = write("p", made(capsys, "make", reference))
    assert main(["policy", "show", path]) == 0
    assert r"evil\x1b[2J\nname" in capsys.readouterr().out


# --- how files are written


def test_a_file_is_replaced_at_once_and_keeps_its_mode(web: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert main(["policy", "make", web, "-o", str(link)]) == 0
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert load(str(path))["meta"]["version"] == 1
    path.write_text("old")
    assert main(["policy", "merge", "/nowhere", "-o", str(path)]) == 2
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["link", "policy.json", "web.json"]


def test_a_loop_of_links_is_named(web: str, tmp_path: Path, capsys: Captured) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert main(["policy", "make", web, "-o", str(loop)]) == 2
    assert f"{loop}: a loop of symbolic links" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["loop", "web.json"]


def test_standard_input_and_output_are_taken(
    web: str, policy: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with open(policy, "rb") as file:
        monkeypatch.setattr("sys.stdin", type("Input", (), {"buffer": file}))
        assert main(["policy", "add", "-", web]) == 0
    assert json.loads(capsys.readouterr().out) == load(policy)


def test_a_list_of_a_good_node_needs_nothing_more(policy: str, write: Write) -> None:
    for sink in ("kernel", "ima-file"):
        assert main(["explain", "--list", write("list", good_node(sink).list.text), "--policy", policy]) == 0
