"""The seams of the house: what a method must offer to join, and what it gets.

This module holds base classes and plain values only, and is open to every room. The first seam stands here, between
parameters and the numbers that an optimiser moves. A stage names a `Parametrization` (plain values, filled by gin). Bound to a
model and a corpus it becomes `Coordinates`: pure functions between the parameters {"model": ..., "heads": ...} and
(free, fixed). The training step differentiates `loss(coordinates.params(free, fixed))` with respect to `free` alone. So
gradients, moments, the global norm and the check for finite values exist for free numbers only, and frozen parameters
cost no backward pass.

A new parametrization overrides what it needs. For example, to train the output head alone:

    @gin.configurable
    @dataclasses.dataclass(frozen=True)
    class HeadOnly(Parametrization):
        def bind(self, model, corpus):
            return Partition(lambda path: path.startswith("model/head"))
"""

from __future__ import annotations

import dataclasses
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
