# SPDX-License-Identifier: Apache-2.0
"""Colour, on a terminal only."""

from __future__ import annotations

import os
import sys


def _paint(text: str, code: str) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def good(text: str) -> str:
    """A verdict that is good."""
    return _paint(text, "32")


def bad(text: str) -> str:
    """A verdict that is not."""
    return _paint(text, "31")
