"""What parametrizations share: partitions of parameters, and paths in trees of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from xalign_jax.interfaces import Coordinates, Tree


class Partition(Coordinates):
    """Some parameters train and the others stay as they are."""

    def __init__(self, trains: Callable[[str], bool]) -> None:
        """`trains` says for each path, such as "model/layers/attention/query", whether its parameter is free."""
        self._trains = trains

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        free = map_paths(lambda path, leaf: leaf if self._trains(path) else None, params)
        fixed = map_paths(lambda path, leaf: None if self._trains(path) else leaf, params)
        return free, fixed

    def params(self, free: Tree, fixed: Tree) -> Tree:
        return jax.tree.map(lambda a, b: b if a is None else a, free, fixed, is_leaf=lambda leaf: leaf is None)

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        return self.split(axes, None)  # type: ignore[arg-type]


def is_leaf(node: Any) -> bool:
    """True for a tuple of logical axes, which is a leaf of a tree of axes."""
    return isinstance(node, tuple) and all(axis is None or isinstance(axis, str) for axis in node)


def map_paths(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """`tree` with function(path, leaf) in place of each leaf; a path joins keys by "/"."""

    def at(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(at, tree, is_leaf=is_leaf)


def leaves(tree: Tree) -> list[tuple[str, Any]]:
    """(path, leaf) of all leaves, in order."""
    found: list[tuple[str, Any]] = []
    map_paths(lambda path, leaf: found.append((path, leaf)), tree)
    return found


def paths(tree: Tree) -> list[str]:
    """The paths of all leaves, in order."""
    return [path for path, _ in leaves(tree)]
