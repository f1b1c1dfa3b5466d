# SPDX-License-Identifier: Apache-2.0
"""What cima's entries look like in a Keylime policy: allowed for an image, withdrawn, listed.

The kernel gives each entry the digest of its payload, by the algorithm of `ima_hash=`, with either sink of PCR 10: as
d-ng of the `ima-buf` entry, or as the digest of the file that has the payload. A reference has SHA-256 alone, and a
payload names the algorithm: with another `ima_hash=` than sha256 no entry of an executable can be known in advance. So
every digest here is a SHA-256.

Images have their names in the policy's `meta.cima`, which Keylime keeps and does not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cima_keylime import excludes, names, runtime_policy
from cima_keylime.reference import Reference
from cima_keylime.runtime_policy import Policy
from cima_keylime.unusable import UnusableError, opened, shown

#: Which part of a policy Keylime looks a sink's entries up in. The sink `pcr` keeps a list of its own, in PCR 10 of hosts whose
#: kernel leaves that alone, with the same entries as the sink `kernel`.
TABLE_OF_SINK = {"kernel": "ima-buf", "ima-file": "digests", "pcr": "ima-buf"}
SINKS = tuple(TABLE_OF_SINK)
TABLES = tuple(dict.fromkeys(TABLE_OF_SINK.values()))
#: A sink for each form that entries have.
FORMS = ("kernel", "ima-file")
AGENT_PARTS = ("binary", "probes", "lister", "config", "policy", "admission")
_OF_IMAGES = ("cima-image:sha256:", "cima-exec:sha256:")
_META_VERSION = 1


@dataclass
class Allowed:
    """An image that a policy allows."""

    image: str
    name: str | None = None
    platform: str | None = None
    #: with which sinks a container of it may be admitted
    sinks: tuple[str, ...] = ()
    #: how many files may be executed, with the sink that has most
    executables: int = 0


def digest_of(payload: str) -> str:
    """The digest by which the kernel lists a payload."""
    return hashlib.sha256(payload.encode()).hexdigest()


def digest_of_file(path: str) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def entries(reference: Reference) -> Iterator[tuple[str, str]]:
    """Name and digest of each entry that a container of this image may make."""
    image = reference.image
    yield names.image_name(image), digest_of(f"v1;image={image}")
    for one in reference.executables:
        yield names.exec_name(image, one.path), digest_of(f"v1;sha256:{one.sha256}")


def allow(policy: Policy, reference: Reference, sinks: Iterable[str], source: str) -> None:
    """Allows containers of this image, and in them its executables. Raises `UnusableError`, which names `source`, if the policy has others."""
    tables = _tables(policy, sinks)
    for name, digest in entries(reference):
        for sink, table in tables:
            listed = names.file_name(name) if sink == "ima-file" else name
            _refuse_other(table.get(listed), [digest], listed, source)
            runtime_policy.allow(table, listed, [digest])
    meta = _meta(policy)
    known = {"name": reference.name, "manifest": reference.manifest, "platform": reference.platform}
    meta[reference.image] = {key: value for key, value in known.items() if value is not None}


def _refuse_other(mine: list[str] | None, theirs: list[str], name: str, source: str) -> None:
    """An image's digest is over all of its files: two contents of one are not of the same image, and none is to be slipped in."""
    if mine is not None and set(mine) != set(theirs):
        raise UnusableError(
            f'{source}: "{shown(name)}" has another digest than in the policy: not both are of this image'
        )


def merge(into: Policy, other: Policy, source: str) -> None:
    """Allows in `into` what either allows, and takes over the names of images. Raises `UnusableError`, which names `source`, the other."""
    for key in TABLES:
        mine = runtime_policy.table(into, key)
        for name, digests in runtime_policy.table(other, key).items():
            if name.startswith(_OF_IMAGES):
                _refuse_other(mine.get(name), digests, name, source)
    runtime_policy.merge(into, other, source)
    theirs = _known(other)
    if theirs:
        _meta(into).update(theirs)


def allow_agent(policy: Policy, parts: Iterable[tuple[str, str]], sinks: Iterable[str]) -> None:
    """Allows parts of the agent, each with the digest of its payload, and that the sinks say what they are."""
    sinks = list(sinks)
    tables = _tables(policy, sinks)
    for name, digest in parts:
        for _, table in tables:
            # None is too long for a file's name, or has a path.
            runtime_policy.allow(table, name, [digest])
    for sink in sinks:
        digest = digest_of(f"v1;sink={sink}")
        runtime_policy.allow(policy[TABLE_OF_SINK[sink]], f"cima-sink:{sink}", [digest])
    if excludes.CONTEXT not in policy["excludes"]:
        policy["excludes"].append(excludes.CONTEXT)


def _tables(policy: Policy, sinks: Iterable[str]) -> list[tuple[str, runtime_policy.Table]]:
    return [(sink, runtime_policy.table(policy, TABLE_OF_SINK[sink])) for sink in sinks]


def withdraw(policy: Policy, image: str) -> int:
    """Removes all that is allowed for an image, and its name. Returns how many names it were."""
    removed = 0
    for key in TABLES:
        found = [name for name in policy[key] if _image_of(name) == image]
        for name in found:
            del policy[key][name]
        removed += len(found)
    _known(policy).pop(image, None)
    return removed


def allowed(policy: Policy) -> dict[str, Allowed]:
    """The images in a policy, by digest: those whose admission or executables are allowed."""
    found: dict[str, Allowed] = {}
    counts: dict[tuple[str, str], int] = {}
    said = sinks_of(policy)
    for key in TABLES:
        sinks = tuple(sink for sink in said if TABLE_OF_SINK[sink] == key)
        for name in policy[key]:
            image = _image_of(name)
            if image is None:
                continue
            one = found.setdefault(image, Allowed(image))
            if name.startswith("cima-image:"):
                one.sinks += sinks
            else:
                counts[image, key] = counts.get((image, key), 0) + 1
    for (image, _), count in counts.items():
        found[image].executables = max(found[image].executables, count)
    for image, known in _known(policy).items():
        if image in found:
            found[image].name = known.get("name")
            found[image].platform = known.get("platform")
    return dict(sorted(found.items(), key=lambda item: (item[1].name or "~", item[0])))


def _image_of(name: str) -> str | None:
    """Of which image a name says something. One that is cut for a file's name still has all of the digest."""
    if not name.startswith(_OF_IMAGES):
        return None
    family, _, rest = name.partition(":")
    image, behind = rest[:71], rest[71:]
    is_whole = not behind if family == "cima-image" else behind.startswith(":")
    return image if is_whole and names.is_image_digest(image) else None


def others(policy: Policy) -> list[str]:
    """Names of cima's that are of no image and no agent: what an operator lets containers do that nobody registered, above all."""
    mine = {name for key in TABLES for name in policy[key] if name.startswith(names.PREFIX)}
    return sorted(
        name for name in mine if _image_of(name) is None and not name.startswith(("cima-agent:", "cima-sink:"))
    )


def sinks_of(policy: Policy) -> tuple[str, ...]:
    """With which sinks the images of a policy are allowed."""
    said = tuple(sink for sink, key in TABLE_OF_SINK.items() if f"cima-sink:{sink}" in policy[key])
    has_images = (sink for sink in FORMS if any(name.startswith("cima-image:") for name in policy[TABLE_OF_SINK[sink]]))
    return said or tuple(has_images)


def find(policy: Policy, wanted: str, source: str) -> str:
    """The digest of the one image that is meant: by its name, its digest, or the beginning of that."""
    there = allowed(policy)
    if wanted in there:
        return wanted
    beginning = wanted if wanted.startswith("sha256:") else f"sha256:{wanted}"
    by_name = [image for image, one in there.items() if one.name == wanted]
    by_digest = [image for image in there if image.startswith(beginning) and len(beginning) >= 15]
    meant = list(dict.fromkeys(by_name + by_digest))
    if not meant:
        raise UnusableError(f'{source}: no image "{shown(wanted)}" in it')
    if len(meant) > 1:
        raise UnusableError(
            f'{source}: "{shown(wanted)}" may mean {len(meant)} images; give the digest of one: {", ".join(meant)}'
        )
    return meant[0]


def check_meta(policy: Policy, source: str) -> None:
    """Raises `UnusableError` if `meta.cima` is there and not as this package writes it."""
    found = policy["meta"].get("cima")
    if found is None:
        return
    if not isinstance(found, dict) or found.get("version") != _META_VERSION:
        raise UnusableError(f'{source}: "meta.cima" is of a version that is not known here')
    images = found.get("images")
    if not isinstance(images, dict) or not all(
        isinstance(known, dict) and all(isinstance(value, str) for value in known.values()) for known in images.values()
    ):
        raise UnusableError(f'{source}: "meta.cima.images" is no object of objects of texts')


def _known(policy: Policy) -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = policy["meta"].get("cima", {}).get("images", {})
    return known


def _meta(policy: Policy) -> dict[str, dict[str, str]]:
    policy["meta"].setdefault("cima", {"version": _META_VERSION, "images": {}})
    return _known(policy)
