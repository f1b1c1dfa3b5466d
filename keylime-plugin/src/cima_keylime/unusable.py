# SPDX-License-Identifier: Apache-2.0
"""The one error of this package, and how files are opened and JSON is read so that it names them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO


class UnusableError(Exception):
    """An input or the surroundings cannot be used: the text names it and says why. Exit code 2."""


def label(path: str) -> str:
    """How an input is called in messages."""
    return "standard input" if path == "-" else path


def shown(text: str) -> str:
    """Text from outside as printable ASCII, so that a terminal shows it and obeys none of it."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file, or standard input for `-`."""
    try:
        if path != "-":
            with open(path, "rb") as file:
                yield file
        elif sys.stdin is not None:
            yield sys.stdin.buffer
        else:
            raise UnusableError(f"{label(path)} is closed")
    except OSError as error:
        raise UnusableError(f"{label(path)}: {error.strerror}") from error


def read_text(path: str) -> str:
    """All of an input, which is to be UTF-8."""
    with opened(path) as file:
        data = file.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnusableError(f"{label(path)}: byte {error.start} is not UTF-8") from error


def parse_json(text: str, source: str) -> Any:
    """JSON in which no key hides another of the same name: parsers disagree about which one holds."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise UnusableError(f'{source}: the key "{shown(key)}" is there twice')
                seen.add(key)
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UnusableError(f"{source}: no JSON: line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise UnusableError(f"{source}: no JSON: {error}") from error
    except RecursionError as error:
        raise UnusableError(f"{source}: JSON that is nested too deeply") from error


def parse_texts(
    text: str, source: str, what: str, needed: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, Any]:
    """A JSON object that has texts by these keys, the optional ones perhaps null; of others nothing is asked."""
    found = parse_json(text, source)
    if not isinstance(found, dict):
        raise UnusableError(f"{source}: no {what}: no JSON object")
    for key in needed:
        if not isinstance(found.get(key), str) or not found[key]:
            raise UnusableError(f'{source}: no {what}: the key "{key}" is missing, empty or no text')
    for key in optional:
        if not isinstance(found.get(key, ""), (str, type(None))):
            raise UnusableError(f'{source}: "{key}" is no text')
    return found


def decoded(text: str, where: str) -> bytes:
    """What base64 stands for."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UnusableError(f"{where} is no base64") from error


@contextlib.contextmanager
def written(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that has all of its new content or keeps the old one."""
    if path is None or path == "-":
        yield sys.stdout
        return
    target = Path(path)
    try:
        # A device or a pipe cannot be replaced.
        if target.exists() and not target.is_file():
            with target.open("w", encoding="ascii") as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise UnusableError(f"{path}: a loop of symbolic links")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                yield file
                file.flush()
                # Else a power cut may leave the new name with nothing in it.
                os.fsync(handle)
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
            os.chmod(name, mode)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise UnusableError(f"{path}: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
