# SPDX-License-Identifier: Apache-2.0
"""Names of cima's entries: made, escaped, and read again (`docs/FORMATS.md`, "The list" and "Policy events")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

PREFIX = "cima-"
# What the kernel takes of a file's name that has no path: `NAME_MAX` with the NUL.
_LONGEST = 254
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CUT = re.compile(r"(.*)~[0-9a-f]{64}", re.DOTALL)
# Printable ASCII but space and `%`.
_OTHERS = re.compile(rb"[^!-$&-~]")


def escape(data: bytes) -> str:
    """Printable ASCII as it is; every other byte, space and `%` as `%XX`."""
    return _OTHERS.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii")


def unescape(text: str) -> bytes | None:
    """Takes `escape` back; None if the text was not made by it."""
    try:
        plain = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("ascii"))
    except UnicodeEncodeError:
        return None
    return plain if escape(plain) == text else None


def file_name(name: str) -> str:
    """The name of the file by which the kernel lists an event with the sink `ima-file`."""
    plain = name.replace("/", "%2F")
    if len(plain) < _LONGEST:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{plain[: _LONGEST - len(digest) - 1]}~{digest}"


def is_image_digest(text: str) -> bool:
    """`sha256:` and 64 hexadecimal digits in lower case."""
    return _DIGEST.fullmatch(text) is not None


def image_name(image: str) -> str:
    """Of the event that a container of this image was admitted."""
    return f"cima-image:{image}"


def exec_name(image: str, path: bytes) -> str:
    """Of the event that a file was mapped executable in a container of this image."""
    return f"cima-exec:{image}:{escape(path)}"


@dataclass(frozen=True)
class Event:
    """What a name says."""

    #: `image`, `exec`, `violation`, `agent`, `sink`, `ctx`, or what else stands behind `cima-`
    family: str
    #: `sha256:…`, `unmeasured`, `unregistered`, or empty if the family has none
    image: str = ""
    #: the kind of a violation; which part of the agent; which sink
    kind: str = ""
    #: as the container sees it; bytes in no encoding
    path: bytes = b""
    #: the path is not all there: it was too long for a file's name
    cut: bool = False


def parse(name: str) -> Event | None:
    """Reads a name in either form, as it is or as a file's; None if it is not cima's."""
    if not name.startswith(PREFIX):
        return None
    cut = False
    if "/" not in name:
        # In a name as it is `%2F` does not occur, for `/` is not escaped.
        found = _CUT.fullmatch(name) if len(name) == _LONGEST else None
        if found is not None:
            name, cut = found[1], True
        name = name.replace("%2F", "/")
    family, _, rest = name[len(PREFIX) :].partition(":")
    if family == "image":
        return Event(family, image=rest)
    if family in ("agent", "sink", "ctx"):
        return Event(family, kind=rest)
    kind = ""
    if family == "violation":
        kind, _, rest = rest.partition(":")
    elif family != "exec":
        return Event(family)
    image, path = _image_and_path(rest)
    if cut:
        # The cut may go through an escape.
        path = re.sub(r"%[0-9A-F]?$", "", path)
    plain = unescape(path)
    return Event(family, image, kind, plain if plain is not None else path.encode("utf-8", "surrogatepass"), cut)


def _image_and_path(rest: str) -> tuple[str, str]:
    if _DIGEST.match(rest) is not None:
        return rest[:71], rest[72:]
    image, _, path = rest.partition(":")
    return image, path
