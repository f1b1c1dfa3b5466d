# SPDX-License-Identifier: Apache-2.0
"""The excludes of a policy: whose names Keylime passes over, and that those are not cima's.

They are regular expressions, which Keylime joins and matches at the beginning of every name, of `ima-buf` entries too (`_validate_ima_ng`,
keylime/ima/ima.py). Paths in containers are in names of cima's, and others choose them: `.*/tmp/.*`, meant for the host, would let an executable
of a container pass, and a violation. What an exclude may match cannot be told from samples, so it is told from how it is written: it begins
with plain characters that no name of cima's begins with, or it is guarded.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

from cima_keylime import names
from cima_keylime.unusable import UnusableError, shown

#: Context events are bound to the PCR by the list, and nothing that a policy could know. All sinks name them so.
CONTEXT = r"cima-ctx:[0-9]+$"
_GUARD, _END = f"(?!{names.PREFIX})(?:", ")"
# What stands for itself, or is escaped. Of others it is not asked what they match.
_PLAIN = re.compile(r"\^?((?:[A-Za-z0-9/_:,%@=~<>-]|\\[^A-Za-z0-9\s])*)")
# The host's own tools make containers that nobody registers. Which, an operator may know, by the beginning of a path.
_UNREGISTERED = re.compile(r"cima-exec:unregistered:(?:/|%2F)[^/%]")


def check(excludes: Any, source: str) -> None:
    """Raises `UnusableError` if they are none, or Keylime would ignore them all."""
    if not isinstance(excludes, list) or not all(isinstance(one, str) for one in excludes):
        raise UnusableError(f'{source}: "excludes" is no list of texts')
    for exclude in excludes:
        _compiled(exclude, source)
    # Keylime joins them, and ignores all if that is none: `valid_exclude_list`, keylime/common/validators.py.
    if excludes:
        _compiled(_joined(excludes), source)


def _joined(excludes: Iterable[str]) -> str:
    return "(" + ")|(".join(excludes) + ")"


def _compiled(exclude: str, source: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            # Flags inside are an error since Python 3.11, whichever Keylime runs with.
            warnings.simplefilter("error", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(exclude)
    except (re.error, OverflowError, RecursionError, DeprecationWarning) as error:
        raise UnusableError(f'{source}: the exclude "{shown(exclude)}" is no regular expression: {error}') from error


def names_cima(exclude: str) -> bool:
    """Whether it is written for names of cima's."""
    return _beginning(exclude).startswith(names.PREFIX)


def is_only_cimas(exclude: str) -> bool:
    """Whether it can match no name but cima's: nothing of the host's is lost with it."""
    return names_cima(exclude) and _is_bound(exclude)


def _beginning(exclude: str) -> str:
    """What the names that it matches begin with, as far as plain characters say it; of several alternatives the first."""
    found = _PLAIN.match(exclude)
    # The expression matches the empty text, too.
    plain = re.sub(r"\\(.)", r"\1", found[1]) if found is not None else ""
    rest = exclude[found.end() :] if found is not None else exclude
    return plain[:-1] if rest.startswith(("?", "*", "{")) else plain


def _is_bound(exclude: str) -> bool:
    """Whether what it matches begins as `_beginning` says: no alternative, no comment, behind which a repetition means what is before."""
    return "|" not in exclude and "(?#" not in exclude


def _is_guarded(exclude: str) -> bool:
    if not (exclude.startswith(_GUARD) and exclude.endswith(_END)):
        return False
    try:
        # Else the guard ends before: `(?!cima-)(?:a)|(?:b)`.
        _compiled(exclude[len(_GUARD) : -len(_END)], "")
    except UnusableError:
        return False
    return True


def _is_others(exclude: str) -> bool:
    """Whether it cannot match a name of cima's."""
    beginning = _beginning(exclude)
    other = not beginning.startswith(names.PREFIX) and not names.PREFIX.startswith(beginning)
    return (_is_bound(exclude) and other) or _is_guarded(exclude)


def _is_allowed(exclude: str) -> bool:
    """Whether it matches names of cima's, but just those that may be passed over."""
    return exclude == CONTEXT or (_is_bound(exclude) and _UNREGISTERED.match(_beginning(exclude)) is not None)


def guarded(excludes: list[str], source: str) -> list[str]:
    """The same for all names that are not cima's, and for no other. Raises `UnusableError` of those that are written for cima's."""
    for exclude in excludes:
        _refuse_written_for_cima(exclude, source)
    made = [one if _is_others(one) or _is_allowed(one) else _GUARD + one + _END for one in excludes]
    made = list(dict.fromkeys(made))
    check(made, source)
    return made


def refuse(excludes: list[str], source: str) -> None:
    """Raises `UnusableError` if Keylime may pass over something of cima's by one of them."""
    for exclude in excludes:
        _refuse_written_for_cima(exclude, source)
        if not _is_others(exclude) and not _is_allowed(exclude):
            raise UnusableError(
                f'{source}: the exclude "{shown(exclude)}" may have Keylime pass over violations and executables of containers;'
                " `cima-keylime policy merge FILE -o FILE` keeps it from names of cima's"
            )


def _refuse_written_for_cima(exclude: str, source: str) -> None:
    if names_cima(exclude) and not _is_allowed(exclude):
        raise UnusableError(
            f'{source}: the exclude "{shown(exclude)}" would have Keylime pass over what it is to judge: take it out.'
            f" Of names of cima's only {CONTEXT} may be excluded, and cima-exec:unregistered: with the beginning of a path, one each"
        )


def of_cima(excludes: list[str]) -> re.Pattern[str] | None:
    """Those by which names of cima's may be passed over, as one expression, to be matched at the beginning of a name."""
    allowed = [one for one in excludes if _is_allowed(one)]
    return re.compile(_joined(allowed)) if allowed else None
