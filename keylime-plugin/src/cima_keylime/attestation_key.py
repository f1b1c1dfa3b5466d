# SPDX-License-Identifier: Apache-2.0
"""The key of a node as `cima evidence key --json` tells it, and what of that can be believed.

The node says all of it. Nothing but the public area of the key is taken: its name and fingerprint are computed here, and its attributes and scheme
say that the key, if it is in a TPM at all, signs only what that TPM says. That it is in one proves a credential for that name, to an
endorsement key that a TPM's maker has certified. Layouts: TPM 2.0 Library, Part 2, 12.2.4 `TPMT_PUBLIC`, 8.3 `TPMA_OBJECT`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cima_keylime import der
from cima_keylime.marshalled import Reader
from cima_keylime.unusable import UnusableError, decoded, label, parse_texts, read_text

_RSA, _ECC, _NULL = 0x0001, 0x0023, 0x0010
_SHA256 = 0x000B
_RSASSA, _RSAES, _ECDSA, _ECDAA = 0x0014, 0x0015, 0x0018, 0x001A
_P256 = 0x0003
#: Bytes of a coordinate: NIST P-256, P-384, P-521.
_CURVES = {_P256: 32, 0x0004: 48, 0x0005: 66}
_NO_DA = 1 << 10
_DECRYPT, _SIGN = 1 << 17, 1 << 18
_RESTRICTED = 1 << 16
_BORN_IN_TPM = {"fixedTPM": 1 << 1, "fixedParent": 1 << 4, "sensitiveDataOrigin": 1 << 5}
_NEEDED = {**_BORN_IN_TPM, "userWithAuth": 1 << 6, "restricted": _RESTRICTED, "sign": _SIGN}
_SHORTEST_RSA = 2048


@dataclass(frozen=True)
class Public:
    """A `TPM2B_PUBLIC`, as far as is asked here."""

    #: all of it, with the size in front
    marshalled: bytes
    kind: int
    name_algorithm: int
    attributes: int
    symmetric: int
    scheme: int
    scheme_hash: int
    #: of RSA the modulus' bits, of ECC the curve
    size: int
    #: of RSA
    exponent: int
    #: the modulus, or both coordinates
    unique: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """By which TPMs know it, if the name algorithm is SHA-256; hexadecimal."""
        return struct.pack(">H", _SHA256).hex() + hashlib.sha256(self.marshalled[2:]).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the `TPM2B_PUBLIC`, hexadecimal: what `verify --ak-sha256` takes."""
        return hashlib.sha256(self.marshalled).hexdigest()

    @property
    def subject_public_key(self) -> bytes:
        """As the `subjectPublicKey` of a certificate has it: RFC 3279, 2.3.1, and RFC 5480, 2.2."""
        if self.kind == _ECC:
            length = _CURVES.get(self.size, 0)
            return b"\x04" + b"".join(coordinate.rjust(length, b"\0") for coordinate in self.unique)
        return der.sequence(der.integer(self.unique[0]), der.integer(struct.pack(">I", self.exponent or 65537)))


@dataclass(frozen=True)
class KeyFile:
    """What a node says of its key."""

    ak: Public
    ek: Public
    #: of `ek`, DER
    certificate: bytes | None
    #: as the node has it, hexadecimal
    name: str
    fingerprint: str | None


def read(path: str) -> KeyFile:
    """Reads what `cima evidence key --json` wrote, from a file, or from standard input for `-`."""
    return parse(read_text(path), label(path))


def parse(text: str, source: str) -> KeyFile:
    """Reads it. Raises `UnusableError`, which names `source` and the key."""
    found = parse_texts(text, source, "key", ("name", "tpm_ak", "tpm_ek"), ("ak_sha256", "ek_certificate"))
    certificate = found.get("ek_certificate")
    fingerprint = found.get("ak_sha256")
    return KeyFile(
        ak=_public(found["tpm_ak"], f'{source}: "tpm_ak"'),
        ek=_public(found["tpm_ek"], f'{source}: "tpm_ek"'),
        certificate=_certificate(certificate, f'{source}: "ek_certificate"') if certificate is not None else None,
        name=_hexadecimal(found["name"], f'{source}: "name"'),
        fingerprint=_hexadecimal(fingerprint, f'{source}: "ak_sha256"') if fingerprint else None,
    )


def _hexadecimal(text: str, where: str) -> str:
    if re.fullmatch(r"([0-9A-Fa-f]{2})+", text) is None:
        raise UnusableError(f"{where} is not hexadecimal")
    return text.lower()


def _certificate(text: str, where: str) -> bytes:
    """Without what stands behind it: the TPM's storage for it may be longer."""
    try:
        whole = der.first(decoded(text, where))
        der.subject_public_key(whole)
    except ValueError as error:
        raise UnusableError(f"{where} is no certificate of X.509") from error
    return whole


def _public(text: str, where: str) -> Public:
    data = decoded(text, where)
    try:
        return _parsed(data)
    except ValueError as error:
        raise UnusableError(f"{where} is no TPM2B_PUBLIC of an RSA or ECC key: it {error}") from error


def _parsed(data: bytes) -> Public:
    whole = Reader(data)
    area = Reader(whole.sized())
    whole.end()
    kind, name_algorithm, attributes = area.u16(), area.u16(), area.u32()
    if kind not in (_RSA, _ECC):
        raise ValueError(f"has the type {kind:#06x}")
    # Of the authorization policy nothing is asked.
    area.sized()
    symmetric = _symmetric(area)
    scheme, scheme_hash = _scheme(area)
    size = area.u16()
    exponent = 0
    if kind == _RSA:
        exponent = area.u32()
        unique: tuple[bytes, ...] = (area.sized(),)
        if size % 8 or not size or len(unique[0]) != size // 8:
            raise ValueError("has a modulus of another length than it says")
    else:
        # The key derivation.
        _scheme(area)
        unique = (area.sized(), area.sized())
        if not all(0 < len(one) <= _CURVES.get(size, 128) for one in unique):
            raise ValueError("has no point of its curve")
    area.end()
    return Public(data, kind, name_algorithm, attributes, symmetric, scheme, scheme_hash, size, exponent, unique)


def _symmetric(area: Reader) -> int:
    """`TPMT_SYM_DEF_OBJECT`: algorithm, key bits, mode."""
    algorithm = area.u16()
    if algorithm != _NULL:
        area.take(4)
    return algorithm


def _scheme(area: Reader) -> tuple[int, int]:
    """`TPMT_ASYM_SCHEME` or `TPMT_KDF_SCHEME`: scheme, hash, and of ECDAA a counter."""
    scheme = area.u16()
    # These have no details.
    digest = area.u16() if scheme not in (_NULL, _RSAES) else 0
    if scheme == _ECDAA:
        area.u16()
    return scheme, digest


def faults(said: KeyFile) -> Iterator[str]:
    """Why the key's quotes prove nothing, or that the node says something else of it than it is."""
    yield from _faults_of_key(said.ak)
    if said.name != said.ak.name:
        yield f'"name" is that of another key: tpm_ak has {said.ak.name}'
    if said.fingerprint not in (None, said.ak.fingerprint):
        yield f'"ak_sha256" is that of another key: tpm_ak has {said.ak.fingerprint}'
    yield from _faults_of_endorsement(said.ek)
    if said.certificate is not None and der.subject_public_key(said.certificate) != said.ek.subject_public_key:
        yield '"ek_certificate" is of another key than tpm_ek'


def _faults_of_key(ak: Public) -> Iterator[str]:
    lacking = [name for name, bit in _NEEDED.items() if not ak.attributes & bit]
    if lacking:
        yield f"tpm_ak is no key that signs only what its TPM says: it is not {', '.join(lacking)}"
    others = ak.attributes & ~_NO_DA
    for bit in _NEEDED.values():
        others &= ~bit
    if others:
        what = "it decrypts, too" if others & _DECRYPT else f"it has the attributes {others:#x}, too"
        yield f"tpm_ak is no key that does nothing but sign: {what}"
    if ak.name_algorithm != _SHA256:
        yield "tpm_ak has another name algorithm than SHA-256"
    if ak.symmetric != _NULL:
        yield "tpm_ak is no signing key: it has a symmetric algorithm"
    if ak.kind == _ECC:
        if (ak.scheme, ak.scheme_hash, ak.size) != (_ECDSA, _SHA256, _P256):
            yield "tpm_ak does not sign by ECDSA over P-256 with SHA-256"
    elif (ak.scheme, ak.scheme_hash) != (_RSASSA, _SHA256):
        yield "tpm_ak does not sign by RSASSA with SHA-256"
    elif ak.size < _SHORTEST_RSA or ak.exponent not in (0, 65537):
        yield f"tpm_ak is an RSA key of less than {_SHORTEST_RSA} bits, or with an exponent of its own"


def _faults_of_endorsement(ek: Public) -> Iterator[str]:
    needed = {**_BORN_IN_TPM, "restricted": _RESTRICTED, "decrypt": _DECRYPT}
    lacking = [name for name, bit in needed.items() if not ek.attributes & bit]
    if lacking or ek.attributes & _SIGN:
        what = f"it is not {', '.join(lacking)}" if lacking else "it signs"
        yield f"tpm_ek is no endorsement key: {what}"
    elif ek.kind == _ECC and ek.size not in _CURVES:
        yield f"tpm_ek is on a curve that is not known here: {ek.size:#06x}"


def kind_of(ak: Public) -> str:
    """For people."""
    return "ECDSA, P-256, SHA-256" if ak.kind == _ECC else f"RSASSA, {ak.size} bits, SHA-256"
