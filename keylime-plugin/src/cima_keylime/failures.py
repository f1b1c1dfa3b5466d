# SPDX-License-Identifier: Apache-2.0
"""What Keylime says when an attestation fails, in each of the forms in which it says so.

- the answer of `POST /v2.x/verify/evidence`: `results.failures`, each `{"type": event id, "context": {…}}`
- a revocation message (`prepare_error`, `keylime/cloud_verifier_common.py`): `event_id`, `context`, as it is or in `msg`
- the status of an agent: `results.last_event_id`, without a context
- the verifier's log, whose lines name files that events do not (`keylime/ima/ima.py`)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from cima_keylime.unusable import UnusableError, parse_json, shown

_NO_REASON = "keylime.no_reason"
#: `FAILED`, `INVALID_QUOTE` and `TENANT_FAILED`, keylime/common/states.py.
_FAILED = (7, 9, 10)


@dataclass(frozen=True)
class Failure:
    """One event of Keylime's."""

    event_id: str
    context: dict[str, Any] = field(default_factory=dict)
    #: the agent, if it is said
    agent: str = ""

    @property
    def message(self) -> str:
        """What Keylime says."""
        message = self.context.get("message", "")
        return message if isinstance(message, str) else ""

    @property
    def name(self) -> str | None:
        """The name of the entry, if it is said."""
        _, marker, name = self.message.partition("File not found in allowlist: ")
        said = self.context.get("name")
        return name if marker else said if isinstance(said, str) else None

    @property
    def got(self) -> str:
        """The digest of the entry, if it is said."""
        got = self.context.get("got")
        return got if isinstance(got, str) else ""

    @property
    def expected(self) -> list[str]:
        """The digests that the policy allows, if they are said."""
        expected = self.context.get("expected")
        return [one for one in expected if isinstance(one, str)] if isinstance(expected, list) else []


def parse(text: str, source: str) -> list[Failure]:
    """Reads failures. Raises `UnusableError`, which names `source`."""
    beginning = text.lstrip()[:1]
    if beginning in ("{", "["):
        try:
            return _of_json(parse_json(text, source), source)
        except RecursionError as error:
            raise UnusableError(f"{source}: JSON that is nested too deeply") from error
        except UnusableError:
            # A log may begin so.
            if _is_json(text):
                raise
    found = [failure for line in text.splitlines() if (failure := of_log_line(line)) is not None]
    if not found:
        raise UnusableError(
            f"{source}: nothing that Keylime says of a failure: neither its JSON nor a line of the verifier's log"
        )
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _of_json(found: Any, source: str, agent: str = "") -> list[Failure]:
    if isinstance(found, list):
        return [failure for one in found for failure in _of_json(one, source, agent)]
    if not isinstance(found, dict):
        raise UnusableError(f"{source}: an event is no JSON object")
    agent = found["agent_id"] if isinstance(found.get("agent_id"), str) else agent
    if isinstance(found.get("msg"), str):
        return _of_json(parse_json(found["msg"], f"{source}: msg"), source, agent)
    if isinstance(found.get("results"), dict):
        return _of_json(found["results"], source, agent)
    without_reason = [Failure(_NO_REASON, agent=agent)] if _refuses(found) else []
    if isinstance(found.get("failures"), list):
        return _of_json(found["failures"], source, agent) or without_reason
    if "last_event_id" in found:
        last = found["last_event_id"]
        return [Failure(last, agent=agent)] if isinstance(last, str) and last else without_reason
    event_id = found.get("event_id", found.get("type"))
    if not isinstance(event_id, str):
        raise UnusableError(
            f'{source}: a JSON object with none of the keys "failures", "event_id", "type" and "last_event_id"'
        )
    return [Failure(event_id, _context(found.get("context", {}), source), agent)]


def _refuses(found: dict[str, Any]) -> bool:
    """Whether an answer or an agent's status is negative, whatever its reasons."""
    is_failed = found.get("attestation_status") in ("FAIL", "TIMEOUT") or found.get("operational_state") in _FAILED
    return found.get("valid") is False or is_failed


def _context(found: Any, source: str) -> dict[str, Any]:
    if isinstance(found, str):
        if not found.lstrip().startswith("{"):
            return {"message": found}
        found = parse_json(found, f"{source}: context")
    if not isinstance(found, dict):
        raise UnusableError(f'{source}: the "context" of an event is no object')
    return found


#: How what it says begins, how it goes on, and which event it is.
_LOG = (
    ("File not found in allowlist: ", r"(?P<name>.+)", "ima.validation.ima-ng.not_in_allowlist"),
    (
        "Hashes for file ",
        r"(?P<name>.+) don't match (?P<got>[0-9a-f]+) not in \[(?P<expected>.*)\]",
        "ima.validation.ima-ng.runtime_policy_hash",
    ),
    ("IMA measurement list does not match TPM PCR ", r"(?P<got>\S+)", "ima.pcr_mismatch"),
    ("Line was not parsable into a valid IMA entry: ", r"(?P<line>.*)", "ima.parser.entry"),
    ("IMA entry PCR does not match ", r"(?P<expected>\d+)\. It was: (?P<got>\d+)", "ima.validation.ima_pcr"),
    ("Skipped template_hash validation entry with FF_HASH", "", "ima.validation.tomtou"),
    ("PCR quote did not make progress to catch up with the log", "", "ima.quote_progress"),
)


def of_log_line(line: str) -> Failure | None:
    """Reads a line of the verifier's log; None if it is of no failure that says something of an entry."""
    for beginning, rest, event_id in _LOG:
        # Once: a node may have made the line, and it may be long.
        at = line.find(beginning)
        found = re.compile(rest).match(line, at + len(beginning)) if at >= 0 else None
        if found is None:
            continue
        context: dict[str, Any] = {"message": shown(line[at : found.end()]), **found.groupdict()}
        if isinstance(context.get("expected"), str):
            context["expected"] = re.findall(r"[0-9a-f]{40,128}", context["expected"])
        return Failure(event_id, context)
    return None
