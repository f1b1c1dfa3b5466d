# SPDX-License-Identifier: Apache-2.0
"""Structures as a TPM marshals them: big-endian, byte strings with their length in front (TPM 2.0 Library, Part 1, "Marshaling")."""

from __future__ import annotations


class Reader:
    """Takes a structure apart. Raises `ValueError` where it ends early, or goes on."""

    def __init__(self, data: bytes) -> None:
        """At the beginning."""
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        """So many bytes."""
        taken = self._data[self._at : self._at + length]
        if len(taken) < length:
            raise ValueError("ends early")
        self._at += length
        return taken

    def u8(self) -> int:
        """`UINT8`."""
        return self.take(1)[0]

    def u16(self) -> int:
        """`UINT16`."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """`UINT32`."""
        return int.from_bytes(self.take(4), "big")

    def sized(self) -> bytes:
        """A `TPM2B`, without its length."""
        return self.take(self.u16())

    def end(self) -> None:
        """Nothing stands behind."""
        if self._at != len(self._data):
            raise ValueError("goes on")
