# SPDX-License-Identifier: Apache-2.0
"""Keylime's failures, and entries of lists, in terms of containers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cima_keylime import excludes, images, names
from cima_keylime.failures import Failure
from cima_keylime.measurement_list import Entry
from cima_keylime.runtime_policy import Policy
from cima_keylime.unusable import shown

#: What a violation means. `docs/FORMATS.md`, "Policy events".
_VIOLATIONS = {
    "writer": "a file was mapped executable while somebody could write it, or was opened for writing while mapped",
    "hash": "a file was mapped executable that the kernel could not hash",
    "path": "a file was mapped executable whose path is too long",
    "mprotect": "a mapping of a file was made executable after it was made",
    "anonymous": "memory without a file was made executable",
    "kernel-load": "the kernel took code from a task's memory",
    "unregistered": "a program was executed, or was to be, in a container that no hook registered",
    "root": "the container got another root than the one that was measured",
    "loss": "events were lost: what ran in the meantime is not known",
    "chain": "the agent found that list and PCR do not fit each other",
}

#: What an event of Keylime's means that is of no entry's name, by the end of its id.
_EVENTS = {
    "pcr_mismatch": "the list does not give the value of PCR 10: entries are missing, changed, removed or in another"
    " order, or the list was read before the quote was made",
    "quote_progress": "the TPM's value did not catch up with the list",
    "ima_hash": "an entry of the list does not have its own template hash: it was changed",
    "ima_pcr": "an entry extends another PCR than 10, which Keylime refuses: cima's sink pcr needs pcr = 10 for Keylime",
    "tomtou": "an entry is a violation of IMA's own: a file was measured while somebody could write it",
    "parser.entry": "a line of the list is no entry that Keylime can read",
    "quote_validation": "the quote is not that of this key with this nonce",
    "invalid_quote": "the quote cannot be read",
    "invalid_hash_alg": "the hash algorithm of the quote is none that Keylime knows",
    "no_reason": "Keylime refuses, and gives no reason",
    "missing_param": "something is missing in the evidence",
    "invalid_signature": "the signature of a file is not good",
    "invalid_key": "a measured key is none that Keylime supports",
}

_NOT_STARTED = (
    "nothing in the list is of cima's agent: it has not started in this boot, or no rule of IMA's lists what it says,"
    " and what containers executed is not in the list"
)

# Of what is said again as Keylime says it: a line of a list may have megabytes.
_LONGEST = 300


@dataclass
class Finding:
    """Something that is not as the policy has it."""

    text: str
    event: str
    name: str = ""
    image: str = ""
    path: str = ""
    entry: int | None = None
    count: int = 1
    #: as Keylime says it
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `--json`: what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}


class Explainer:
    """Explains what Keylime, or a list, says against a policy."""

    def __init__(self, policy: Policy | None) -> None:
        """Names images by the policy, if there is one."""
        self._policy = policy
        self._images = images.allowed(policy) if policy is not None else None

    def failures(self, failures: Iterable[Failure], entries: Iterable[Entry] = ()) -> list[Finding]:
        """Explains failures. The list, if there is one, tells which entry had a digest, and what its payload is."""
        failures = list(failures)
        payloads, holders = self._looked_up(failures, entries)
        named = self._names_by_digests(failures)
        findings = []
        for failure in failures:
            event = failure.event_id.rpartition(".")[2]
            name = failure.name
            if name is None and event == "runtime_policy_hash":
                have, may = holders.get(failure.got, set()), named.get(tuple(failure.expected), set())
                # Other files may have the content that is not expected here.
                name = _only(have & may or have or may)
            if name is not None:
                absent = event == "not_in_allowlist"
                findings.append(
                    self._entry(
                        name,
                        failure.event_id,
                        absent,
                        payloads.get((name, failure.got)) or payloads.get((name, "")),
                    )
                )
            else:
                findings.append(Finding(self._event(failure), failure.event_id, message=failure.message))
        return _joined(findings)

    def entries(self, entries: Iterable[Entry], policy: Policy, counts: Counter[str]) -> Iterator[Finding]:
        """Judges cima's entries of a list as Keylime does, and by what it does not look at. Others are counted, and must be consistent.

        Of excludes those alone count that a policy may have for names of cima's.
        """
        excluded = excludes.of_cima(policy["excludes"])
        has_started = False
        for entry in entries:
            mine = entry.name.startswith(names.PREFIX)
            has_started = has_started or entry.name.startswith("cima-sink:")
            counts["cima" if mine else "other"] += 1
            # Keylime takes an entry for a violation, too, whose template hash is written as ones, and judges nothing of it.
            if not entry.is_violation and entry.fault is not None:
                finding: Finding | None = _forged(entry, entry.fault)
            else:
                finding = self._judged(entry, policy, excluded) if mine else None
            if finding is not None:
                finding.entry = entry.number
                yield finding
        # A policy says what may be in a list, and never what must.
        if images.sinks_of(policy) and not has_started:
            yield Finding(_NOT_STARTED, "cima.absent")

    def _judged(self, entry: Entry, policy: Policy, excluded: re.Pattern[str] | None) -> Finding | None:
        # Keylime's default configuration lets such an entry pass, whatever its name says.
        if entry.is_violation:
            text = f"violation of IMA's own with a name of cima's, which no hash covers: {shown(entry.name)}"
            return Finding(text, "ima.validation.tomtou", entry.name)
        if entry.payload is not None and not entry.payload_fits:
            return _forged(entry, "has a digest by an algorithm that is not known here")
        if entry.pcr != 10:
            return Finding(f"PCR {entry.pcr}: {_EVENTS['ima_pcr']}", "ima.validation.ima_pcr", entry.name)
        if excluded is not None and excluded.match(entry.name) is not None:
            return None
        key = "ima-buf" if entry.template == "ima-buf" else "digests"
        allowed = policy[key].get(entry.name)
        if allowed is None:
            return self._entry(entry.name, "ima.validation.ima-ng.not_in_allowlist", True, entry.payload)
        if entry.digest.hex() not in allowed:
            return self._entry(entry.name, "ima.validation.ima-ng.runtime_policy_hash", False, entry.payload)
        return None

    def _entry(self, name: str, event: str, absent: bool, payload: bytes | None) -> Finding:
        """Explains why an entry with this name is not allowed: the name is absent, or its digest is another."""
        said = names.parse(name)
        if said is None:
            what = "is not in the policy" if absent else "has another digest than in the policy"
            whose = "the host's file" if name.startswith("/") else "the host's entry"
            return Finding(f"{whose} {shown(name)} {what}", event, name)
        path = shown(said.path.decode("utf-8", "backslashreplace")) + ("…" if said.cut else "")
        finding = Finding("", event, name, said.image, path)
        finding.text = self._text(said, path, absent, payload)
        return finding

    def _text(self, said: names.Event, path: str, absent: bool, payload: bytes | None) -> str:
        image = self._image(said.image)
        content = _content(payload)
        if said.family == "violation":
            meaning = _VIOLATIONS.get(said.kind, "of a kind that is not known here")
            detail = f" ({content})" if content else ""
            where = f": {path}" if path else ""
            who = "" if said.kind in ("loss", "chain") else f" in {image}"
            return f"violation {shown(said.kind)}{who}: {meaning}{where}{detail}"
        if said.family == "image":
            known = self._images is None or said.image in self._images
            return f"{image} was started, but {'its digest is another' if not absent else 'may not be' if known else 'is not in the policy'}"
        if said.family == "exec":
            if names.is_image_digest(said.image) and self._images is not None and said.image not in self._images:
                return f"{image} is not in the policy, and executed {path}{content and f' ({content})'}"
            what = "which is not in its reference" if absent else "with another content than its reference has"
            if not names.is_image_digest(said.image):
                what = "which no policy knows of" if absent else "with another content than the policy has"
            return f"{image} executed {path}{content and f' ({content})'}, {what}"
        if said.family == "agent":
            what = "not in the policy" if absent else "another than in the policy"
            return f"the agent's {shown(said.kind)} is {what}{content and f' ({content})'}"
        if said.family == "sink":
            return f"the agent's sink {shown(said.kind)} is not one that the policy is made for"
        if said.family == "ctx":
            return f"context events are not excluded: the policy lacks the exclude {excludes.CONTEXT}"
        return f"an entry of cima's of a kind that is not known here: {shown(said.family)}"

    def _image(self, image: str) -> str:
        if image == "unregistered":
            return "an unregistered container"
        if image == "unmeasured":
            return "a container whose image could not be measured"
        known = (self._images or {}).get(image)
        name = f" {shown(known.name)} ({image})" if known is not None and known.name else f" {shown(image)}"
        return f"image{name}"

    def _event(self, failure: Failure) -> str:
        bare = _BARE.get(failure.event_id.rpartition(".")[2], f"Keylime says {shown(failure.event_id)}")
        known = (said for end, said in _EVENTS.items() if failure.event_id.endswith("." + end))
        meaning = next(known, bare)
        if failure.event_id.startswith("measured_boot"):
            meaning = f"measured boot: {meaning}"
        said = failure.context.get("error") or failure.context.get("line")
        if said is None and (meaning.endswith(bare) or failure.event_id.endswith("parser.entry")):
            said = failure.message
        return f"{meaning}: {shown(str(said))[:_LONGEST]}" if said else meaning

    @staticmethod
    def _looked_up(
        failures: list[Failure], entries: Iterable[Entry]
    ) -> tuple[dict[tuple[str, str], bytes], dict[str, set[str]]]:
        """Of the list: payloads by name and digest, and by name alone; and the names of cima's with a digest."""
        wanted = {failure.name for failure in failures if failure.name is not None}
        digests = {failure.got for failure in failures if failure.got}
        payloads: dict[tuple[str, str], bytes] = {}
        holders: dict[str, set[str]] = {}
        if not wanted and not digests:
            return payloads, holders
        for entry in entries:
            digest = entry.digest.hex()
            if entry.name not in wanted and digest not in digests:
                continue
            if digest in digests:
                holders.setdefault(digest, set()).add(entry.name)
            if entry.payload is not None and entry.payload_fits:
                payloads[entry.name, digest] = entry.payload
                payloads.setdefault((entry.name, ""), entry.payload)
        return payloads, holders

    def _names_by_digests(self, failures: list[Failure]) -> dict[tuple[str, ...], set[str]]:
        """Of the policy: which names may have just these digests. Keylime's event of another digest names none."""
        wanted = {tuple(failure.expected) for failure in failures if failure.name is None and failure.expected}
        found: dict[tuple[str, ...], set[str]] = {}
        if self._policy is not None and wanted:
            for key in ("ima-buf", "digests"):
                for name, digests in self._policy[key].items():
                    if tuple(digests) in wanted:
                        found.setdefault(tuple(digests), set()).add(name)
        return found


_BARE = {
    "not_in_allowlist": "an entry of the list is not in the policy; the verifier's log, or its message, has the name",
    "runtime_policy_hash": "an entry has another digest than the policy; the list (--list) or the verifier's log tells which",
}


def _forged(entry: Entry, fault: str) -> Finding:
    name = entry.name or f"{entry.number}, of the template {entry.template}"
    return Finding(f"forged: the entry {shown(name)} {fault}", "ima.validation.ima_hash", entry.name)


def _only(found: set[str]) -> str | None:
    """The one name; an event's two forms are one."""
    meant = {names.parse(name) or name for name in found}
    return min(found) if len(meant) == 1 else None


def _content(payload: bytes | None) -> str:
    """The part of a payload that says more than the name: `v1;` and what the name has are left away."""
    if payload is None or not payload.startswith(b"v1;"):
        return ""
    return shown(payload[3:].decode("latin-1"))


def _joined(findings: list[Finding]) -> list[Finding]:
    """The same said once, with how often; and of an image that is not in the policy but one sentence."""
    joined: dict[str, Finding] = {}
    for finding in findings:
        unknown = " is not in the policy, and executed " in finding.text
        key = finding.image if unknown else finding.text
        first = joined.setdefault(key, finding)
        if first is not finding:
            first.count += 1
    return list(joined.values())


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of a list, each once."""
    return _joined(list(findings))
