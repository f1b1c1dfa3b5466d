# SPDX-License-Identifier: Apache-2.0
"""As much of DER as tells whose key a certificate is of (X.690; `Certificate`, RFC 5280, 4.1). No signature is checked here."""

from __future__ import annotations

_INTEGER, _BITS, _SEQUENCE, _VERSION = 0x02, 0x03, 0x30, 0xA0
_LONGEST = 1 << 16


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where the content begins and where it ends."""
    if len(data) < at + 2:
        raise ValueError("ends early")
    tag, length, begin = data[at], data[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or len(data) < begin + count:
            raise ValueError("has a length that is none")
        length = int.from_bytes(data[begin : begin + count], "big")
        begin += count
    if length > _LONGEST or len(data) < begin + length:
        raise ValueError("ends early")
    return tag, begin, begin + length


def _children(data: bytes, tag: int) -> list[tuple[int, bytes]]:
    """Tag and content of each element in the one that `data` begins with."""
    outer, at, end = _element(data, 0)
    if outer != tag:
        raise ValueError("is something else")
    found = []
    while at < end:
        inner, begin, after = _element(data[:end], at)
        found.append((inner, data[begin:after]))
        at = after
    return found


def first(data: bytes) -> bytes:
    """The element that `data` begins with, without what stands behind it."""
    return data[: _element(data, 0)[2]]


def subject_public_key(certificate: bytes) -> bytes:
    """The content of its `subjectPublicKey`. Raises `ValueError` if it is no certificate."""
    parts = _children(certificate, _SEQUENCE)
    if [tag for tag, _ in parts] != [_SEQUENCE, _SEQUENCE, _BITS]:
        raise ValueError("is no certificate")
    body = _children(_encoded(_SEQUENCE, parts[0][1]), _SEQUENCE)
    if body and body[0][0] == _VERSION:
        body = body[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    if len(body) < 6 or [tag for tag, _ in body[:6]] != [_INTEGER, *[_SEQUENCE] * 5]:
        raise ValueError("is no certificate")
    info = _children(_encoded(_SEQUENCE, body[5][1]), _SEQUENCE)
    if [tag for tag, _ in info] != [_SEQUENCE, _BITS] or info[1][1][:1] != b"\0":
        raise ValueError("has no public key")
    return info[1][1][1:]


def _encoded(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def sequence(*elements: bytes) -> bytes:
    """A `SEQUENCE`."""
    return _encoded(_SEQUENCE, b"".join(elements))


def integer(big_endian: bytes) -> bytes:
    """An `INTEGER` that is not negative."""
    bare = big_endian.lstrip(b"\0") or b"\0"
    return _encoded(_INTEGER, (b"\0" if bare[0] & 0x80 else b"") + bare)
