"""The seam between parameters and the numbers that an optimiser moves.

A stage names a `Parametrization` (plain values, filled by gin). Bound to a model and a corpus it becomes `Coordinates`: a
pair of pure functions between the parameters {"model": ..., "heads": ...} and (free, fixed). The training step
differentiates `loss(coordinates.params(free, fixed))` with respect to `free` alone. So gradients, moments, the global norm
and the check for finite values exist for free numbers only, and frozen parameters cost no backward pass.

A new parametrization overrides what it needs. For example, to train the output head alone:

    class HeadOnly(Parametrization):
        def bind(self, model, corpus):
            return Partition(lambda path: path.startswith("model/head"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import jax

Tree = Any  # nested dicts of arrays; None stands where a leaf lies in the other tree


class Coordinates:
    """The functions of one stage. These defaults make every parameter free."""

    fingerprint = ""  # of the data that these functions depend on; processes of a run compare it

    def enter(self, params: Tree) -> Tree:
        """The parameters before the stage's first step, from those that the stage before left."""
        return params

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        """(free, fixed) of parameters; `rng` draws numbers that parameters do not determine."""
        return params, {}

    def params(self, free: Tree, fixed: Tree) -> Tree:
        """The parameters that the model computes with. Pure and differentiable in `free`."""
        return free

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        """Logical axes of (free, fixed) from those of the parameters, whose leaves are tuples of names."""
        return axes, {}

    def after_update(self, free: Tree, rate: jax.Array) -> Tree:
        """The free numbers after an update at this learning rate, where some of them decay by themselves."""
        return free

    def hidden(self, free: Tree, fixed: Tree) -> dict[str, Tree]:
        """Numbers that `params` does not show. A checkpoint holds them beside the parameters; {} = none."""
        return {}

    def resume(self, params: Tree, hidden: dict[str, Tree]) -> tuple[Tree, Tree]:
        """(free, fixed) again from what a checkpoint holds, bit by bit."""
        return self.split(params, jax.random.key(0))


class Parametrization:
    """Plain values that gin fills; `bind` gives them a meaning for one model. The default trains everything."""

    def bind(self, model: Any, corpus: Any) -> Coordinates:
        """The coordinates of a model.

        Args:
          corpus: the run's data (`data.corpus.Corpus`); None where only shapes count.

        Raises:
          UserError: the model or the corpus lacks something that this parametrization needs.
        """
        return Coordinates()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Everything(Parametrization):
    """Every parameter trains."""


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
