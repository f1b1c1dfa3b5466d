# SPDX-License-Identifier: Apache-2.0
"""What `cima reference` writes of an image (`image-digest/SPEC.md`, "Reference"), read as strictly as it asks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cima_keylime.names import is_image_digest
from cima_keylime.unusable import UnusableError, label, parse_json, read_text, shown

VERSION = 1
_KEYS = {
    "cima-reference",
    "image",
    "name",
    "manifest",
    "config",
    "platform",
    "labels",
    "annotations",
    "executables",
}
_WHY = ("elf", "mode", "interpreter")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DOCUMENT = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")
_OTHERS = re.compile(rb"[^ -\[\]-~]")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Executable:
    """A file that could be mapped executable."""

    path: bytes
    sha256: str


@dataclass(frozen=True)
class Reference:
    """The reference values of an image."""

    image: str
    name: str | None
    manifest: str | None
    platform: str | None
    executables: tuple[Executable, ...]


def read(path: str) -> Reference:
    """Reads a reference from a file, or from standard input for `-`."""
    return parse(read_text(path), label(path))


def parse(text: str, source: str) -> Reference:
    """Reads a reference. Raises `UnusableError`, which names `source` and the key."""
    found = parse_json(text, source)
    if not isinstance(found, dict) or "cima-reference" not in found:
        raise UnusableError(f"{source}: no reference of an image: cima reference writes one")
    if type(found["cima-reference"]) is not int or found["cima-reference"] != VERSION:
        raise UnusableError(
            f"{source}: a reference of version {shown(str(found['cima-reference']))}, and only {VERSION} is known here"
        )
    for key in sorted(_KEYS ^ found.keys()):
        what = "is missing" if key in _KEYS else "is not known"
        raise UnusableError(f'{source}: the key "{shown(key)}" {what}')
    image = found["image"]
    if not isinstance(image, str) or not is_image_digest(image):
        raise UnusableError(f'{source}: "image" is no digest of an image')
    for key in ("manifest", "config"):
        if found[key] is not None and not _matches(_DOCUMENT, found[key]):
            raise UnusableError(f'{source}: "{key}" is no digest')
    for key in ("name", "platform"):
        if found[key] is not None and not isinstance(found[key], str):
            raise UnusableError(f'{source}: "{key}" is no text')
    for key in ("labels", "annotations"):
        if not isinstance(found[key], dict) or not all(isinstance(v, str) for v in found[key].values()):
            raise UnusableError(f'{source}: "{key}" is no object of texts')
    executables = _executables(found["executables"], source)
    return Reference(image, found["name"], found["manifest"], found["platform"], executables)


def _executables(found: Any, source: str) -> tuple[Executable, ...]:
    if not isinstance(found, list):
        raise UnusableError(f'{source}: "executables" is no list')
    executables = []
    before: list[bytes] = []
    for number, one in enumerate(found):
        where = f"{source}: executables[{number}]"
        if not isinstance(one, dict) or one.keys() != {"path", "sha256", "why"}:
            raise UnusableError(f"{where} has other keys than path, sha256 and why")
        why = one["why"]
        if not isinstance(why, list) or not why or why != [w for w in _WHY if w in why]:
            raise UnusableError(f'{where}: "why" is not some of {", ".join(_WHY)} in this order')
        if not _matches(_SHA256, one["sha256"]):
            raise UnusableError(f'{where}: "sha256" is no digest')
        path = _path(one["path"], where)
        components = path.split(b"/")
        if before >= components:
            raise UnusableError(f'{where}: "path" is there twice' if before == components else f"{where}: not in order")
        before = components
        executables.append(Executable(path, one["sha256"]))
    return tuple(executables)


def _path(text: Any, where: str) -> bytes:
    r"""Bytes: printable ASCII but the backslash is itself, every other byte is `\xNN` in lower case."""
    if not isinstance(text, str) or not text.isascii():
        raise UnusableError(f'{where}: "path" is not written as bytes are')
    path = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.encode())
    if _OTHERS.sub(lambda found: b"\\x%02x" % found[0][0], path) != text.encode():
        raise UnusableError(f'{where}: "path" is not written as bytes are')
    first, *components = path.split(b"/")
    # 4,095 bytes without the slash in front.
    if first or not components or len(path) > 4096:
        raise UnusableError(f'{where}: "path" is no absolute path')
    for component in components:
        if component in (b"", b".", b"..") or len(component) > 255 or b"\0" in component:
            raise UnusableError(f'{where}: "path" is no path inside an image')
    return path


def _matches(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None
