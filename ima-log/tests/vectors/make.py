#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the vectors beside it, from the kernel's C code and hashlib: no line of ima-log is used.

ima_measurements_show, ima_ascii_measurements_show (ima_fs.c), ima_show_template_data_ascii
(ima_template_lib.c), ima_calc_field_array_hash_tfm (ima_crypto.c). The .cel and .cel.json from the TCG's "Canonical
Event Log Format", version 1.0, sections 4.2, 5.1 and 5.3.
"""
import hashlib
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
SIGNATURE = bytes.fromhex("0302045aa50102") + struct.pack(">H", 16) + bytes(range(16))


def digest(algorithm, data):
    return hashlib.new(algorithm, data).digest()


def sha256(text):
    return digest("sha256", text.encode())


class Entry:
    """Template fields are pairs of kernel field id and bytes; order is '<' or '>'."""

    def __init__(self, pcr, template, fields, violation=False):
        self.pcr, self.template, self.fields, self.violation = pcr, template, fields, violation

    def logged(self, order):
        if self.template == "ima":
            (_, file), (_, name) = self.fields
            return file + struct.pack(order + "I", len(name)) + name
        return b"".join(struct.pack(order + "I", len(b)) + b for _, b in self.fields)

    def hashed(self, order):
        if self.template == "ima":
            return self.fields[0][1] + self.fields[1][1].ljust(256, b"\0")
        return self.logged(order)

    def template_hash(self, order, algorithm):
        if self.violation:
            return bytes(BANKS[algorithm])
        return digest(algorithm, self.hashed(order))

    def binary(self, order, algorithm):
        record = struct.pack(order + "I", self.pcr) + self.template_hash(order, algorithm)
        record += struct.pack(order + "I", len(self.template)) + self.template.encode()
        data = self.logged(order)
        if self.template != "ima":
            record += struct.pack(order + "I", len(data))
        return record + data

    def ascii(self, order, algorithm):
        template_hash = self.template_hash(order, algorithm).hex()
        line = f"{self.pcr:2d} {template_hash} {self.template}".encode()
        return line + b"".join(b" " + column(*f, order) for f in self.fields) + b"\n"


def column(kind, data, order):
    if not data:
        return b""
    if kind in ("d-ng", "d-ngv2", "d-modsig"):
        prefix, file = data.split(b"\0", 1)
        return (b"" if prefix == b":" else prefix) + file.hex().encode()
    if kind in ("n", "n-ng", "xattrnames"):
        return data.rstrip(b"\0")
    if kind in ("iuid", "igid"):
        return b"%d" % struct.unpack(order + "I", data)
    if kind == "imode":
        return b"%d" % struct.unpack(order + "H", data)
    return data.hex().encode()


def d_ng(algorithm, file, kind="d-ng"):
    return (kind, algorithm.encode() + b":\0" + file)


def n_ng(name):
    return ("n-ng", name.encode() + b"\0")


def ng(pcr, algorithm, file, name, violation=False):
    return Entry(pcr, "ima-ng", [d_ng(algorithm, file), n_ng(name)], violation)


def sig(pcr, algorithm, file, name, signature=b"", violation=False):
    fields = [d_ng(algorithm, file), n_ng(name), ("sig", signature)]
    return Entry(pcr, "ima-sig", fields, violation)


def buf(pcr, algorithm, name, payload):
    fields = [d_ng(algorithm, digest(algorithm, payload)), n_ng(name), ("buf", payload)]
    return Entry(pcr, "ima-buf", fields)


def original(pcr, file, name, violation=False):
    return Entry(pcr, "ima", [("d", file), ("n", name)], violation)


TALK = [
    ng(10, "sha256", bytes.fromhex("d3f7d10e296e5c626ea78539cb38cd8dffd043bea3627da35ce3b20c0ac68014"), "/hello"),
    ng(11, "sha256", bytes.fromhex("aa15dcbe503ee00f9f72924e8bea3b0c9bd42ca5205c40e70dde9d7c963e56e0"), "4026532559:/hello"),
    ng(11, "sha256", bytes.fromhex("6f3671bd20ed4b121ee0f8175a3b312300a33a79444239371863bfb5c6ea8e97"), "4026532559"),
    buf(10, "sha256", "container", bytes.fromhex(
        "02bcda52c1a5dfc236f94d9e5255b4a0e26347d8a372a5223b650e31f291ce3c0100000000000000010000f000000000")),
]
COMMON = [
    ng(10, "sha256", sha256("boot"), "boot_aggregate"),
    sig(10, "sha256", sha256("ls"), "/usr/bin/ls"),
    sig(10, "sha512", digest("sha512", b"x"), "/usr/bin/x", SIGNATURE),
    buf(13, "sha256", "cima-image:sha256:00ff", b"v1;image=sha256:00ff"),
    buf(10, "sha384", "empty", b""),
]
VIOLATIONS = [
    COMMON[0],
    ng(10, "sha256", bytes(20), "/var/log/old-kernel", violation=True),
    sig(10, "sha256", bytes(32), "/var/log/new-kernel", violation=True),
    original(10, bytes(20), b"/var/log/original", violation=True),
    COMMON[1],
]
ORIGINAL = [
    original(10, digest("sha1", b"boot"), b"boot_aggregate"),
    original(10, digest("sha1", b"ls"), b"/usr/bin/ls"),
    original(10, digest("sha1", b"long"), b"/" + b"n" * 254),
]


def newer_templates(order):
    verity, v2 = d_ng("verity:sha256", sha256("v"), "d-ngv2"), d_ng("ima:sha256", sha256("v"), "d-ngv2")
    modsig = [("sig", b""), d_ng("sha512", digest("sha512", b"m"), "d-modsig"), ("modsig", b"\x30\x82\x01")]
    unsigned = [("sig", b""), ("d-modsig", b""), ("modsig", b"")]
    evm = [
        ("evmsig", SIGNATURE),
        ("xattrnames", b"security.ima|security.capability\0"),
        ("xattrlengths", struct.pack(order + "II", 33, 20)),
        ("xattrvalues", bytes(range(53))),
        ("iuid", struct.pack(order + "I", 1000)),
        ("igid", struct.pack(order + "I", 65534)),
        ("imode", struct.pack(order + "H", 0o100755)),
    ]
    mode = ("imode", struct.pack(order + "H", 0o100644))
    return [
        Entry(10, "ima-ngv2", [verity, n_ng("/usr/bin/verity")]),
        Entry(10, "ima-sigv2", [v2, n_ng("/usr/bin/v2"), ("sig", SIGNATURE)]),
        Entry(10, "ima-modsig", [d_ng("sha256", sha256("m")), n_ng("/lib/modules/m.ko"), *modsig]),
        Entry(10, "ima-modsig", [d_ng("sha256", sha256("m2")), n_ng("/lib/modules/unsigned.ko"), *unsigned]),
        Entry(10, "evm-sig", [d_ng("sha256", sha256("e")), n_ng("/usr/bin/evm"), *evm]),
        Entry(10, "d-ng|n-ng|imode", [d_ng("sha256", sha256("f")), n_ng("/usr/bin/format"), mode]),
        ng(10, "sm3", bytes(range(32)), "/usr/bin/sm3"),
    ]


def pcrs(entries, order):
    for pcr in sorted({e.pcr for e in entries}):
        for bank, length in BANKS.items():
            value = bytes(length)
            for e in (e for e in entries if e.pcr == pcr):
                extended = b"\xff" * length if e.violation else digest(bank, e.hashed(order))
                value = digest(bank, value + extended)
            yield f"{pcr} {bank}:{value.hex()}\n"


CEL_BANKS = {"sha256": 0x0B, "sha1": 0x04}


def extended(entry, bank):
    return b"\xff" * BANKS[bank] if entry.violation else digest(bank, entry.hashed("<"))


def numbered(entries):
    numbers = {}
    for entry in entries:
        yield numbers.setdefault(entry.pcr, 0), entry
        numbers[entry.pcr] += 1


def tlv(kind, value):
    return struct.pack(">BI", kind, len(value)) + value


def cel_tlv(entries):
    for number, entry in numbered(entries):
        yield tlv(0, struct.pack(">Q", number))
        yield tlv(1, bytes([entry.pcr]))
        yield tlv(3, b"".join(tlv(kind, extended(entry, bank)) for bank, kind in CEL_BANKS.items()))
        yield tlv(7, tlv(0, entry.template.encode()) + tlv(1, entry.logged("<")))


def cel_json(entries):
    return [
        {
            "recnum": number,
            "pcr": entry.pcr,
            "digests": [{"hashAlg": bank, "digest": extended(entry, bank).hex()} for bank in CEL_BANKS],
            "content_type": "ima_template",
            "content": {"template_name": entry.template, "template_data": entry.logged("<").hex()},
        }
        for number, entry in numbered(entries)
    ]


def write_cel(name, entries):
    (HERE / f"{name}.cel").write_bytes(b"".join(cel_tlv(entries)))
    (HERE / f"{name}.cel.json").write_text(json.dumps(cel_json(entries), indent=1) + "\n")


def write(name, entries, order="<", algorithm="sha1"):
    (HERE / f"{name}.bin").write_bytes(b"".join(e.binary(order, algorithm) for e in entries))
    (HERE / f"{name}.ascii").write_bytes(b"".join(e.ascii(order, algorithm) for e in entries))
    (HERE / f"{name}.pcrs").write_text("".join(pcrs(entries, order)))


write("talk", TALK)
write("common", COMMON)
write("violations", VIOLATIONS)
write("original", ORIGINAL)
write("newer-templates", newer_templates("<"))
write("big-endian", COMMON + ORIGINAL + newer_templates(">"), ">")
write("per-algorithm-sha256", COMMON + VIOLATIONS, "<", "sha256")
write("per-algorithm-sha512", COMMON + VIOLATIONS, ">", "sha512")
write_cel("common", COMMON)
write_cel("violations", VIOLATIONS)
