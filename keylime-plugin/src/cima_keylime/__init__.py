# SPDX-License-Identifier: Apache-2.0
"""Keylime runtime policies for containers that cima measures, and what Keylime's failures mean in their terms.

An unmodified Keylime verifies cima's entries: this package makes the policy that it needs, sends it,
and reads what comes back. Formats: `docs/FORMATS.md` and `image-digest/SPEC.md` of cima; Keylime's as of 7.14.3.
"""

from __future__ import annotations

__version__ = "0.1.0"
