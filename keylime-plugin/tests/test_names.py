# SPDX-License-Identifier: Apache-2.0
"""Names are written and read as `docs/FORMATS.md` has them."""

from __future__ import annotations

import random

import pytest

import encoder
from cima_keylime import names

IMAGE = "sha256:" + "ab" * 32


def test_every_byte_has_one_escape_that_is_taken_back() -> None:
    data = bytes(range(256))
    assert names.escape(data) == encoder.escaped(data)
    assert names.unescape(names.escape(data)) == data
    assert names.escape(b"/a b%41\n\x1b[2J\xff") == "/a%20b%2541%0A%1B[2J%FF"


@pytest.mark.parametrize("text", ["/%4", "/%ff", "/%41", "/a b", "/\x7f", "/\xe4", "%"])
def test_only_the_one_spelling_is_taken(text: str) -> None:
    assert names.unescape(text) is None


def test_random_paths_keep_their_bytes_in_both_forms() -> None:
    source = random.Random(7)
    for _ in range(500):
        path = b"/" + bytes(source.randrange(256) for _ in range(source.randrange(60)))
        name = names.exec_name(IMAGE, path)
        for form in (name, names.file_name(name)):
            said = names.parse(form)
            if said is not None and said.cut:
                assert path.startswith(said.path), form
            else:
                assert said == names.Event("exec", IMAGE, path=path), form


@pytest.mark.parametrize("length", [150, 160, 172, 173, 174, 175, 200, 4000])
def test_a_files_name_has_254_bytes_at_most(length: int) -> None:
    name = names.exec_name(IMAGE, b"/" + b"x" * (length - 1))
    file = names.file_name(name)
    assert file == encoder.as_file(name)
    assert len(file) <= 254
    said = names.parse(file)
    assert said is not None
    assert said.image == IMAGE
    assert said.cut == (len(file) == 254)


def test_a_buffers_name_that_looks_like_a_cut_file_is_not_cut() -> None:
    name = f"cima-exec:{IMAGE}:/"
    name += "x" * (254 - 65 - len(name)) + "~" + "a" * 64
    said = names.parse(name)
    assert said is not None
    assert (said.cut, len(said.path)) == (False, 254 - 82)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"cima-image:{IMAGE}", names.Event("image", IMAGE)),
        ("cima-exec:unregistered:/bin/a:b", names.Event("exec", "unregistered", path=b"/bin/a:b")),
        ("cima-exec:unmeasured:%2Fbin%2Fsh", names.Event("exec", "unmeasured", path=b"/bin/sh")),
        (f"cima-violation:writer:{IMAGE}:/x", names.Event("violation", IMAGE, "writer", b"/x")),
        ("cima-violation:loss:unregistered:", names.Event("violation", "unregistered", "loss")),
        ("cima-agent:binary", names.Event("agent", kind="binary")),
        ("cima-sink:ima-file", names.Event("sink", kind="ima-file")),
        ("cima-ctx:7", names.Event("ctx", kind="7")),
        ("cima-new:x", names.Event("new")),
        ("cima-", names.Event("")),
        ("/usr/bin/bash", None),
        ("boot_aggregate", None),
    ],
)
def test_a_name_says_what_it_says(name: str, said: names.Event | None) -> None:
    assert names.parse(name) == said
