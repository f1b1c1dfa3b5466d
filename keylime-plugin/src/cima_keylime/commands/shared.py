# SPDX-License-Identifier: Apache-2.0
"""What the commands share: exit codes, arguments, how policies come in and findings go out."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any

from cima_keylime import explanation, images, runtime_policy
from cima_keylime.runtime_policy import Policy
from cima_keylime.terminal import bad, good, verdict
from cima_keylime.unusable import label, read_text, shown
from cima_keylime.verifier import Tls, Verifier

GOOD, NEGATIVE, UNUSABLE = 0, 1, 2
_EXIT_CODES = "Exit codes: {}, 2 usage, an input that cannot be used, or surroundings that do not answer."


def command(
    to: Any, name: str, text: str, examples: str, codes: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """A command with examples and exit codes in its help."""
    parser: argparse.ArgumentParser = to.add_parser(
        name,
        help=text.partition(".")[0],
        description=text,
        epilog=f"Examples:\n{examples}\n\n{_EXIT_CODES.format(codes)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def json_argument(parser: argparse._ActionsContainer) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def read_policy(path: str) -> Policy:
    """A policy that may be changed or shown."""
    return _checked(read_text(path), path)


def pushable(path: str) -> tuple[str, Policy]:
    """A policy that may be given to a verifier, and its text, which is what is given."""
    text = read_text(path)
    policy = _checked(text, path)
    runtime_policy.refuse_violations(policy, label(path))
    return text, policy


def _checked(text: str, path: str) -> Policy:
    policy = runtime_policy.parse(text, label(path))
    images.check_meta(policy, label(path))
    return policy


def verifier_arguments(parser: argparse.ArgumentParser) -> None:
    """How to reach a verifier."""
    parser.add_argument("--verifier", required=True, metavar="URL", help="https://HOST:PORT")
    parser.add_argument("--ca", metavar="FILE", help="CA of the verifier's certificate, PEM [default: the system's]")
    parser.add_argument("--cert", metavar="FILE", help="certificate by which the verifier knows an administrator, PEM")
    parser.add_argument("--key", metavar="FILE", help="its key, PEM [default: in the file of --cert]")
    parser.add_argument(
        "--no-check-hostname",
        action="store_true",
        help="take any certificate of the CA's, whatever host it names, as keylime_tenant does",
    )
    parser.add_argument("--timeout", type=_seconds, default=60, metavar="SECONDS", help="for each answer [default: 60]")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= 86400:
            return seconds
    raise argparse.ArgumentTypeError(f"{shown(text)}: not seconds, more than 0 and a day at most")


def verifier(given: argparse.Namespace) -> Verifier:
    """The verifier that the arguments mean."""
    return Verifier(given.verifier, Tls(given.ca, given.cert, given.key, not given.no_check_hostname), given.timeout)


def report(findings: list[explanation.Finding], given: argparse.Namespace, more: dict[str, Any], summary: str) -> None:
    """Findings and a summary, as text or as one JSON object."""
    node = getattr(given, "node", None)
    with verdict():
        if given.json:
            document = {**more, "node": node, "findings": [finding.to_json() for finding in findings]}
            print(json.dumps({key: value for key, value in document.items() if value is not None}))
            return
        on = f"node {shown(node)}: " if node else ""
        for finding in findings:
            times = f" ({finding.count} times)" if finding.count > 1 else ""
            print(f"{on}{finding.text}{times}")
        print((bad if findings else good)(summary))
