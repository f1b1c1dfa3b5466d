# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime explain`: why Keylime refused, or would refuse a list."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from cima_keylime import explanation, failures, measurement_list
from cima_keylime.commands.shared import GOOD, NEGATIVE, command, json_argument, read_policy, report
from cima_keylime.unusable import UnusableError, label, read_text


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = command(
        commands,
        "explain",
        "Say in terms of containers why Keylime refused. Or judge a list's entries of cima's as Keylime would, without a verifier.",
        """  cima-keylime explain answer.json --policy policy.json         # of /verify/evidence, a revocation message, an agent's status
  journalctl -u keylime_verifier | cima-keylime explain - --policy policy.json --node node7
  cima-keylime explain --list ascii_runtime_measurements --policy policy.json""",
        "0 nothing to explain, 1 what is explained is a failure",
        _explain,
    )
    parser.add_argument(
        "failure", nargs="?", metavar="FAILURE", help="JSON of Keylime's, or its log; - is standard input"
    )
    parser.add_argument("--policy", metavar="POLICY", help="tells which images are known, and their names")
    parser.add_argument(
        "--list",
        metavar="LIST",
        help="the node's list: tells what was executed; without FAILURE it is judged",
    )
    parser.add_argument("--node", help="the node's name [default: the agent's id, if Keylime says it]")
    json_argument(parser)


def _explain(given: argparse.Namespace) -> int:
    policy = read_policy(given.policy) if given.policy is not None else None
    if given.failure is not None:
        return _failures(given, explanation.Explainer(policy))
    if given.list is None or policy is None:
        raise UnusableError("explain needs FAILURE, or --list and --policy")
    counts: Counter[str] = Counter()
    found = explanation.Explainer(policy).entries(measurement_list.read(given.list), policy, counts)
    findings = explanation.joined(found)
    summary = f"{counts['cima']} entries of cima's, {len(findings)} findings; {counts['other']} of others' are not judged here"
    report(findings, given, {"entries": counts["cima"], "others": counts["other"]}, summary)
    return NEGATIVE if findings else GOOD


def _failures(given: argparse.Namespace, explainer: explanation.Explainer) -> int:
    said = failures.parse(read_text(given.failure), label(given.failure))
    entries = measurement_list.read(given.list) if given.list is not None else iter(())
    findings = explainer.failures(said, entries)
    agents = {failure.agent for failure in said if failure.agent}
    if given.node is None and len(agents) == 1:
        (given.node,) = agents
    report(findings, given, {}, f"{len(said)} failures" if said else "no failure")
    return NEGATIVE if findings else GOOD
