"""Parts that parametrizations share: partitions of parameters, and paths in trees.

A tree is nested dicts of arrays. The path of an array joins the keys that lead to it: "model/layers/attention/query".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from xalign_jax.interfaces import Coordinates, Tree


class Partition(Coordinates):
    """Some parameters train, and the others stay as they are.

    `free` and `fixed` are trees with the keys of the parameters; None stands where an array is in the other tree.
    """

    def __init__(self, trains: Callable[[str], bool]) -> None:
        """`trains` says for each path whether its parameter is free."""
        self._trains = trains

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        # JAX sees no leaf where None stands. So no gradient is computed for fixed parameters, and no moment is kept.
        free = map_paths(lambda path, leaf: leaf if self._trains(path) else None, params)
        fixed = map_paths(lambda path, leaf: None if self._trains(path) else leaf, params)
        return free, fixed

    def params(self, free: Tree, fixed: Tree) -> Tree:
        # `is_leaf` makes the Nones visible, which `jax.tree.map` would otherwise take for empty trees.
        return jax.tree.map(lambda a, b: b if a is None else a, free, fixed, is_leaf=lambda leaf: leaf is None)

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        # A tree of axes has the same paths, and tuples of names as leaves.
        return self.split(axes, None)  # type: ignore[arg-type]


def is_leaf(node: object) -> bool:
    """True for a tuple of logical axes, which is a leaf of a tree of axes. JAX would take it for a tree."""
    # The empty tuple is the axes of a scalar.
    return isinstance(node, tuple) and all(axis is None or isinstance(axis, str) for axis in node)


def map_paths(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """`tree` with function(path, leaf) in place of each leaf."""

    def at(path: tuple[Any, ...], leaf: Tree) -> Tree:
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(at, tree, is_leaf=is_leaf)


def leaves(tree: Tree) -> list[tuple[str, Any]]:
    """(path, leaf) of all leaves, in JAX's order: dicts by sorted keys."""
    # `map_paths` visits every leaf once; the tree that it returns is not needed.
    found: list[tuple[str, Any]] = []
    map_paths(lambda path, leaf: found.append((path, leaf)), tree)
    return found


def paths(tree: Tree) -> list[str]:
    """The paths of all leaves, in the same order."""
    return [path for path, _ in leaves(tree)]
