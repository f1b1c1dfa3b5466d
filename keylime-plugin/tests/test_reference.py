# SPDX-License-Identifier: Apache-2.0
"""References are read as `image-digest/SPEC.md` asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cima_keylime import reference
from cima_keylime.unusable import UnusableError
from conftest import WEB, WEB_FILES, reference_of


def good() -> dict[str, Any]:
    return reference_of(WEB, "web:1", WEB_FILES)


def test_a_reference_is_read_with_the_bytes_of_its_paths() -> None:
    read = reference.parse(json.dumps(good()), "web.json")
    assert (read.image, read.name, read.platform) == (WEB, "web:1", "linux/amd64")
    assert {one.path for one in read.executables} == set(WEB_FILES)


def test_a_reference_that_cima_wrote_is_read() -> None:
    # tests/data/make.sh made it, by `cima reference dir:`.
    read = reference.read(str(Path(__file__).with_name("data") / "reference.json"))
    paths = [b"/bin/\\\xff%", b"/bin/a b", b"/bin/s", b"/bin/sub/x", b"/bin/sub.x"]
    assert [one.path for one in read.executables] == paths


def executable(path: Any, why: Any = ("mode",), sha256: Any = "0" * 64) -> dict[str, Any]:
    return {"path": path, "sha256": sha256, "why": list(why) if isinstance(why, tuple) else why}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cima-reference": 2}, "a reference of version 2, and only 1 is known here"),
        ({"cima-reference": True}, "a reference of version True"),
        ({"cima-reference": 1.0}, "a reference of version 1.0"),
        ({"image": "sha256:AB"}, '"image" is no digest of an image'),
        ({"image": None}, '"image" is no digest of an image'),
        ({"manifest": "x"}, '"manifest" is no digest'),
        ({"name": 7}, '"name" is no text'),
        ({"labels": {"a": 1}}, '"labels" is no object of texts'),
        ({"new": 1}, 'the key "new" is not known'),
        ({"executables": {}}, '"executables" is no list'),
        ({"executables": [7]}, "executables[0] has other keys than path, sha256 and why"),
        ({"executables": [executable("/a", why=())]}, '"why" is not some of elf, mode, interpreter'),
        ({"executables": [executable("/a", why=("mode", "elf"))]}, '"why" is not some of elf, mode, interpreter'),
        ({"executables": [executable("/a", sha256="0" * 63)]}, '"sha256" is no digest'),
        ({"executables": [executable("a")]}, '"path" is no absolute path'),
        ({"executables": [executable("/")]}, '"path" is no path inside an image'),
        ({"executables": [executable("/a/../b")]}, '"path" is no path inside an image'),
        ({"executables": [executable("/a//b")]}, '"path" is no path inside an image'),
        ({"executables": [executable("/\\x00")]}, '"path" is no path inside an image'),
        ({"executables": [executable("/" + "x" * 256)]}, '"path" is no path inside an image'),
        ({"executables": [executable("/\\x41")]}, '"path" is not written as bytes are'),
        ({"executables": [executable("/\\")]}, '"path" is not written as bytes are'),
        ({"executables": [executable("/\u00e4")]}, '"path" is not written as bytes are'),
        ({"executables": [executable("/b"), executable("/a")]}, "executables[1]: not in order"),
        ({"executables": [executable("/a"), executable("/a")]}, 'executables[1]: "path" is there twice'),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableError) as error:
        reference.parse(json.dumps({**good(), **change}), "web.json")
    assert str(error.value).startswith("web.json: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON: line 1"),
        ("[]", "no reference of an image"),
        ("{}", "no reference of an image"),
        ('{"cima-reference": 1, "image": "x", "image": "y"}', 'the key "image" is there twice'),
        ('{"cima-reference": 1}', 'the key "annotations" is missing'),
        ("[" * 100000, "nested too deeply"),
    ],
)
def test_what_is_no_reference_is_named(text: str, said: str) -> None:
    with pytest.raises(UnusableError, match=r"^web\.json: ") as error:
        reference.parse(text, "web.json")
    assert said in str(error.value)
