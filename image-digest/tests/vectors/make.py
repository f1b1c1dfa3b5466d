#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the vectors beside this file from SPEC.md alone: no code of the crate.

    python3 make.py            writes vectors.json and random.json
    python3 make.py --check    fails if they are not what it would write

A vector is a list of layers, each a list of entries in the archive's order, and the image's digest
after each layer. Paths, targets and contents are strings whose code points are bytes. A tree is kept
nested here, and layers are merged directory by directory, as a union file system does it.
"""

import hashlib
import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
Vector = dict[str, Any]

DOMAIN = b"cima-image-v1\0"
DIRECTORY = {"type": "d", "mode": 0o755, "uid": 0, "gid": 0}


def raw(text: str) -> bytes:
    return text.encode("latin-1")


def lp(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def meta(entry: Entry) -> bytes:
    out = struct.pack("<III", entry["mode"] & 0o7777, entry["uid"], entry["gid"])
    if "capability" not in entry:
        return out + struct.pack("<I", 0)
    value = bytes.fromhex(entry["capability"])
    return out + struct.pack("<I", 1) + lp(b"security.capability") + lp(value)


class Node:
    """A node of a tree; in a layer's tree `entry` is None for an implied directory."""

    def __init__(self, entry: Entry | None) -> None:
        self.entry = entry
        self.children: dict[bytes, Node] = {}
        self.gone: set[bytes] = set()
        self.opaque = False

    def is_directory(self) -> bool:
        return self.entry is None or self.entry["type"] == "d"

    def digest(self, root: bool = False) -> bytes:
        entry = self.entry or DIRECTORY
        kind = "R" if root else entry["type"]
        body = DOMAIN + kind.encode()
        if kind in "Rd":
            body += b"" if root else meta(entry)
            body += struct.pack("<Q", len(self.children))
            for name in sorted(self.children):
                body += lp(name) + self.children[name].digest()
        elif kind == "f":
            content = raw(entry["content"])
            size = struct.pack("<Q", len(content))
            body += meta(entry) + size + hashlib.sha256(content).digest()
        elif kind == "l":
            body += struct.pack("<II", entry["uid"], entry["gid"]) + lp(raw(entry["target"]))
        elif kind in "cb":
            body += meta(entry) + struct.pack("<II", entry["major"], entry["minor"])
        else:
            body += meta(entry)
        return hashlib.sha256(body).digest()


def names(path: str) -> list[bytes]:
    return [name for name in raw(path).split(b"/") if name not in (b"", b".")]


def find(root: Node, path: list[bytes]) -> Node | None:
    node: Node | None = root
    for name in path:
        node = node.children.get(name) if node else None
    return node


def layer_of(entries: list[Entry], below: Node) -> Node:
    root = Node(None)
    for entry in entries:
        path = names(entry["path"])
        if not path:
            continue
        source = None
        if entry["type"] == "hardlink":
            target = names(entry["target"])
            source = find(root, target) or find(below, target)
        above = root
        for name in path[:-1]:
            above = above.children.setdefault(name, Node(None))
        last = path[-1]
        if last == b".wh..wh..opq":
            above.opaque = True
        elif last.startswith(b".wh..wh."):
            pass
        elif last.startswith(b".wh."):
            above.gone.add(last[4:])
        elif entry["type"] == "hardlink":
            assert source and source.entry, entry
            above.children[last] = Node(source.entry)
        else:
            old = above.children.get(last)
            new = Node(entry)
            if old and old.is_directory() and new.is_directory():
                new.children, new.gone, new.opaque = old.children, old.gone, old.opaque
            above.children[last] = new
    return root


def merge(upper: Node, lower: Node | None) -> Node:
    """What is seen of two directories, or of one that is alone."""
    seen = Node(upper.entry or (lower.entry if lower else None) or DIRECTORY)
    below = {} if lower is None or upper.opaque else dict(lower.children)
    for name in upper.gone:
        below.pop(name, None)
    seen.children = below
    for name, node in upper.children.items():
        if node.is_directory():
            old = below.get(name)
            seen.children[name] = merge(node, old if old and old.is_directory() else None)
        else:
            seen.children[name] = Node(node.entry)
    return seen


def vector(name: str, *layers: list[Entry]) -> Vector:
    image, digests = Node(None), []
    for entries in layers:
        image = merge(layer_of(entries, image), image)
        digests.append("sha256:" + image.digest(root=True).hex())
    return {"name": name, "layers": list(layers), "digests": digests}


def d(path: str, mode: int = 0o755, **more: Any) -> Entry:
    return {"path": path, "type": "d", "mode": mode, "uid": 0, "gid": 0, **more}


def f(path: str, content: str = "", mode: int = 0o644, **more: Any) -> Entry:
    return {"path": path, "type": "f", "mode": mode, "uid": 0, "gid": 0, "content": content, **more}


def special(kind: str, path: str, **more: Any) -> Entry:
    return {"path": path, "type": kind, "mode": 0o600, "uid": 0, "gid": 0, **more}


def link(path: str, target: str) -> Entry:
    return {"path": path, "type": "l", "uid": 0, "gid": 0, "target": target}


def hard(path: str, target: str) -> Entry:
    return {"path": path, "type": "hardlink", "target": target}


CAPABILITY = "0100000200200000000000000000000000000000"


def written() -> list[Vector]:
    tree = [d("a"), f("a/x", "1"), f("a/y", "2"), d("a/sub"), f("a/sub/z", "3")]
    odd = ["sp ace", "new\nline", "\xff\xfe", "..a", "a!", "a", "-", "\\", "\x01"]
    return [
        vector("an empty image", []),
        vector("the root says nothing", [d("./", 0o700, uid=5)]),
        vector("a directory", [d("etc")]),
        vector("a file", [f("etc", "content\n")]),
        vector("an empty file", [f("empty")]),
        vector("a symbolic link", [link("sh", "/bin/bash")]),
        vector("a character device", [special("c", "null", major=1, minor=3)]),
        vector("a block device", [special("b", "null", major=1, minor=3)]),
        vector("a fifo", [special("p", "pipe")]),
        vector("a socket", [special("s", "socket")]),
        vector("a capability", [f("ping", "ELF", 0o755, capability=CAPABILITY)]),
        vector("set-user-id, set-group-id, sticky", [f("su", "ELF", 0o6755), d("tmp", 0o1777)]),
        vector("an owner", [f("mine", "x", uid=1000, gid=4294967294)]),
        vector("odd names", [f(name, name) for name in odd]),
        vector("a directory sorts by its name alone", [d("a"), f("a/b"), f("a!"), f("a.b")]),
        vector("a parent that nobody described", [f("usr/bin/true", "ELF", 0o755)]),
        vector("many spellings", [d("./usr/"), f("/usr//./bin/x", "1")]),
        vector("twice the same path", [f("x", "1"), f("x", "2")]),
        vector("a file and then a directory", [f("x", "1"), d("x"), f("x/y")]),
        vector("a directory and then a file", [d("x"), f("x/y"), f("x", "1")]),
        vector("a directory described after what is in it", [f("x/y"), d("x", 0o700)]),
        vector("whiteout of a file", tree, [f("a/.wh.x")]),
        vector("whiteout of a directory", tree, [f("a/.wh.sub")]),
        vector("whiteout of nothing", tree, [f("a/.wh.nothing"), f("none/.wh.x")]),
        vector("whiteout before its own entry", tree, [f("a/.wh.x"), f("a/x", "new")]),
        vector("whiteout after its own entry", tree, [f("a/x", "new"), f("a/.wh.x")]),
        vector("whiteout and a new directory", tree, [f(".wh.a"), d("a", 0o700), f("a/new")]),
        vector("opaque directory", tree, [d("a"), f("a/new"), f("a/.wh..wh..opq")]),
        vector("opaque, of its own nothing", tree, [f("a/.wh..wh..opq"), f("a/x", "new")]),
        vector("opaque root", tree, [f(".wh..wh..opq"), f("b")]),
        vector("an engine's own names", tree, [f(".wh..wh.aufs"), d(".wh..wh.plnk"), f("b")]),
        vector("file replaces directory", tree, [f("a", "now a file")]),
        vector("directory replaces file", tree, [d("a/x", 0o700), f("a/x/y")]),
        vector("implied directory over a file", tree, [f("a/x/y")]),
        vector("implied directory keeps the lower one", [d("p", 0o700, uid=7)], [f("p/q")]),
        vector("described directory takes its place", [d("p", 0o700), f("p/q")], [d("p", 0o711)]),
        vector("link replaces directory", tree, [link("a", "elsewhere")]),
        vector("hard link in a layer", [f("x", "1", capability=CAPABILITY), hard("y", "./x")]),
        vector("hard link to the layer below", tree, [hard("b", "a/x")]),
        vector("hard link to what the layer replaces", tree, [f("a/x", "new"), hard("b", "a/x")]),
        vector("hard link, then its target changes", [f("x", "1"), hard("y", "x"), f("x", "2")]),
        vector("hard link to what is whited out", tree, [f("a/.wh.x"), hard("b", "a/x")]),
    ]


def random_layer(rng: random.Random, below: Node) -> list[Entry]:
    entries: list[Entry] = []
    for _ in range(rng.randrange(8)):
        depth = rng.choice([1, 1, 2, 2, 3])
        path = [rng.choice(["a", "b", "c\xff"]) for _ in range(depth)]
        kind = rng.choice("dddfffflpHwwo")
        if kind == "w":
            path[-1] = ".wh." + path[-1]
        if kind == "o":
            path[-1] = ".wh..wh..opq"
        own = layer_of(entries, below)
        above = [find(own, [raw(p) for p in path[:n]]) for n in range(1, depth)]
        if any(node and not node.is_directory() for node in above):
            continue
        text = "/".join(path)
        numbers = {"uid": rng.randrange(2), "gid": rng.randrange(2)}
        if kind == "d":
            entries.append({**d(text, rng.choice([0o755, 0o700])), **numbers})
        elif kind == "l":
            entries.append({**link(text, rng.choice(["a", "/b"])), **numbers})
        elif kind == "p":
            entries.append({**special("p", text), **numbers})
        elif kind == "H":
            target = [raw(rng.choice(["a", "b", "c\xff"])) for _ in range(rng.choice([1, 2]))]
            source = find(own, target) or find(below, target)
            if source and source.entry and not source.is_directory():
                entries.append(hard(text, b"/".join(target).decode("latin-1")))
        else:
            entries.append({**f(text, rng.choice(["1", "2"])), **numbers})
    return entries


def drawn() -> list[Vector]:
    rng = random.Random(1)
    vectors = []
    for number in range(300):
        image, layers = Node(None), []
        for _ in range(rng.randrange(1, 5)):
            layers.append(random_layer(rng, image))
            image = merge(layer_of(layers[-1], image), image)
        vectors.append(vector(f"random {number}", *layers))
    return vectors


def main() -> None:
    here = Path(__file__).parent
    for name, vectors in (("vectors.json", written()), ("random.json", drawn())):
        lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in vectors)
        text = f"[\n{lines}\n]\n"
        if "--check" not in sys.argv:
            (here / name).write_text(text)
        elif (here / name).read_text() != text:
            sys.exit(f"{name} is not what make.py writes")


if __name__ == "__main__":
    main()
