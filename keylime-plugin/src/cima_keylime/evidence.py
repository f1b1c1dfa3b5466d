# SPDX-License-Identifier: Apache-2.0
"""Evidence as `cima evidence` writes it: the `data` of `POST /v2.x/verify/evidence`, without a policy (`docs/FORMATS.md`, "Evidence").

Keylime judges a quote by any key, with any nonce, of any PCRs, and takes the node's word for which PCRs the values are of: it compares
their digest with the quote's, and not the selection (`checkquote`, keylime/tpm/tpm_util.py, 7.14.3). So what the TPM has signed is read here, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cima_keylime.marshalled import Reader
from cima_keylime.unusable import UnusableError, decoded, label, parse_texts, read_text, shown

# Nothing else. A policy would be the node's own, and of an `mb_log` Keylime takes the boot_aggregate into the policy.
_KEYS = ("quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak", "ima_measurement_list")
# Not SHA-1: collisions are made by anybody, and Keylime would take them.
_ALGORITHMS = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
_TPM_GENERATED_VALUE, _TPM_ST_ATTEST_QUOTE = 0xFF544347, 0x8018
#: `TPMS_CLOCK_INFO` and the firmware's version.
_CLOCK_AND_FIRMWARE = 17 + 8
IMA_PCR = 10


@dataclass(frozen=True)
class Quote:
    """What a TPM has signed. That it has, is for Keylime to check."""

    nonce: bytes
    #: algorithm of the bank, and PCR
    pcrs: frozenset[tuple[str, int]]
    #: over the values of these PCRs, by the key's algorithm
    digest: bytes


@dataclass(frozen=True)
class Evidence:
    """What a node says of itself."""

    data: dict[str, str]
    quote: Quote
    #: SHA-256 of the attestation key's public part, `TPM2B_PUBLIC`
    key_fingerprint: str

    @property
    def nonce(self) -> str:
        """As the node says that it was asked."""
        return self.data["nonce"]

    @property
    def bank(self) -> str:
        """The algorithm of the quoted bank. The key signs with the same, or Keylime refuses."""
        return self.data["hash_alg"]

    @property
    def ima_list(self) -> str:
        """The list, ASCII."""
        return self.data["ima_measurement_list"]

    def is_of(self, value: bytes) -> bool:
        """Whether the quote, if it is of PCR 10 alone, is of this value."""
        return hashlib.new(self.bank, value).digest() == self.quote.digest


def read(path: str) -> Evidence:
    """Reads evidence from a file, or from standard input for `-`."""
    return parse(read_text(path), label(path))


def parse(text: str, source: str) -> Evidence:
    """Reads evidence. Raises `UnusableError`, which names `source` and the key."""
    found = parse_texts(text, source, "evidence", _KEYS)
    for key in found.keys() - set(_KEYS):
        raise UnusableError(f'{source}: the key "{shown(key)}" is not one of evidence')
    if found["hash_alg"] not in _ALGORITHMS.values():
        raise UnusableError(f'{source}: "hash_alg" is none of {", ".join(_ALGORITHMS.values())}')
    decoded(found["tpm_ek"], f'{source}: "tpm_ek"')
    fingerprint = hashlib.sha256(decoded(found["tpm_ak"], f'{source}: "tpm_ak"')).hexdigest()
    return Evidence(found, _quote(found["quote"], f'{source}: "quote"'), fingerprint)


def _quote(text: str, where: str) -> Quote:
    parts = text[1:].split(":")
    if not text.startswith("r") or len(parts) != 3:
        raise UnusableError(f"{where} is not r and three parts")
    attest, _, _ = (decoded(part, where) for part in parts)
    try:
        return _attested(Reader(attest))
    except ValueError as error:
        raise UnusableError(f"{where} has no TPMS_ATTEST of a quote: it {error}") from error


def _attested(attest: Reader) -> Quote:
    """`TPMS_ATTEST` with `TPMS_QUOTE_INFO`, TPM 2.0 Library, Part 2, 10.12."""
    if (attest.u32(), attest.u16()) != (_TPM_GENERATED_VALUE, _TPM_ST_ATTEST_QUOTE):
        raise ValueError("is something else")
    # By which key, the signature says.
    attest.sized()
    nonce = attest.sized()
    attest.take(_CLOCK_AND_FIRMWARE)
    pcrs = set()
    for _ in range(attest.u32()):
        algorithm = attest.u16()
        bank = _ALGORITHMS.get(algorithm, f"{algorithm:#06x}")
        bits = attest.take(attest.u8())
        pcrs |= {(bank, 8 * n + bit) for n, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}
    digest = attest.sized()
    attest.end()
    return Quote(nonce, frozenset(pcrs), digest)
