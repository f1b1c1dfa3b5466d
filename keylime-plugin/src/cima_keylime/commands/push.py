# SPDX-License-Identifier: Apache-2.0
"""`cima-keylime push`: a verifier gets a runtime policy."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cima_keylime import images
from cima_keylime.commands.shared import GOOD, command, json_argument, pushable, verifier, verifier_arguments
from cima_keylime.terminal import good
from cima_keylime.unusable import UnusableError
from cima_keylime.verifier import RefusedError


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = command(
        commands,
        "push",
        "Give a verifier a runtime policy. Before the containers are started: agents that use the name have it with the next quote.",
        """  cima-keylime push --verifier https://verifier:8881 --name web --ca ca.crt --cert me.crt --key me.pem policy.json
  cima-keylime push … --name web --update policy.json       # a policy of this name is there
  keylime_tenant -c add --runtime-policy-name web -u AGENT … # which agents have it""",
        "0 stored",
        _push,
    )
    parser.add_argument("policy", metavar="POLICY", help="- is standard input")
    parser.add_argument("--name", required=True, help="the policy's name at the verifier")
    parser.add_argument("--update", action="store_true", help="replace the policy of this name, which is there")
    verifier_arguments(parser)
    json_argument(parser)


def _push(given: argparse.Namespace) -> int:
    text, policy = pushable(given.policy)
    there = verifier(given)
    try:
        there.push(given.name, text, given.update)
    except RefusedError as error:
        hint = {
            409: "; --update replaces it",
            404: "; without --update it is made",
            403: "; is --cert one of an administrator's?",
            401: "; it wants --cert and --key",
        }
        raise UnusableError(f"{error}{hint.get(error.code, '')}") from error
    if there.stored(given.name) != text:
        raise UnusableError(f"{there.url}: has another policy named {given.name} than was sent")
    count, size = len(images.allowed(policy)), len(text.encode())
    if given.json:
        print(json.dumps({"name": given.name, "verifier": there.url, "bytes": size, "images": count}))
    else:
        print(f"{good('stored')}: {given.name} at {there.url}, {count} images, {size} bytes")
    return GOOD
