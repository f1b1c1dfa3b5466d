# SPDX-License-Identifier: Apache-2.0
"""Standard output: colour on a terminal only, and readers that go away."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def _paint(text: str, code: str) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def good(text: str) -> str:
    """A verdict that is good."""
    return _paint(text, "32")


def bad(text: str) -> str:
    """A verdict that is not."""
    return _paint(text, "31")


def discard() -> None:
    """What has been printed and not been read is not written, at the end neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def verdict() -> Iterator[None]:
    """A verdict that is printed inside stands, and the exit code says it, though its reader may have gone away."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard()
