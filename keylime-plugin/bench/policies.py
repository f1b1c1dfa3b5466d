#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What policies of many images cost: to make, in bytes, and for Keylime to judge a list by.

`python3 bench/policies.py [IMAGES …]`, in the environment of the tests. Each image has 300 executables; the list has
10,000 entries, of as many images as are in the policy, but 100 at most. Each size is run in a process of its own, so that
the memory is that of this size. Times are the least of three.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cima_keylime import images, reference, runtime_policy
from cima_keylime.runtime_policy import Policy
from encoder import Node

EXECUTABLES = 300
ENTRIES = 10_000


def path_of(number: int) -> bytes:
    """Some are in /usr/bin, more are libraries, as in distributions' images."""
    if number % 3 == 0:
        return b"/usr/bin/tool-%04d" % number
    return b"/usr/lib/x86_64-linux-gnu/libexample-%04d.so.1.2.3" % number


def image_of(number: int) -> str:
    """Its digest."""
    return "sha256:" + hashlib.sha256(b"image %d" % number).hexdigest()


def content_of(image: int, number: int) -> bytes:
    """Of a file: another in each image."""
    return b"%d %d" % (image, number)


def reference_of(image: int) -> str:
    """Written as JSON and read again, as in use."""
    executables = [
        {"path": path.decode(), "sha256": hashlib.sha256(content).hexdigest(), "why": ["elf", "mode"]}
        for path, content in sorted((path_of(n), content_of(image, n)) for n in range(EXECUTABLES))
    ]
    return json.dumps(
        {
            "cima-reference": 1,
            "image": image_of(image),
            "name": f"registry.example/team/service-{image}:1.0",
            **dict.fromkeys(("manifest", "config")),
            "platform": "linux/amd64",
            "labels": {},
            "annotations": {},
            "executables": executables,
        }
    )


def list_of(image_count: int, sink: str) -> Node:
    """10,000 entries by this sink."""
    node = Node(sink)
    used = min(image_count, 100)
    number = 0
    while len(node.list.lines) < ENTRIES:
        image, executable = number % used, number // used
        if executable >= EXECUTABLES:
            # Fewer images than the list has room for: what the host executes fills it.
            node.list.file(f"/usr/bin/host-{number}", b"%d" % number)
        else:
            if executable == 0:
                node.admit(image_of(image))
            node.execute(image_of(image), path_of(executable), content_of(image, executable))
        number += 1
    del node.list.lines[ENTRIES:]
    return node


def least(action: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """The least time of some, and what came of the last."""
    best = float("inf")
    result = None
    for _ in range(times):
        start = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - start)
    return best, result


def host_and_agent(node: Node) -> tuple[Policy, list[tuple[str, str]]]:
    """The policy that the host's entries need, and the agent's parts."""
    policy, agent = runtime_policy.empty(), []
    for line in node.list.lines:
        digest, name = line.text.lstrip().split(" ")[3:5]
        if name.startswith("cima-agent:"):
            agent.append((name, digest.partition(":")[2]))
        elif not name.startswith("cima-"):
            policy["digests"][name] = [digest.partition(":")[2]]
    return policy, agent


def made(image_count: int, node: Node, sink: str, path: Path) -> dict[str, Any]:
    """Makes a policy as `policy make` does, from references as text."""
    host, agent = host_and_agent(node)
    texts = [reference_of(number) for number in range(image_count)]

    def make() -> None:
        policy = json.loads(json.dumps(host))
        images.allow_agent(policy, agent, [sink])
        for number, text in enumerate(texts):
            images.allow(policy, reference.parse(text, str(number)), [sink], str(number))
        with path.open("w") as file:
            runtime_policy.write(policy, file)

    seconds, _ = least(make, 3 if image_count <= 1000 else 1)
    return {"make_s": seconds, "bytes": path.stat().st_size}


def judged(node: Node, path: Path) -> dict[str, Any]:
    """Has Keylime load, check and use a policy."""
    from keylime.common.algorithms import Hash
    from keylime.ima import ima

    logging.disable(logging.CRITICAL)
    text = path.read_text()
    parse, policy = least(lambda: ima.deserialize_runtime_policy(text), 1)
    schema, _ = least(lambda: ima.validate_runtime_policy(policy), 1)
    lines, pcr = node.list.text.split("\n"), node.list.pcr.hex()

    def judge() -> Any:
        return ima.process_measurement_list(None, lines, policy, pcrval=pcr, hash_alg=Hash.SHA256)[1]

    seconds, failure = least(judge)
    if failure:
        raise SystemExit(f"Keylime refuses: {failure.get_event_ids()[:3]}")
    return {"parse_s": parse, "schema_s": schema, "judge_s": seconds}


def measure(image_count: int, sink: str) -> dict[str, Any]:
    """One size, one sink."""
    node = list_of(image_count, sink)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "policy.json"
        row = made(image_count, node, sink, path)
        row["make_peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row.update(judged(node, path))
    return row


def main() -> None:
    """Prints a row of a Markdown table for each size and sink."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=int, default=[10, 100, 1000, 5000], help="how many images")
    parser.add_argument("--one", choices=images.FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.images[0], given.one)))
        return
    print("| images | sink | make | memory | policy | sent | Keylime: parse | schema | judge 10,000 entries |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in given.images:
        for sink in images.FORMS:
            command = [sys.executable, __file__, "--one", sink, str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            size = row["bytes"] / 1e6
            print(
                f"| {count:,} | `{sink}` | {row['make_s']:.2f} s | {row['make_peak_kib'] / 1024:,.0f} MiB | {size:.1f} MB"
                f" | {size * 4 / 3:.1f} MB | {row['parse_s']:.2f} s | {row['schema_s']:.1f} s | {row['judge_s']:.2f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
