# SPDX-License-Identifier: Apache-2.0
"""Keylime's runtime policy, version 1: read, checked, merged, written. What cima puts into it is `images`.

The schema is `RUNTIME_POLICY_SCHEMA` in Keylime 7.14.3, `keylime/ima/ima.py`. Keylime permits keys of others in every
object and keeps them. How it looks an entry up: `ima-buf` entries by name in `ima-buf`, files by path in
`digests`, unless an exclude matches the name (`excludes`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TextIO, cast

from cima_keylime import excludes, names
from cima_keylime.unusable import UnusableError, label, parse_json, read_text, shown

#: `RUNTIME_POLICY_CURRENT_VERSION`
VERSION = 1
#: `RUNTIME_POLICY_GENERATOR.CompatibleAllowList`
GENERATOR = 2
_LOG_HASHES = ("sha1", "sha256", "sha384", "sha512")
_HEX = re.compile(r"[0-9a-f]{40,128}")
_TABLES = ("digests", "keyrings", "ima-buf")
_KEYS = ("meta", "release", "digests", "excludes", "keyrings", "ima", "ima-buf", "verification-keys")
# What a merge joins of them in its own way; "cima" is `images.merge`'s.
_META_KEYS = ("version", "generator", "timestamp", "cima")
_IMA_KEYS = ("ignored_keyrings",)

Policy = dict[str, Any]
Table = dict[str, list[str]]


def empty() -> Policy:
    """A policy that allows nothing (`EMPTY_RUNTIME_POLICY`)."""
    return {
        "meta": {"version": VERSION, "generator": GENERATOR},
        "release": 0,
        "digests": {},
        "excludes": [],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": {},
        "verification-keys": "",
    }


def table(policy: Policy, key: str) -> Table:
    """One of `digests`, `keyrings`, `ima-buf`: the digests that each name may have."""
    return cast(Table, policy[key])


def read(path: str) -> Policy:
    """Reads a policy from a file, or from standard input for `-`, and checks it."""
    return parse(read_text(path), label(path))


def parse(text: str, source: str) -> Policy:
    """Reads a policy. Raises `UnusableError`, which names `source` and the key."""
    try:
        policy = parse_json(text, source)
    except UnusableError as error:
        hint = (
            ""
            if text.lstrip().startswith("{")
            else "; an allowlist of old is converted by `keylime-policy create runtime`"
        )
        raise UnusableError(f"{error}{hint}") from error
    _check(policy, source)
    return cast(Policy, policy)


def _check(policy: Any, source: str) -> None:
    if not isinstance(policy, dict):
        raise UnusableError(f"{source}: no runtime policy: no JSON object")
    if "payload" in policy:
        raise UnusableError(f"{source}: a signed policy (DSSE): give its payload, and sign what comes of it")
    meta = policy.get("meta")
    if not isinstance(meta, dict) or "version" not in meta:
        raise UnusableError(f'{source}: no runtime policy: "meta" has no version')
    if meta["version"] != VERSION or meta["version"] is True:
        raise UnusableError(
            f"{source}: a runtime policy of version {shown(str(meta['version']))}, and only {VERSION} is known here"
        )
    for key in _KEYS:
        if key not in policy:
            raise UnusableError(f'{source}: no runtime policy: the key "{key}" is missing')
    if type(meta.get("generator")) is not int or not 0 <= meta["generator"] <= 3:
        raise UnusableError(f'{source}: "meta.generator" is none that Keylime knows')
    if not isinstance(meta.get("timestamp", ""), str):
        raise UnusableError(f'{source}: "meta.timestamp" is no text')
    if type(policy["release"]) is not int or policy["release"] < 0:
        raise UnusableError(f'{source}: "release" is no number from 0')
    for key in _TABLES:
        _check_table(policy[key], f'{source}: "{key}"')
    ima = policy["ima"]
    if not isinstance(ima, dict) or not _is_texts(ima.get("ignored_keyrings")):
        raise UnusableError(f'{source}: "ima.ignored_keyrings" is no list of texts')
    if ima.get("log_hash_alg") not in _LOG_HASHES:
        raise UnusableError(f'{source}: "ima.log_hash_alg" is none of {", ".join(_LOG_HASHES)}')
    if ima.get("dm_policy", "") is not None:
        raise UnusableError(f'{source}: "ima.dm_policy" is not null, which Keylime refuses')
    if not isinstance(policy["verification-keys"], str):
        raise UnusableError(f'{source}: "verification-keys" is no text')
    excludes.check(policy["excludes"], source)


def _check_table(found: Any, where: str) -> None:
    if not isinstance(found, dict):
        raise UnusableError(f"{where} is no object")
    for name, digests in found.items():
        if not isinstance(digests, list) or not digests:
            raise UnusableError(f'{where}: "{shown(name)}" has no list of digests')
        for digest in digests:
            if not isinstance(digest, str) or _HEX.fullmatch(digest) is None:
                raise UnusableError(f'{where}: "{shown(name)}": "{shown(str(digest))}" is no digest')


def _is_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def refuse_violations(policy: Policy, source: str) -> None:
    """Raises `UnusableError` if the policy lets a violation pass, or excludes what it is to judge."""
    for key in ("ima-buf", "digests"):
        allowed = [name for name in policy[key] if name.startswith("cima-violation:")]
        if allowed:
            raise UnusableError(
                f'{source}: "{key}" allows violations, which no policy may: "{shown(allowed[0])}"'
                f" ({len(allowed)} in all)"
            )
    excludes.refuse(policy["excludes"], source)


def guard_excludes(policy: Policy, source: str) -> int:
    """Keeps the excludes from names of cima's. Returns how many were changed."""
    before = policy["excludes"]
    policy["excludes"] = excludes.guarded(before, source)
    return len(set(before) - set(policy["excludes"]))


def without_cima(policy: Policy) -> int:
    """Drops what is cima's, as a policy has it that was made from a node's list. Returns how many names it were."""
    dropped = 0
    for key in ("ima-buf", "digests"):
        mine = [name for name in policy[key] if name.startswith(names.PREFIX)]
        for name in mine:
            del policy[key][name]
        dropped += len(mine)
    policy["excludes"] = [one for one in policy["excludes"] if not excludes.is_only_cimas(one)]
    policy["meta"].pop("cima", None)
    return dropped


def allow(found: Table, name: str, digests: Iterable[str]) -> None:
    """Adds digests to those that a name may have, each once, in the order in which they came."""
    allowed = found.setdefault(name, [])
    allowed.extend(digest for digest in dict.fromkeys(digests) if digest not in allowed)


def merge(into: Policy, other: Policy, source: str) -> None:
    """Allows in `into` what either allows. What cannot be joined is an `UnusableError` that names `source`, the other."""
    _take_over(into, other, _KEYS, source, "")
    _take_over(into["meta"], other["meta"], _META_KEYS, source, "meta.")
    _take_over(into["ima"], other["ima"], _IMA_KEYS, source, "ima.")
    for key in _TABLES:
        mine = table(into, key)
        for name, digests in table(other, key).items():
            allow(mine, name, digests)
    into["excludes"] = list(dict.fromkeys(into["excludes"] + other["excludes"]))
    excludes.check(into["excludes"], source)
    into["release"] = max(into["release"], other["release"])
    ignored = into["ima"]["ignored_keyrings"] + other["ima"]["ignored_keyrings"]
    into["ima"]["ignored_keyrings"] = list(dict.fromkeys(ignored))
    if into["verification-keys"] and other["verification-keys"] not in ("", into["verification-keys"]):
        raise UnusableError(f'{source}: "verification-keys" are others than in the policy before')
    into["verification-keys"] = into["verification-keys"] or other["verification-keys"]
    into["meta"].update(version=VERSION, generator=GENERATOR)
    # Of when neither was made.
    into["meta"].pop("timestamp", None)


def _take_over(into: dict[str, Any], other: dict[str, Any], joined: Iterable[str], source: str, where: str) -> None:
    """All but the keys that are `joined`, of others', which Keylime keeps, too: they are not dropped, and none replaces another."""
    for key in other.keys() - set(joined):
        if into.setdefault(key, other[key]) != other[key]:
            raise UnusableError(f'{source}: "{shown(where + key)}" is another than in the policy before')


def write(policy: Policy, to: TextIO) -> None:
    """Writes a policy in ASCII, the same for the same policy: Keylime shows the SHA-256 of the text."""
    json.dump(policy, to, separators=(",", ":"))
    to.write("\n")
