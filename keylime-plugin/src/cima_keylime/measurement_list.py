# SPDX-License-Identifier: Apache-2.0
"""IMA measurement lists, ASCII and binary, read entry by entry: a list of any length takes the memory of one entry.

Kernel: `Documentation/security/IMA-templates.rst`, `security/integrity/ima/ima_fs.c`. Templates are those that Keylime
7.14.3 knows (`keylime/ima/ast.py`); of others an entry has no name and no digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cima_keylime.unusable import UnusableError, label, opened, shown

_LONGEST = 64 << 20
_PCR = re.compile("[0-9]{1,2}")
#: `ima_hash=`, of what Python has everywhere.
_ALGORITHMS = ("sha1", "sha256", "sha384", "sha512")
#: Of template hashes: SHA-1, but Linux 6.10 and later have a list for each algorithm.
_BY_LENGTH = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}


@dataclass(frozen=True)
class Entry:
    """An entry of a list."""

    #: from 1
    number: int
    pcr: int
    template: str
    template_hash: bytes
    algorithm: str
    digest: bytes
    name: str
    #: of `ima-buf`
    payload: bytes | None
    #: what the template hash is to be of; None if it cannot be known from the text
    data: bytes | None

    @property
    def is_violation(self) -> bool:
        """A violation of IMA's own: no hash covers what it says."""
        return len(self.template_hash) in _BY_LENGTH and not any(self.template_hash)

    @property
    def fault(self) -> str | None:
        """What the entry does not have of an entry that a kernel made; None if it is consistent with itself, as far as can be known."""
        algorithm = _BY_LENGTH.get(len(self.template_hash))
        if algorithm is None:
            return "has a template hash of no known length"
        if self.data is not None and self.template_hash != _hash(algorithm, self.data):
            return "does not have its own template hash"
        if self.payload is not None and self.algorithm in _ALGORITHMS and not self.payload_fits:
            return "does not have the digest of its payload"
        return None

    @property
    def payload_fits(self) -> bool:
        """The digest is that of the payload, which Keylime does not look at."""
        if self.algorithm not in _ALGORITHMS:
            return False
        return _hash(self.algorithm, self.payload or b"") == self.digest


def _hash(algorithm: str, data: bytes) -> bytes:
    # SHA-1 and MD5 are the kernel's choice.
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


class Replay:
    """The value that the entries of a list give a PCR of a bank, from a start of zeros. Each must have its data."""

    def __init__(self, bank: str) -> None:
        """Of the algorithm `bank`, before any entry."""
        self._bank = bank
        self.value = bytes(len(_hash(bank, b"")))

    def through(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Passes the entries on, and extends the value by each."""
        for entry in entries:
            # Of a violation the kernel extends ones, whatever it says.
            extended = b"\xff" * len(self.value) if entry.is_violation else _hash(self._bank, entry.data or b"")
            self.value = _hash(self._bank, self.value + extended)
            yield entry


def read(path: str) -> Iterator[Entry]:
    """The entries of a list in a file, or from standard input for `-`."""
    with opened(path) as file:
        source = label(path)
        start = file.read(4)
        # The PCR as u32le; of a text the first four bytes are none of them 0.
        if len(start) == 4 and start[1:] == b"\0\0\0":
            yield from _binary(file, start, source)
        else:
            yield from ascii_list(_lines(file, start, source), source)


def _lines(file: BinaryIO, start: bytes, source: str) -> Iterator[str]:
    first = start + file.readline(_LONGEST)
    for number, line in enumerate(itertools.chain([first], iter(lambda: file.readline(_LONGEST), b"")), 1):
        if len(line) >= _LONGEST:
            raise UnusableError(f"{source}: line {number} has more than {_LONGEST} bytes")
        yield line.decode("utf-8", "surrogateescape")


def ascii_list(lines: Iterable[str], source: str) -> Iterator[Entry]:
    """The entries of `ascii_runtime_measurements`. Raises `UnusableError`, which names the line."""
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if not line:
            continue
        try:
            yield _ascii_entry(number, line)
        except ValueError as error:
            raise UnusableError(f'{source}: line {number} is no entry of a list: "{shown(line[:80])}"') from error


def readable(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of those lines that are some: of a list that was refused already."""
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError):
            yield _ascii_entry(number, line)


def _ascii_entry(number: int, line: str) -> Entry:
    pcr, template_hash, template, fields = line.lstrip(" ").split(" ", 3)
    if _PCR.fullmatch(pcr) is None:
        raise ValueError(pcr)
    head = (number, int(pcr), template, bytes.fromhex(template_hash))
    if template not in ("ima", "ima-ng", "ima-sig", "ima-buf"):
        return Entry(*head, "", b"", "", None, None)
    algorithm_and_digest, rest = fields.split(" ", 1)
    if template == "ima":
        return _entry_of_ima(head, algorithm_and_digest, rest)
    algorithm, _, digest_text = algorithm_and_digest.rpartition(":")
    digest = bytes.fromhex(digest_text)
    name, last = rest, None
    if template != "ima-ng":
        name, last_text = rest.split(" ", 1)
        last = bytes.fromhex(last_text)
    # The kernel writes spaces in names as `_`, and hashes them so.
    data = _lp(f"{algorithm}:\0".encode() + digest) + _lp(_named(name) + b"\0")
    data += _lp(last) if last is not None else b""
    payload = last if template == "ima-buf" else None
    return Entry(*head, algorithm, digest, name, payload, data)


def _entry_of_ima(head: tuple[int, int, str, bytes], digest_text: str, name: str) -> Entry:
    """The first template: a digest of MD5 or SHA-1 without its algorithm, and a name in 256 bytes.

    No other: no hash covers which template an entry is of, and Keylime takes any bytes for a digest, so that an entry of another
    template could be shown as one with the last 255 bytes for a name (`Digest`, keylime/ima/ast.py).
    """
    digest, named = bytes.fromhex(digest_text), _named(name)
    if len(digest) not in (16, 20) or len(named) > 255:
        raise ValueError(name)
    return Entry(*head, "md5" if len(digest) == 16 else "sha1", digest, name, None, digest + named.ljust(256, b"\0"))


def _named(name: str) -> bytes:
    if "\0" in name:
        raise ValueError(name)
    return name.encode("utf-8", "surrogateescape")


def _binary(file: BinaryIO, start: bytes, source: str) -> Iterator[Entry]:
    def take(length: int) -> bytes:
        if length > _LONGEST:
            raise UnusableError(f"{source}: entry {number} has a field of {length} bytes: no list, or a damaged one")
        data = file.read(length)
        if len(data) < length:
            raise UnusableError(f"{source}: ends inside entry {number}")
        return data

    number = 0
    while start:
        number += 1
        if len(start) < 4:
            raise UnusableError(f"{source}: ends inside entry {number}")
        template_hash = take(20)
        template = take(*struct.unpack("<I", take(4))).decode("ascii", "replace")
        if template == "ima":
            raise UnusableError(f"{source}: entry {number} has the template ima, which only ASCII lists are read with")
        data = take(*struct.unpack("<I", take(4)))
        head = (number, struct.unpack("<I", start)[0], template, template_hash)
        try:
            yield _fields(head, data)
        except (ValueError, struct.error) as error:
            raise UnusableError(
                f"{source}: entry {number} has fields that are none of its template {shown(template)}"
            ) from error
        start = file.read(4)


def _fields(head: tuple[int, int, str, bytes], data: bytes) -> Entry:
    template = head[2]
    if template not in ("ima-ng", "ima-sig", "ima-buf"):
        return Entry(*head, "", b"", "", None, None)
    fields = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        fields.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data) or len(fields) != (2 if template == "ima-ng" else 3):
        raise ValueError(template)
    algorithm, _, digest = fields[0].partition(b":\0")
    name = fields[1].rstrip(b"\0").decode("utf-8", "surrogateescape")
    payload = fields[2] if template == "ima-buf" else None
    return Entry(*head, algorithm.decode("ascii"), digest, name, payload, data)


def _lp(field: bytes) -> bytes:
    return struct.pack("<I", len(field)) + field
