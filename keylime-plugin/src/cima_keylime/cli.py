# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime`: the one place where arguments become calls and errors exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cima_keylime import __version__
from cima_keylime.commands import explain, key, policy, push, verify
from cima_keylime.commands.shared import GOOD, UNUSABLE
from cima_keylime.terminal import discard
from cima_keylime.unusable import UnusableError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    given = make_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        if sys.stdout is None:
            raise UnusableError("standard output is closed")
        code = run(given)
        sys.stdout.flush()
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        # Who read has enough.
        discard()
        return GOOD
    except OSError as error:
        # Those of files are named where they are opened.
        discard()
        print(f"error: standard output: {error.strerror}", file=sys.stderr)
        return UNUSABLE
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
    for command in (policy, push, key, verify, explain):
        command.add_to(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Usage errors are 2 already; this one has no abbreviations, which scripts would come to need."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)
