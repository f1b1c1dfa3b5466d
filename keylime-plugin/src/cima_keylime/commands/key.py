# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime key`: which key a node's quotes are by, computed from the key itself."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import textwrap
from typing import Any

from cima_keylime import attestation_key
from cima_keylime.commands.shared import GOOD, NEGATIVE, command, json_argument
from cima_keylime.terminal import bad, verdict
from cima_keylime.unusable import UnusableError, label, shown, written


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = command(
        commands,
        "key",
        "Compute a key's name and fingerprint from what a node says of it. A key is refused that signs more than quotes, or that the node gives"
        " another key's name or fingerprint. Whether it is in a TPM only a credential proves, for this name and to a certified endorsement key.",
        """  ssh node cima evidence key --json > key.json
  AK=$(cima-keylime key key.json --fingerprint)
  cima-keylime key key.json --ek ek.pub --certificate ek.pem
  openssl verify -CAfile makers-of-tpms.pem ek.pem
  tpm2_makecredential -T none -u ek.pub -n NAME -s secret -o credential     # tpm2_activatecredential on the node opens it""",
        "0 good, 1 refused",
        _key,
    )
    parser.add_argument("key", metavar="KEY", help="what `cima evidence key --json` wrote; - is standard input")
    parser.add_argument(
        "--ek", metavar="FILE", help="write the endorsement key, TPM2B_PUBLIC as tpm2_makecredential -u reads it"
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="write the endorsement key's certificate, PEM, or DER if the name ends with .der",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--fingerprint", action="store_true", help="print nothing but what `verify --ak-sha256` takes")
    json_argument(form)


def _key(given: argparse.Namespace) -> int:
    said = attestation_key.read(given.key)
    faults = list(attestation_key.faults(said))
    if not faults:
        _write(said, given)
    with verdict():
        _print(said, faults, given)
    return NEGATIVE if faults else GOOD


def _print(said: attestation_key.KeyFile, faults: list[str], given: argparse.Namespace) -> None:
    if given.json:
        document = {
            "name": said.ak.name,
            "ak_sha256": said.ak.fingerprint,
            "certificate": said.certificate is not None,
            "faults": faults,
        }
        print(json.dumps(document))
    elif faults:
        # Standard output may be a variable of a script.
        for fault in faults:
            print(bad(f"{shown(label(given.key))}: {fault}"), file=sys.stderr)
    elif given.fingerprint:
        print(said.ak.fingerprint)
    else:
        vouched = "of tpm_ek; who signed it is not checked here" if said.certificate is not None else "none in the TPM"
        print(f"key          {attestation_key.kind_of(said.ak)}, restricted")
        print(f"name         {said.ak.name}\nfingerprint  {said.ak.fingerprint}\ncertificate  {vouched}")


def _write(said: attestation_key.KeyFile, given: argparse.Namespace) -> None:
    if given.certificate is not None and said.certificate is None:
        raise UnusableError(f"{label(given.key)}: --certificate: the node's TPM has none of its endorsement key")
    if given.ek is not None:
        with written(given.ek) as file:
            file.buffer.write(said.ek.marshalled)
    if given.certificate is not None and said.certificate is not None:
        with written(given.certificate) as file:
            file.buffer.write(
                said.certificate if given.certificate.endswith(".der") else _pem(said.certificate).encode()
            )


def _pem(certificate: bytes) -> str:
    text = "\n".join(textwrap.wrap(base64.b64encode(certificate).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"
