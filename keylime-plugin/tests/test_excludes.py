# SPDX-License-Identifier: Apache-2.0
"""Whatever a host's policy excludes, Keylime passes over nothing of cima's by a policy that was written here, and over the same of the host's."""

from __future__ import annotations

import base64
import json
import random
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from cima_keylime.cli import main
from conftest import DATABASE, HOST, WEB, Write, good_node
from encoder import MeasurementList, Node
from test_hostile import ATTEST
from test_keylime import NOT_ALLOWED, judge, judge_node

Captured = pytest.CaptureFixture[str]

#: Meant for the host, all of them.
BROAD = [
    r".*/__pycache__/.*",
    r"(.*)\.pyc",
    r".*/tmp/.*",
    ".*miner",
    ".*",
    "[^/]",
    "^.*loss",
    "|/tmp",
    "/tmp|.*miner",
    "/tmp|cima-",
    "/?cima-",
    "/*.*miner",
    "/{0,1}c.*",
    "/(?#a comment)*c.*miner",
    "c",
    "cima",
    "cima-?",
    "cima[-]v.*miner",
    "(?i:CIMA-V)",
    "(cima-).*",
    "(?:cima-exec)",
    "(?!cima-)(?:/a)|(?:.*)",
    "(?!cima-)(?:/a)?.*|(?:c)",
    r"\w",
    r"\x63ima",
    "",
    "(a)?(?(1)b|c)",
    "(?=cima-v)",
    ".*cima-tools.*",
]
#: What needs no guard, and is read more easily without.
PLAIN = [
    "/tmp/.*",
    "^/var/(log|run)",
    "/",
    r"\/opt\/.+",
    "boot_aggregate",
    r"/usr/lib/python3\.[0-9]+/.*\.pyc",
    "/opt/cima-tools/.*",
    "(?!cima-)(?:.*miner)",
    "(?!cima-)(?:)",
    "cima-ctx:[0-9]+$",
    "cima-exec:unregistered:/usr/bin/bwrap$",
    "cima-exec:unregistered:%2Fusr%2Fbin%2Fbwrap",
]
TOKENS = [
    *(".*", "/", "tmp", "c", "i", "cima", "cima-", "ima-", "exec", "violation:", "unregistered:", ":", "-", "miner"),
    *("|", "(", ")", "(?:", "(?!", "(?=", "(?#", "(?i:", "(?(1)", "(?P<n>", "(?P=n)", "[^/]", "[a-z-]", "[", "]", "^"),
    *("$", "?", "*", "+", "??", "{0}", "{0,1}", "{", "}", "\\", r"\w", r"\-", r"\/", r"\x63", r"\1", r"\.", "%2F"),
    *("(?!cima-)(?:", "(?i)", "(?x: c )", "#", "\n", " ", "é"),
]
PATHS = ["/tmp/", "/usr/bin/", "/a/__pycache__/", "/c/cima-exec/", "/", "/%", "/é/", "/(deleted) "]
# Never sent anywhere.
EVIDENCE = {
    **dict.fromkeys(("tpm_ek", "tpm_ak"), "YWJj"),
    "nonce": "n",
    "hash_alg": "sha256",
    "quote": f"r{base64.b64encode(ATTEST).decode()}:YQ==:YQ==",
    "ima_measurement_list": "x",
}


def with_excludes(excludes: list[str], policy: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(policy).read_text())
    found["excludes"] = excludes
    return found


def hostile(source: random.Random, sink: str) -> tuple[Node, int]:
    """A node on which the image web runs, and something else; how much else."""
    node = good_node(sink)
    path = (source.choice(PATHS) + source.choice(["x", "miner", "x.pyc", "x.miner.pyc"])).encode()
    node.execute(source.choice([WEB, DATABASE, "unmeasured", "unregistered"]), path, b"miner")
    kind = source.choice(["writer", "mprotect", "loss", "unregistered", "new"])
    text = f"cima-violation:{kind}:{source.choice([WEB, 'unregistered'])}:{path.decode('ascii', 'ignore')}"
    node.say(text.replace(" ", "%20"), b"v1;x")
    return node, 2


def merged(excludes: list[str], policy: str, write: Write, tmp_path: Path) -> str | None:
    """A written policy; None if there is none."""
    out = tmp_path / "written.json"
    out.unlink(missing_ok=True)
    code = main(["policy", "merge", write("before.json", with_excludes(excludes, policy)), "-o", str(out)])
    assert code in (0, 2)
    assert out.exists() == (code == 0)
    return str(out) if code == 0 else None


@pytest.mark.parametrize("exclude", BROAD)
def test_an_exclude_for_the_host_lets_nothing_of_cimas_pass(
    exclude: str, policy: str, write: Write, tmp_path: Path, capsys: Captured
) -> None:
    written = merged([exclude, "cima-ctx:[0-9]+$"], policy, write, tmp_path)
    assert written is not None
    assert "before.json: 1 excludes kept from names of cima's" in capsys.readouterr().err
    assert json.loads(Path(written).read_text())["excludes"][0] == f"(?!cima-)(?:{exclude})"
    source = random.Random(exclude)
    for sink in ("kernel", "ima-file"):
        node, bad = hostile(source, sink)
        assert judge_node(written, node) == [NOT_ALLOWED] * bad
    again = merged(json.loads(Path(written).read_text())["excludes"], policy, write, tmp_path)
    assert again == written
    assert "kept from" not in capsys.readouterr().err


@pytest.mark.parametrize("exclude", BROAD)
def test_a_policy_of_somebody_elses_is_not_sent_with_such_an_exclude(
    exclude: str, policy: str, write: Write, capsys: Captured
) -> None:
    path = write("theirs.json", with_excludes([exclude], policy))
    assert main(["policy", "show", path]) == 1
    capsys.readouterr()
    evidence = write("evidence.json", EVIDENCE)
    for command in (["push", "--name", "x", path], ["verify", "--policy", path, evidence]):
        assert main([*command, "--verifier", "https://127.0.0.1:1"]) == 2
        error = capsys.readouterr().err
        assert f'theirs.json: the exclude "{exclude}" may have Keylime pass over' in error
        assert "`cima-keylime policy merge FILE -o FILE`" in error
    assert main(["policy", "merge", path, "-o", path]) == 0
    assert main(["policy", "show", path]) == 0


def test_excludes_that_cannot_match_cimas_names_stay_as_they_are(
    policy: str, write: Write, tmp_path: Path, capsys: Captured
) -> None:
    excludes = [one for one in PLAIN if "|" not in one]
    written = merged(excludes, policy, write, tmp_path)
    assert written is not None
    assert json.loads(Path(written).read_text())["excludes"] == excludes
    assert capsys.readouterr().err == ""
    assert main(["policy", "show", written]) == 0


def test_what_a_guarded_exclude_excluded_of_the_hosts_is_excluded_still(
    policy: str, write: Write, tmp_path: Path
) -> None:
    written = merged([*BROAD[:4], "cima-ctx:[0-9]+$"], policy, write, tmp_path)
    assert written is not None
    listed = MeasurementList()
    for name in ("/opt/__pycache__/a", "/a/b.pyc", "/var/tmp/x", "/usr/bin/miner", "cima/a.pyc", "cim/tmp/a"):
        listed.file(name, b"")
    assert judge(written, listed.text, listed.pcr) == []
    listed.file("/usr/bin/other", b"")
    assert [event for event, _ in judge(written, listed.text, listed.pcr)] == [NOT_ALLOWED]


def test_no_excludes_at_all_let_anything_of_cimas_pass(
    policy: str, write: Write, tmp_path: Path, capsys: Captured
) -> None:
    source = random.Random(10)
    written_ones = kept = 0
    for _ in range(1500):
        before = [random_exclude(source) for _ in range(source.randrange(1, 3))]
        written = merged(before, policy, write, tmp_path)
        capsys.readouterr()
        if written is None:
            continue
        written_ones += 1
        after = json.loads(Path(written).read_text())["excludes"]
        kept += sum(one in after for one in before)
        node, bad = hostile(source, source.choice(["kernel", "ima-file"]))
        # But for an exclude of containers that nobody registered there may be none.
        if not any(one.startswith("cima-") for one in after):
            node.list.lines = [line for line in node.list.lines if "cima-ctx:" not in line.text]
            assert judge_node(written, node) == [NOT_ALLOWED] * bad, before
        host = random_host_name(source)
        assert bool(joined(before).match(host)) == bool(joined(after).match(host)), (before, host)
    assert written_ones >= 400
    assert kept >= 30


def random_exclude(source: random.Random) -> str:
    """One that is a regular expression."""
    while True:
        text = "".join(source.choice(TOKENS) for _ in range(source.randrange(1, 7)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                re.compile(text)
            except (re.error, OverflowError):
                continue
        return text


def random_host_name(source: random.Random) -> str:
    return "/" + "".join(source.choice(["tmp", "/", "c", "miner", ".", "cima-", "-"]) for _ in range(6))


def joined(excludes: list[str]) -> re.Pattern[str]:
    """As Keylime has them."""
    return re.compile("(" + ")|(".join(excludes) + ")")


def test_a_list_is_judged_with_no_exclude_but_those_of_cimas(policy: str, write: Write, capsys: Captured) -> None:
    for exclude in [*BROAD, "cima-", f"cima-exec:{WEB}:/tmp", "cima-violation:.*"]:
        path = write("theirs.json", with_excludes([exclude, "cima-ctx:[0-9]+$"], policy))
        node, bad = hostile(random.Random(exclude), "kernel")
        assert main(["explain", "--list", write("list", node.list.text), "--policy", path, "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["findings"]) == bad


def test_an_exclude_that_is_also_of_the_hosts_is_not_dropped_with_cimas(
    web: str, write: Write, capsys: Captured
) -> None:
    base = write("base.json", {**HOST, "excludes": ["cima-ctx:.*|/var/log/.*"]})
    assert main(["policy", "make", web, "--base", base, "--drop-cima"]) == 2
    assert 'base.json: the exclude "cima-ctx:.*|/var/log/.*" would' in capsys.readouterr().err


def test_only_excludes_for_cimas_names_are_dropped_with_them(web: str, write: Write, capsys: Captured) -> None:
    excludes = ["cima-", "cima-ctx:[0-9]+$", "/opt/cima-tools", "(?!cima-)(?:.*x)", "cima-exec:unregistered:/usr"]
    base = write("base.json", {**HOST, "excludes": excludes})
    assert main(["policy", "make", web, "--base", base, "--drop-cima"]) == 0
    assert json.loads(capsys.readouterr().out)["excludes"] == [*excludes[2:4], "cima-ctx:[0-9]+$"]
