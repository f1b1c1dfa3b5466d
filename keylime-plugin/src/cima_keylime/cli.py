# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime`: the one place where arguments become calls and errors exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from cima_keylime import (
    __version__,
    evidence,
    explain,
    failures,
    images,
    measurement_list,
    names,
    reference,
    runtime_policy,
)
from cima_keylime.measurement_list import Entry
from cima_keylime.runtime_policy import Policy
from cima_keylime.terminal import bad, good
from cima_keylime.unusable import UnusableError, label, read_text, shown, written
from cima_keylime.verifier import RefusedError, Tls, Verifier

GOOD, NEGATIVE, UNUSABLE = 0, 1, 2
_EXIT_CODES = "Exit codes: {}, 2 usage, an input that cannot be used, or surroundings that do not answer."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    given = make_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        code = run(given)
        sys.stdout.flush()
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        # Who read has enough. Nothing more can be written, not at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return GOOD
    except MemoryError:
        print("error: an input is too large for the memory of this machine", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return 130
    return code


def make_parser() -> argparse.ArgumentParser:
    """All commands. `shtab cima_keylime.cli.make_parser` makes completions of it."""
    parser = _Parser(
        prog="cima-keylime",
        description="Makes Keylime runtime policies for containers that cima measures, and says in their terms"
        " what Keylime finds. Keylime is used as it is.",
        epilog="""Examples:
  cima-keylime policy make web.json --base host.json -o policy.json
  cima-keylime push --verifier https://verifier:8881 --name web --ca ca.crt --cert me.crt --key me.pem policy.json
  cima-keylime explain failure.json --policy policy.json""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cima-keylime {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    policy = commands.add_parser(
        "policy", help="make and change runtime policies", description="Makes and changes runtime policies."
    )
    policies = policy.add_subparsers(metavar="COMMAND", required=True)
    _add_make(policies)
    _add_merge(policies)
    _add_add(policies)
    _add_remove(policies)
    _add_show(policies)
    _add_push(commands)
    _add_verify(commands)
    _add_explain(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Usage errors are 2 already; this one has no abbreviations, which scripts would come to need."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)


def _command(
    to: Any, name: str, text: str, examples: str, codes: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = to.add_parser(
        name,
        help=text.partition(".")[0],
        description=text,
        epilog=f"Examples:\n{examples}\n\n{_EXIT_CODES.format(codes)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to a file, which is replaced at once, instead of standard output",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _sink(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    parser.add_argument("--sink", choices=(*images.SINKS, "both"), default=default, help=text)


def _sinks(given: str) -> tuple[str, ...]:
    return images.SINKS if given == "both" else (given,)


def _read_policy(path: str) -> Policy:
    policy = runtime_policy.read(path)
    images.check_meta(policy, label(path))
    return policy


def _write_policy(policy: Policy, given: argparse.Namespace, source: str) -> int:
    runtime_policy.refuse_violations(policy, source)
    with written(given.output) as file:
        runtime_policy.write(policy, file)
    return GOOD


# --- policy make


def _add_make(to: Any) -> None:
    parser = _command(
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
    _sink(parser, "both", "where cima has its entries: as ima-buf, by the module, or as files [default: both]")
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
        policy = _read_policy(given.base)
        if given.drop_cima:
            dropped = runtime_policy.without_cima(policy)
            print(f"{label(given.base)}: {dropped} names of cima's left out", file=sys.stderr)
        runtime_policy.refuse_violations(policy, label(given.base))
    policy["meta"].update(version=runtime_policy.VERSION, generator=runtime_policy.GENERATOR)
    sinks = _sinks(given.sink)
    parts = [part for text in given.agent for part in [_agent_part(text)]]
    parts += [part for path in given.agent_list for part in _agent_parts_of(path)]
    if not parts:
        print(
            "warning: no part of the agent is allowed: Keylime will refuse cima-agent:binary and the others;"
            " give --agent or --agent-list",
            file=sys.stderr,
        )
    images.allow_agent(policy, parts, sinks)
    for path in given.references:
        images.allow(policy, reference.read(path), sinks)
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
            if entry.is_violation or not entry.is_consistent:
                raise UnusableError(f"{label(path)}: entry {entry.number} is not consistent with itself")
            if entry.algorithm != "sha256":
                raise UnusableError(
                    f"{label(path)}: entry {entry.number} has a digest by {shown(entry.algorithm)}: the node needs ima_hash=sha256"
                )
            found = True
            yield entry.name, entry.digest.hex()
    if not found:
        raise UnusableError(f"{label(path)}: no entry of the agent's in it")


# --- policy merge, add, remove, show


def _add_merge(to: Any) -> None:
    parser = _command(
        to,
        "merge",
        "Join runtime policies. What any of them allows or excludes, the result does.",
        "  cima-keylime policy merge host.json web.json db.json -o policy.json",
        "0 joined",
        _merge,
    )
    parser.add_argument("policies", nargs="+", metavar="POLICY", help="- is standard input")
    _output(parser)


def _merge(given: argparse.Namespace) -> int:
    first, *others = given.policies
    policy = _read_policy(first)
    runtime_policy.refuse_violations(policy, label(first))
    for path in others:
        other = _read_policy(path)
        runtime_policy.refuse_violations(other, label(path))
        runtime_policy.merge(policy, other, label(path))
        images.merge_meta(policy, other)
    return _write_policy(policy, given, "the policy")


def _add_add(to: Any) -> None:
    parser = _command(
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
    policy = _read_policy(given.policy)
    sinks = _sinks(given.sink) if given.sink else images.sinks_of(policy) or images.SINKS
    images.allow_agent(policy, (), sinks)
    for path in given.references:
        images.allow(policy, reference.read(path), sinks)
    return _write_policy(policy, given, label(given.policy))


def _add_remove(to: Any) -> None:
    parser = _command(
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
    policy = _read_policy(given.policy)
    for image in [images.find(policy, wanted, label(given.policy)) for wanted in given.images]:
        images.withdraw(policy, image)
    return _write_policy(policy, given, label(given.policy))


def _add_show(to: Any) -> None:
    parser = _command(
        to,
        "show",
        "Show which images a policy allows. Also what else is in it, and whether Keylime would take it.",
        "  cima-keylime policy show policy.json\n  cima-keylime policy show policy.json --json | jq '.images[].image'",
        "0 shown, 1 it lets violations pass",
        _show,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    _json(parser)


def _show(given: argparse.Namespace) -> int:
    policy = _read_policy(given.policy)
    fault = ""
    try:
        runtime_policy.refuse_violations(policy, label(given.policy))
    except UnusableError as error:
        fault = str(error)
    allowed = images.allowed(policy)
    host = sum(not name.startswith(names.PREFIX) for key in ("digests", "ima-buf") for name in policy[key])
    agent = sorted(
        {
            name.partition(":")[2]
            for key in ("digests", "ima-buf")
            for name in policy[key]
            if name.startswith("cima-agent:")
        }
    )
    if given.json:
        document = {
            "images": [vars(one) for one in allowed.values()],
            "agent": agent,
            "host": host,
            "excludes": policy["excludes"],
            "fault": fault or None,
        }
        print(json.dumps(document))
    else:
        for one in allowed.values():
            print(
                f"{one.image}  {shown(one.name or '-')}  {one.executables} executables  {', '.join(one.sinks) or bad('not admitted')}"
            )
        print(f"{len(allowed)} images; agent: {', '.join(map(shown, agent)) or 'no part'}; {host} names of the host's")
        if fault:
            print(bad(f"fault: {fault}"))
    return NEGATIVE if fault else GOOD


# --- push, verify


def _verifier_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verifier", required=True, metavar="URL", help="https://HOST:PORT")
    parser.add_argument("--ca", metavar="FILE", help="CA of the verifier's certificate, PEM [default: the system's]")
    parser.add_argument("--cert", metavar="FILE", help="certificate by which the verifier knows an administrator, PEM")
    parser.add_argument("--key", metavar="FILE", help="its key, PEM [default: in the file of --cert]")
    parser.add_argument(
        "--no-check-hostname",
        action="store_true",
        help="take any certificate of the CA's, whatever host it names, as keylime_tenant does",
    )
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for each answer [default: 60]")


def _verifier(given: argparse.Namespace) -> Verifier:
    return Verifier(given.verifier, Tls(given.ca, given.cert, given.key, not given.no_check_hostname), given.timeout)


def _add_push(to: Any) -> None:
    parser = _command(
        to,
        "push",
        "Give a verifier a runtime policy. Before the containers are started: agents that use the name have it with the next quote.",
        """  cima-keylime push --verifier https://verifier:8881 --name web --ca ca.crt --cert me.crt --key me.pem policy.json
  cima-keylime push … --name web --update policy.json       # a policy of this name is there
  keylime_tenant -c add --runtime-policy-name web -u AGENT … # which agents have it""",
        "0 stored",
        _push,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    parser.add_argument("--name", required=True, help="the policy's name at the verifier")
    parser.add_argument("--update", action="store_true", help="replace the policy of this name, which is there")
    _verifier_arguments(parser)
    _json(parser)


def _push(given: argparse.Namespace) -> int:
    text = read_text(given.policy)
    policy = runtime_policy.parse(text, label(given.policy))
    images.check_meta(policy, label(given.policy))
    runtime_policy.refuse_violations(policy, label(given.policy))
    verifier = _verifier(given)
    try:
        verifier.push(given.name, text, given.update)
    except RefusedError as error:
        hint = {
            409: "; --update replaces it",
            404: "; without --update it is made",
            403: "; is --cert one of an administrator's?",
            401: "; it wants --cert and --key",
        }
        raise UnusableError(f"{error}{hint.get(error.code, '')}") from error
    if verifier.stored(given.name) != text:
        raise UnusableError(f"{verifier.url}: has another policy named {given.name} than was sent")
    if given.json:
        print(
            json.dumps(
                {
                    "name": given.name,
                    "verifier": verifier.url,
                    "bytes": len(text),
                    "images": len(images.allowed(policy)),
                }
            )
        )
    else:
        print(
            f"{good('stored')}: {given.name} at {verifier.url}, {len(images.allowed(policy))} images, {len(text)} bytes"
        )
    return GOOD


def _add_verify(to: Any) -> None:
    parser = _command(
        to,
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
    _verifier_arguments(parser)
    _json(parser)


def _verify(given: argparse.Namespace) -> int:
    said = evidence.read(given.evidence)
    source = label(given.evidence)
    text = read_text(given.policy)
    policy = runtime_policy.parse(text, label(given.policy))
    images.check_meta(policy, label(given.policy))
    runtime_policy.refuse_violations(policy, label(given.policy))
    unbound = []
    if given.nonce is not None and given.nonce != said.nonce:
        unbound.append(explain.Finding("the evidence was made for another nonce", "cima.nonce"))
    if given.ak_sha256 is not None and given.ak_sha256.lower() != said.key_fingerprint:
        unbound.append(explain.Finding(f"the quote is by another key: sha256 {said.key_fingerprint}", "cima.key"))
    if evidence.IMA_PCR not in evidence.quoted_pcrs(said, source):
        unbound.append(explain.Finding("the quote is not of PCR 10: it says nothing of the list", "cima.pcr"))
    if given.nonce is None:
        print("warning: without --nonce the evidence may be an old one", file=sys.stderr)
    if given.ak_sha256 is None:
        print(
            f"warning: any TPM's, or no TPM's, key may have made the quote: --ak-sha256 {said.key_fingerprint}",
            file=sys.stderr,
        )
    explainer = explain.Explainer(policy)
    answer: dict[str, Any] = {"valid": False, "failures": []}
    if not unbound:
        answer = _verifier(given).verify({**said.data, "runtime_policy": text})
    findings = (
        explainer.failures(failures.parse(json.dumps(answer), "the answer"), _entries_of(said, source))
        if answer["failures"]
        else []
    )
    if answer["valid"] and not unbound:
        # What Keylime does not look at.
        findings = explain.joined(explainer.entries(_entries_of(said, source), policy, Counter()))
    findings = unbound + findings
    valid = bool(answer["valid"]) and not findings
    _report(
        findings,
        given,
        {"valid": valid, "keylime": answer["valid"] if not unbound else None},
        "valid" if valid else "not valid",
    )
    return GOOD if valid else NEGATIVE


def _entries_of(said: evidence.Evidence, source: str) -> Iterator[Entry]:
    return measurement_list.ascii_list(said.ima_list.split("\n"), f'{source}: "ima_measurement_list"')


# --- explain


def _add_explain(to: Any) -> None:
    parser = _command(
        to,
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
    _json(parser)


def _explain(given: argparse.Namespace) -> int:
    if given.failure is None and (given.list is None or given.policy is None):
        raise UnusableError("explain needs FAILURE, or --list and --policy")
    policy = _read_policy(given.policy) if given.policy is not None else None
    explainer = explain.Explainer(policy)
    if given.failure is not None:
        said = failures.parse(read_text(given.failure), label(given.failure))
        entries = measurement_list.read(given.list) if given.list is not None else iter(())
        findings = explainer.failures(said, entries)
        agents = sorted({failure.agent for failure in said if failure.agent})
        if given.node is None and len(agents) == 1:
            given.node = agents[0]
        _report(findings, given, {}, f"{len(said)} failures" if said else "no failure")
    else:
        assert policy is not None
        counts: Counter[str] = Counter()
        findings = explain.joined(explainer.entries(measurement_list.read(given.list), policy, counts))
        summary = f"{counts['cima']} entries of cima's, {len(findings)} findings; {counts['other']} of others' are not judged here"
        _report(findings, given, dict(counts), summary)
    return NEGATIVE if findings else GOOD


def _report(findings: list[explain.Finding], given: argparse.Namespace, more: dict[str, Any], summary: str) -> None:
    node = getattr(given, "node", None)
    if given.json:
        document = {**more, "node": node, "findings": [finding.to_json() for finding in findings]}
        print(json.dumps({key: value for key, value in document.items() if value is not None}))
        return
    on = f"node {shown(node)}: " if node else ""
    for finding in findings:
        times = f" ({finding.count} times)" if finding.count > 1 else ""
        print(f"{on}{finding.text}{times}")
    print((bad if findings else good)(summary))
