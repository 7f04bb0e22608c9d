"""Values that change with the step, for `Mixture.rates`, `Mixture.alpha` and `Stream.weight`.

Gin files count in steps, as `metrics.jsonl` does. Step 0 is the first step that reads the mixture, and steps of stages
that do not read it are left out. Feeds know only row numbers. So `training.stages.plan` turns the steps of the points
into rows before it builds a feed, with `in_rows`. A share of the run would be the wrong unit: a run that is extended
would then have read other rows than it did.

The steps of a `Stream.weight` are those of the stage, from 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gin

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Changing
from xalign_jax.recipe import at_least_one, freeze, within

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Points(Changing):
    """A value at some steps.

    Attributes:
      points: (step, value) pairs. The first step is 0, and steps rise. The last value stays.
      linear: the value changes linearly between two points; False = it stays until the next point.
    """

    points: tuple = gin.REQUIRED
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        freeze(self)
        label = f"{type(self).__name__}.points"
        if not self.points or not all(isinstance(point, tuple) and len(point) == 2 for point in self.points):
            raise UserError(f"{label} = {self.points!r}: expected pairs of a step and a value, ((0, 0.7), (1000, 0.3))")
        for step in self.starts:
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise UserError(f"{label} has the step {step!r}: steps are whole numbers >= 0")
        if self.starts[0]:
            raise UserError(f"{label} begins at step {self.starts[0]}: give the value at step 0 first")
        for one, following in itertools.pairwise(self.starts):
            if one >= following:
                raise UserError(f"{label} has step {following} after step {one}: steps must rise")

    @property
    def starts(self) -> tuple[int, ...]:
        """(K,) the steps of the points."""
        return tuple(step for step, _ in self.points)

    @property
    def values(self) -> tuple[Any, ...]:
        """(K,) the values at these steps."""
        return tuple(value for _, value in self.points)

    def at(self, step: jax.Array) -> jax.Array:
        """The value at a step, where values are numbers."""
        import jax.numpy as jnp

        starts, values = jnp.asarray(self.starts), jnp.asarray(self.values, jnp.float32)
        if self.linear:
            return jnp.interp(step, starts, values)
        return values[jnp.searchsorted(starts, step, side="right") - 1]

    def in_rows(self, row: Callable[[int], int]) -> Self:
        """A copy whose points lie at `row(step)` in place of their steps."""
        return dataclasses.replace(self, points=tuple((row(step), value) for step, value in self.points))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Piecewise(Points):
    """A value that stays from one point until the next."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Linear(Points):
    """A value that changes linearly from one point to the next, and stays after the last."""

    linear: ClassVar[bool] = True


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Turns(Changing):
    """Streams take turns: a `Stream.weight` that is `weight` at steps `turn`, `turn + every` and so on, and 0 elsewhere.

    Attributes:
      every: steps from one turn of the stream to the next.
      turn: the first step of the stage at which it is the stream's turn.
    """

    every: int = 2
    turn: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "every")
        within(self, "[0, inf)", "turn", "weight")
        if self.turn >= self.every:
            raise UserError(f"Turns.turn = {self.turn}: less than Turns.every = {self.every}, counted from 0")

    def at(self, step: jax.Array) -> jax.Array:
        """The weight at a step."""
        import jax.numpy as jnp

        return jnp.where(step % self.every == self.turn, jnp.float32(self.weight), 0.0)


def phases(value: Any) -> tuple[tuple[int, Any], ...]:
    """(step, value) pairs of a schedule, or of a constant, which has one pair."""
    return value.points if isinstance(value, Points) else ((0, value),)
