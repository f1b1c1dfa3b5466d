# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime verify`: a verifier judges evidence, and what it leaves to its caller is judged here."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cima_keylime import evidence, explanation, failures, measurement_list
from cima_keylime.commands.shared import (
    GOOD,
    NEGATIVE,
    command,
    json_argument,
    pushable,
    report,
    verifier,
    verifier_arguments,
)
from cima_keylime.runtime_policy import Policy
from cima_keylime.unusable import label


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = command(
        commands,
        "verify",
        "Have a verifier judge the evidence of a node. The node need not be enrolled.",
        """  NONCE=$(openssl rand -hex 16)
  ssh node cima evidence --nonce $NONCE > evidence.json
  cima-keylime verify --verifier https://verifier:8881 --ca ca.crt --policy policy.json --nonce $NONCE --ak-sha256 HEX evidence.json""",
        "0 valid, 1 not valid",
        _verify,
    )
    parser.add_argument("evidence", metavar="EVIDENCE", help="what `cima evidence` wrote; - is standard input")
    parser.add_argument("--policy", required=True, metavar="POLICY", help="the runtime policy")
    parser.add_argument("--nonce", help="what the node was asked with; without it an old quote is taken for a new one")
    parser.add_argument(
        "--ak-sha256",
        metavar="HEX",
        help="SHA-256 of the node's attestation key (TPM2B_PUBLIC, as `tpm2_createak -u` writes it); without it any key's quote is taken",
    )
    verifier_arguments(parser)
    json_argument(parser)


def _verify(given: argparse.Namespace) -> int:
    said = evidence.read(given.evidence)
    text, policy = pushable(given.policy)
    findings = list(_not_bound(said, given))
    keylime: bool | None = None
    if not findings:
        answer = verifier(given).verify({**said.data, "runtime_policy": text})
        keylime = bool(answer["valid"])
        explainer = explanation.Explainer(policy)
        if keylime:
            findings = _not_looked_at(said, explainer, policy, label(given.evidence))
        else:
            reasons = failures.parse(json.dumps(answer), "the answer")
            findings = explainer.failures(reasons, measurement_list.readable(said.ima_list.split("\n")))
    valid = keylime is True and not findings
    report(findings, given, {"valid": valid, "keylime": keylime}, "valid" if valid else "not valid")
    return GOOD if valid else NEGATIVE


def _not_bound(said: evidence.Evidence, given: argparse.Namespace) -> Iterator[explanation.Finding]:
    """What makes the evidence that of another time, another TPM or another PCR, whatever it says."""
    if given.nonce is None:
        print("warning: without --nonce the evidence may be an old one", file=sys.stderr)
    elif given.nonce != said.nonce:
        yield explanation.Finding("the evidence was made for another nonce", "cima.nonce")
    # Keylime takes the nonce as base64, too. Lone surrogates are of no text that was a nonce.
    if said.quote.nonce != said.nonce.encode("utf-8", "surrogatepass"):
        yield explanation.Finding("the quote was made for another nonce than the evidence says", "cima.nonce")
    if given.ak_sha256 is None:
        print(
            f"warning: without --ak-sha256 any key may have made the quote; it was {said.key_fingerprint}",
            file=sys.stderr,
        )
    elif given.ak_sha256.lower() != said.key_fingerprint:
        yield explanation.Finding(f"the quote is by another key: sha256 {said.key_fingerprint}", "cima.key")
    if (said.bank, evidence.IMA_PCR) not in said.quote.pcrs:
        yield explanation.Finding("the quote is not of PCR 10: it says nothing of the list", "cima.pcr")
    elif len(said.quote.pcrs) > 1:
        # Which of the values is which PCR's, only the node says.
        yield explanation.Finding("the quote is of other PCRs than 10, too: `cima evidence` makes none", "cima.pcr")


def _not_looked_at(
    said: evidence.Evidence, explainer: explanation.Explainer, policy: Policy, source: str
) -> list[explanation.Finding]:
    """What Keylime leaves to its caller: see README, "What Keylime leaves to others"."""
    replay = measurement_list.Replay(said.bank)
    entries = measurement_list.ascii_list(said.ima_list.split("\n"), f'{source}: "ima_measurement_list"')
    findings = explanation.joined(explainer.entries(replay.through(entries), policy, Counter()))
    # Keylime is content if a beginning of the list gives the value.
    if not said.is_of(replay.value):
        findings += explainer.failures([failures.Failure("ima.pcr_mismatch")])
    return findings
