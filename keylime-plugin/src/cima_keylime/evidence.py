# SPDX-License-Identifier: Apache-2.0
"""Evidence as `cima evidence` writes it: the `data` of `POST /v2.x/verify/evidence`, without a policy.

Keylime judges a quote by any key, with any nonce, of any PCRs: an evidence whose quote lacks PCR 10 is valid to it,
and its list is not looked at (`check_pcrs`, keylime/tpm/tpm_main.py, 7.14.3). What it leaves to its caller is here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

from cima_keylime.unusable import UnusableError, label, parse_json, read_text, shown

_NEEDED = ("quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak", "ima_measurement_list")
# Nothing else: a policy in it would be the node's own.
_ALLOWED = {*_NEEDED, "mb_log"}
# Not SHA-1: collisions are made by anybody, and Keylime would take them.
_ALGORITHMS = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
IMA_PCR = 10


@dataclass(frozen=True)
class Evidence:
    """What a node says of itself."""

    data: dict[str, str]

    @property
    def nonce(self) -> str:
        """As the node says that it was asked."""
        return self.data["nonce"]

    @property
    def ima_list(self) -> str:
        """The list, ASCII."""
        return self.data["ima_measurement_list"]

    @property
    def key_fingerprint(self) -> str:
        """SHA-256 of the attestation key's public part, `TPM2B_PUBLIC`."""
        return hashlib.sha256(base64.b64decode(self.data["tpm_ak"])).hexdigest()


def read(path: str) -> Evidence:
    """Reads evidence from a file, or from standard input for `-`."""
    return parse(read_text(path), label(path))


def parse(text: str, source: str) -> Evidence:
    """Reads evidence. Raises `UnusableError`, which names `source` and the key."""
    found = parse_json(text, source)
    if not isinstance(found, dict):
        raise UnusableError(f"{source}: no evidence: no JSON object")
    for key in _NEEDED:
        if not isinstance(found.get(key), str) or not found[key]:
            raise UnusableError(f'{source}: no evidence: the key "{key}" is missing, empty or no text')
    for key in found.keys() - _ALLOWED:
        raise UnusableError(f'{source}: the key "{shown(key)}" is not one of evidence')
    if not isinstance(found.get("mb_log", ""), str):
        raise UnusableError(f'{source}: "mb_log" is no text')
    if found["hash_alg"] not in _ALGORITHMS.values():
        raise UnusableError(f'{source}: "hash_alg" is none of {", ".join(_ALGORITHMS.values())}')
    for key in ("tpm_ek", "tpm_ak"):
        _decoded(found[key], f'{source}: "{key}"')
    evidence = Evidence(found)
    quoted_pcrs(evidence, source)
    return evidence


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableError(f"{where} is no base64") from error


def quoted_pcrs(evidence: Evidence, source: str) -> set[int]:
    """The PCRs that the quote is of, in the bank of `hash_alg` (`TPMS_ATTEST`, TPM 2.0 part 2, 10.12.12).

    The signature covers this, but is not checked here: Keylime does.
    """
    kind, *parts = evidence.data["quote"][:1], *evidence.data["quote"][1:].split(":")
    if kind != "r" or len(parts) != 3:
        raise UnusableError(f'{source}: "quote" is not r and three parts')
    attest, _, _ = (_decoded(part, f'{source}: "quote"') for part in parts)
    try:
        return _selected(attest, evidence.data["hash_alg"])
    except (struct.error, IndexError) as error:
        raise UnusableError(f'{source}: "quote" has no TPMS_ATTEST of a quote') from error


def _selected(attest: bytes, hash_alg: str) -> set[int]:
    magic, kind, signer_length = struct.unpack_from(">IHH", attest)
    # TPM_GENERATED_VALUE and TPM_ST_ATTEST_QUOTE
    if (magic, kind) != (0xFF544347, 0x8018):
        raise IndexError
    at = 8 + signer_length
    (extra_length,) = struct.unpack_from(">H", attest, at)
    # clockInfo has 17 bytes, firmwareVersion 8.
    at += 2 + extra_length + 17 + 8
    (count,) = struct.unpack_from(">I", attest, at)
    at += 4
    selected = set()
    for _ in range(count):
        algorithm, size = struct.unpack_from(">HB", attest, at)
        bits = attest[at + 3 : at + 3 + size]
        if len(bits) != size:
            raise IndexError
        if _ALGORITHMS.get(algorithm) == hash_alg:
            selected |= {8 * n + bit for n, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}
        at += 3 + size
    return selected
