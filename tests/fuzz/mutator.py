"""Damaged copies of real files: every mutation is a function of a seeded random generator."""

from __future__ import annotations

import json
import random
from typing import Any

# What readers stumble over: control characters, line ends, half a surrogate, numbers beyond any range, other types.
PIECES = [
    b"\0", b"\r", b"\r\n", b"\n\n", b"\t", b"\t\t", b" ", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\xa0", b"\xff", b"\xed\xa0\x80",
    b"\\ud800", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"=", b"#", b"$", b"%", b"@", b"/", b"(", b")",
    b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"9" * 30, b"0.91", b"null", b"true", b"None", b"../", b"\xcc\x81", b"\xe4\xb8\xad",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 2**31, 2**63, 10**30, -0.5, 0.5, 1e308, float("nan"), float("inf"),
    "", "2", "2.0", "gelu", "none", "../x", "\ud800", "\0", "ｆ", [], [1], ["a"], [[]], {}, {"a": 1},
]  # fmt: skip


def damaged(contents: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a file; JSON is also damaged as a tree, so that it stays readable as JSON."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _json(contents) if rng.random() < 0.6 else None
        contents = _damaged_tree(tree, rng) if tree is not None else rng.choice(BYTES)(contents, rng)
    return contents


def _json(contents: bytes) -> Any:
    if contents[:1] not in (b"{", b"[") or len(contents) > 2_000_000:
        return None
    try:
        return json.loads(contents)
    except ValueError:
        return None


def _damaged_tree(tree: Any, rng: random.Random) -> bytes:
    """Replace, remove, rename or double one node, drawn with equal chance for each level on the way down."""
    parent, key, node = None, None, tree
    while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.7):
        parent, key = node, rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = parent[key]
    if parent is None:
        return json.dumps(rng.choice(VALUES)).encode()
    action = rng.random()
    if action < 0.6:
        parent[key] = rng.choice(VALUES)
    elif action < 0.8:
        del parent[key]
    elif isinstance(parent, dict):
        parent[f"{key}{rng.choice(('', 's', '_2', ' '))}"] = parent.pop(key)
    else:
        parent.insert(key, node)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")


def _place(contents: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(contents) + 1)
    return start, min(len(contents), start + rng.choice((1, 2, 8, 64, len(contents))))


def _overwritten(contents: bytes, rng: random.Random) -> bytes:
    start, _ = _place(contents, rng)
    piece = rng.choice(PIECES)
    return contents[:start] + piece + contents[start + len(piece) :]


def _inserted(contents: bytes, rng: random.Random) -> bytes:
    start, _ = _place(contents, rng)
    return contents[:start] + rng.choice(PIECES) * rng.choice((1, 1, 1, 2, 100)) + contents[start:]


def _removed(contents: bytes, rng: random.Random) -> bytes:
    start, end = _place(contents, rng)
    return contents[:start] + contents[end:]


def _repeated(contents: bytes, rng: random.Random) -> bytes:
    start, end = _place(contents, rng)
    return contents[:end] + contents[start:end] + contents[end:]


def _cut(contents: bytes, rng: random.Random) -> bytes:
    return contents[: rng.choice((0, 1, rng.randrange(len(contents) + 1)))]


def _zeroed(contents: bytes, rng: random.Random) -> bytes:
    start, end = _place(contents, rng)
    return contents[:start] + bytes(end - start) + contents[end:]


def _flipped(contents: bytes, rng: random.Random) -> bytes:
    if not contents:
        return b"\x80"
    at = rng.randrange(len(contents))
    return contents[:at] + bytes([contents[at] ^ (1 << rng.randrange(8))]) + contents[at + 1 :]


def _lines_moved(contents: bytes, rng: random.Random) -> bytes:
    lines = contents.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    action = rng.randrange(4)
    if action == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif action == 1:
        lines.insert(a, lines[b])
    elif action == 2:
        del lines[a]
    else:  # line ends of another system
        return contents.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\xe2\x80\xa8")))
    return b"\n".join(lines)


def _encoded(contents: bytes, rng: random.Random) -> bytes:
    """The whole file in another encoding."""
    try:
        return contents.decode().encode(rng.choice(("utf-16", "utf-8-sig", "latin-1")), errors="replace")
    except UnicodeDecodeError:
        return contents[::-1]


BYTES = (
    _overwritten,
    _inserted,
    _inserted,
    _removed,
    _repeated,
    _cut,
    _zeroed,
    _flipped,
    _flipped,
    _lines_moved,
    _encoded,
)
