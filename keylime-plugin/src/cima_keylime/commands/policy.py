# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime policy`: runtime policies are made, joined, changed and shown."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator
from typing import Any

from cima_keylime import images, measurement_list, names, reference, runtime_policy
from cima_keylime.commands.shared import GOOD, NEGATIVE, command, json_argument, read_policy
from cima_keylime.runtime_policy import Policy
from cima_keylime.terminal import bad, verdict
from cima_keylime.unusable import UnusableError, label, shown, written


def add_to(commands: Any) -> None:
    """Adds the commands."""
    parser = commands.add_parser(
        "policy", help="make and change runtime policies", description="Makes and changes runtime policies."
    )
    policies = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_make, _add_merge, _add_add, _add_remove, _add_show):
        add(policies)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to a file, which is replaced at once, instead of standard output",
    )


def _sink(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    parser.add_argument("--sink", choices=(*images.SINKS, "both"), default=default, help=text)


def _sinks(given: str) -> tuple[str, ...]:
    return images.FORMS if given == "both" else (given,)


def _write_policy(policy: Policy, given: argparse.Namespace, source: str) -> int:
    _refuse_violations(policy, source)
    with written(given.output) as file:
        runtime_policy.write(policy, file)
    return GOOD


def _refuse_violations(policy: Policy, source: str) -> None:
    """Nor may an exclude let one pass. Those that might are kept from cima's names."""
    changed = runtime_policy.guard_excludes(policy, source)
    if changed:
        print(f"{source}: {changed} excludes kept from names of cima's", file=sys.stderr)
    runtime_policy.refuse_violations(policy, source)


def _add_make(to: Any) -> None:
    parser = command(
        to,
        "make",
        "Make a runtime policy for images. It allows what the references have, and no violation.",
        """  cima reference containers-storage:localhost/web:1 -o web.json
  keylime-policy create runtime --ima-measurement-list HOST_LIST -o host.json
  cima-keylime policy make web.json db.json --base host.json --agent binary=/usr/sbin/cimad -o policy.json
  cima-keylime policy make web.json --base host.json --drop-cima --agent-list HOST_LIST -o policy.json""",
        "0 made",
        _make,
    )
    parser.add_argument(
        "references",
        nargs="*",
        metavar="REFERENCE",
        help="what `cima reference` wrote of an image; - is standard input",
    )
    parser.add_argument("--base", metavar="POLICY", help="the host's policy, into which the images are put")
    parser.add_argument(
        "--drop-cima",
        action="store_true",
        help="leave out of the host's policy what is cima's, as one made of a node's list has it",
    )
    _sink(
        parser,
        "both",
        "where cima has its entries: in the kernel's list as ima-buf, by the module, or as files, or in a list of its own [default: both of the kernel's]",
    )
    parser.add_argument(
        "--agent",
        action="append",
        default=[],
        metavar="PART=FILE|sha256:HEX",
        help=f"a part of the agent: {', '.join(images.AGENT_PARTS)}; the file itself or its digest (of admission: what `cima policy test --json` calls policy)",
    )
    parser.add_argument(
        "--agent-list",
        action="append",
        default=[],
        metavar="LIST",
        help="take the agent's parts from the list of a node that is trusted: the host's or the agent's own",
    )
    _output(parser)


def _make(given: argparse.Namespace) -> int:
    policy = runtime_policy.empty()
    if given.base is not None:
        policy = read_policy(given.base)
        if given.drop_cima:
            dropped = runtime_policy.without_cima(policy)
            print(f"{label(given.base)}: {dropped} names of cima's left out", file=sys.stderr)
        _refuse_violations(policy, label(given.base))
    policy["meta"].update(version=runtime_policy.VERSION, generator=runtime_policy.GENERATOR)
    sinks = _sinks(given.sink)
    parts = [_agent_part(text) for text in given.agent]
    parts += [part for path in given.agent_list for part in _agent_parts_of(path)]
    if not parts:
        print(
            "warning: no part of the agent is allowed: Keylime will refuse cima-agent:binary and the others;"
            " give --agent or --agent-list",
            file=sys.stderr,
        )
    images.allow_agent(policy, parts, sinks)
    for path in given.references:
        images.allow(policy, reference.read(path), sinks, label(path))
    return _write_policy(policy, given, "the policy")


def _agent_part(text: str) -> tuple[str, str]:
    part, _, value = text.partition("=")
    if part not in images.AGENT_PARTS or not value:
        raise UnusableError(
            f'--agent "{shown(text)}": not PART=FILE or PART=sha256:HEX with one of {", ".join(images.AGENT_PARTS)}'
        )
    if not names.is_image_digest(value):
        if part == "admission":
            raise UnusableError(f'--agent "{shown(text)}": the digest of an admission policy is not that of a file')
        value = f"sha256:{images.digest_of_file(value)}"
    return f"cima-agent:{part}", images.digest_of(f"v1;{value}")


def _agent_parts_of(path: str) -> Iterator[tuple[str, str]]:
    found = False
    for entry in measurement_list.read(path):
        if entry.name.startswith("cima-agent:"):
            if entry.is_violation or entry.fault is not None:
                raise UnusableError(f"{label(path)}: entry {entry.number} is not consistent with itself")
            if entry.algorithm != "sha256":
                raise UnusableError(
                    f"{label(path)}: entry {entry.number} has a digest by {shown(entry.algorithm)}: the node needs ima_hash=sha256"
                )
            found = True
            yield entry.name, entry.digest.hex()
    if not found:
        raise UnusableError(f"{label(path)}: no entry of the agent's in it")


def _add_merge(to: Any) -> None:
    parser = command(
        to,
        "merge",
        "Join runtime policies. What any of them allows or excludes, the result does; excludes are kept from names of cima's.",
        """  cima-keylime policy merge host.json web.json db.json -o policy.json
  cima-keylime policy merge policy.json -o policy.json      # one of somebody else's, so that it may be pushed""",
        "0 joined",
        _merge,
    )
    parser.add_argument("policies", nargs="+", metavar="POLICY", help="- is standard input")
    _output(parser)


def _merge(given: argparse.Namespace) -> int:
    first, *others = given.policies
    policy = read_policy(first)
    _refuse_violations(policy, label(first))
    for path in others:
        other = read_policy(path)
        _refuse_violations(other, label(path))
        images.merge(policy, other, label(path))
    return _write_policy(policy, given, "the policy")


def _add_add(to: Any) -> None:
    parser = command(
        to,
        "add",
        "Allow more images. Before a rollout: the old ones stay allowed until they are removed.",
        """  cima-keylime policy add policy.json web-2.json -o policy.json
  cima-keylime policy add policy.json web-2.json | cima-keylime push --verifier URL --name web --update -""",
        "0 added",
        _add,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="what `cima reference` wrote of an image")
    _sink(parser, None, "[default: what the policy's images have]")
    _output(parser)


def _add(given: argparse.Namespace) -> int:
    policy = read_policy(given.policy)
    sinks = _sinks(given.sink) if given.sink else images.sinks_of(policy) or images.FORMS
    images.allow_agent(policy, (), sinks)
    for path in given.references:
        images.allow(policy, reference.read(path), sinks, label(path))
    return _write_policy(policy, given, label(given.policy))


def _add_remove(to: Any) -> None:
    parser = command(
        to,
        "remove",
        "Withdraw images. After a rollout; all that is not of these images stays as it is.",
        """  cima-keylime policy remove policy.json sha256:8c2f30… -o policy.json
  cima-keylime policy remove policy.json web:1 -o policy.json""",
        "0 withdrawn",
        _remove,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="name, digest, or the beginning of one (8 digits or more)"
    )
    _output(parser)


def _remove(given: argparse.Namespace) -> int:
    policy = read_policy(given.policy)
    for image in [images.find(policy, wanted, label(given.policy)) for wanted in given.images]:
        images.withdraw(policy, image)
    return _write_policy(policy, given, label(given.policy))


def _add_show(to: Any) -> None:
    parser = command(
        to,
        "show",
        "Show which images a policy allows. Also what else is in it, and whether Keylime would take it.",
        "  cima-keylime policy show policy.json\n  cima-keylime policy show policy.json --json | jq '.images[].image'",
        "0 shown, 1 it lets violations pass",
        _show,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    json_argument(parser)


def _show(given: argparse.Namespace) -> int:
    policy = read_policy(given.policy)
    fault = ""
    try:
        runtime_policy.refuse_violations(policy, label(given.policy))
    except UnusableError as error:
        fault = str(error)
    allowed = images.allowed(policy)
    others = images.others(policy)
    there = [name for key in images.TABLES for name in policy[key]]
    host = sum(not name.startswith(names.PREFIX) for name in there)
    agent = sorted({name.partition(":")[2] for name in there if name.startswith("cima-agent:")})
    document = {
        "images": [vars(one) for one in allowed.values()],
        "agent": agent,
        "host": host,
        "others": others,
        "excludes": policy["excludes"],
        "fault": fault or None,
    }
    with verdict():
        if given.json:
            print(json.dumps(document))
        else:
            _print(allowed.values(), agent, host, others, fault)
    return NEGATIVE if fault else GOOD


def _print(allowed: Collection[images.Allowed], agent: list[str], host: int, others: list[str], fault: str) -> None:
    for one in allowed:
        sinks = ", ".join(one.sinks) or bad("not admitted")
        print(f"{one.image}  {shown(one.name or '-')}  {one.executables} executables  {sinks}")
    print(f"{len(allowed)} images; agent: {', '.join(map(shown, agent)) or 'no part'}; {host} names of the host's")
    for name in others:
        print(f"also allowed: {shown(name)}")
    if fault:
        print(bad(f"fault: {fault}"))
