# SPDX-License-Identifier: Apache-2.0
"""`python3 -m cima_keylime`."""

from __future__ import annotations

import sys

from cima_keylime.cli import main

sys.exit(main())
