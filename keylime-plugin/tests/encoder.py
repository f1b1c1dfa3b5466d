# SPDX-License-Identifier: Apache-2.0
"""Lists as a kernel shows them, and PCR 10 as a TPM has it after them. Shares no code with the package.

Written from the kernel's `ima_template_lib.c`, and from `docs/FORMATS.md` for what cima says.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field


def sha(data: bytes, algorithm: str = "sha256") -> bytes:
    return hashlib.new(algorithm, data).digest()


def field_of(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


@dataclass
class Line:
    """An entry: its text, its record, and what it extends a bank of SHA-256 with."""

    text: str
    record: bytes
    extends: bytes


@dataclass
class MeasurementList:
    lines: list[Line] = field(default_factory=list)

    def entry(self, template: str, digest: bytes, name: str, last: bytes | None = None, pcr: int = 10) -> Line:
        data = field_of(b"sha256:\0" + digest) + field_of(name.encode() + b"\0")
        if last is not None:
            data += field_of(last)
        text = f"{pcr:2d} {sha(data, 'sha1').hex()} {template} sha256:{digest.hex()} {name}"
        if last is not None:
            text += f" {last.hex()}"
        record = struct.pack("<I", pcr) + sha(data, "sha1") + field_of(template.encode()) + field_of(data)
        line = Line(text, record, sha(data))
        self.lines.append(line)
        return line

    def file(self, name: str, content: bytes, template: str = "ima-ng") -> Line:
        return self.entry(template, sha(content), name, b"" if template == "ima-sig" else None)

    def buffer(self, name: str, payload: bytes, digest: bytes | None = None) -> Line:
        return self.entry("ima-buf", sha(payload) if digest is None else digest, name, payload)

    def violation(self, name: str) -> Line:
        """Of IMA's own: a digest of zeros, and ones are extended."""
        zeros = bytes(32)
        text = f"10 {bytes(20).hex()} ima-ng sha256:{zeros.hex()} {name}"
        line = Line(text, b"", b"\xff" * 32)
        self.lines.append(line)
        return line

    @property
    def text(self) -> str:
        return "".join(line.text + "\n" for line in self.lines)

    @property
    def binary(self) -> bytes:
        return b"".join(line.record for line in self.lines)

    @property
    def pcr(self) -> bytes:
        value = bytes(32)
        for line in self.lines:
            value = sha(value + line.extends)
        return value


def escaped(path: bytes) -> str:
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in path)


def as_file(name: str) -> str:
    plain = name.replace("/", "%2F")
    return plain if len(plain) <= 253 else plain[:189] + "~" + hashlib.sha256(name.encode()).hexdigest()


class Node:
    """A node with cima, whose entries are in the host's list by one of the two sinks."""

    def __init__(self, sink: str, template: str = "ima-ng") -> None:
        self.sink = sink
        self.template = template
        self.list = MeasurementList()
        self.list.file("boot_aggregate", b"aggregate", template)
        self.list.file("/usr/bin/bash", b"bash of the host", template)
        self.say("cima-ctx:0", b"v1;\x0a\x02hi")
        self.say(f"cima-sink:{sink}", f"v1;sink={sink}".encode())
        for part in ("binary", "probes", "config", "policy", "admission"):
            self.say(f"cima-agent:{part}", f"v1;sha256:{sha(part.encode()).hex()}".encode())

    def say(self, name: str, payload: bytes) -> Line:
        if self.sink == "kernel":
            return self.list.buffer(name, payload)
        return self.list.file(as_file(name), payload, self.template)

    def admit(self, image: str) -> Line:
        return self.say(f"cima-image:{image}", f"v1;image={image}".encode())

    def execute(self, image: str, path: bytes, content: bytes) -> Line:
        return self.say(f"cima-exec:{image}:{escaped(path)}", f"v1;sha256:{sha(content).hex()}".encode())
