"""Momentum encoders: exponential moving averages of parameters (He et al. 2020, MoCo, arXiv 1911.05722, section 3.2).

    average <- share * average + (1 - share) * parameters

A `Momentum` gives the share as a function of the number of updates.
"""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp

from xalign_jax.interfaces import Tree
from xalign_jax.recipe import at_least_one, freeze, within


class Momentum:
    """The share of the old average that each update keeps. Derive a gin-configurable dataclass and define `at`."""

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        raise NotImplementedError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ConstantMomentum(Momentum):
    """The same share at every update (InfoXLM's README: 0.9999)."""

    value: float = 0.9999

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, 1]", "value")

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        return jnp.full(jnp.shape(updates), self.value, jnp.float32)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinearMomentum(Momentum):
    """A straight line from `first` to `last` over `steps` updates, then `last`."""

    first: float = 0.99
    last: float = 0.9999
    steps: int = 10_000

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, 1]", "first", "last")
        at_least_one(self, "steps")

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        # int32 / int is float32 in JAX.
        return self.first + (self.last - self.first) * jnp.minimum(updates / self.steps, 1.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PowerMomentum(Momentum):
    """1 - t^-exponent at the t-th update, t from 1 (InfoXLM's code).

    At first the average equals the parameters; later it follows them ever more slowly.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "(0, inf)", "exponent")

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        # Updates count from 0, so t = updates + 1; the first share is 0.
        return 1.0 - (updates + 1.0) ** -self.exponent


def copied(params: Tree) -> Tree:
    """A float32 copy of parameters in memory of its own: the next update overwrites the parameters' memory."""
    # Adding 0 makes new arrays.
    return jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, params)


@jax.named_scope("momentum")
def moved(average: Tree, params: Tree, share: jax.Array) -> Tree:
    """share * average + (1 - share) * params for every array of two equal trees, in float32.

    Args:
      average: float32 arrays.
      share: float32 scalar, of `Momentum.at`.
    """
    # In bfloat16, steps of 1 - 0.9999 would be rounded away and the average would stand still.
    return jax.tree.map(lambda old, new: share * old + (1.0 - share) * new.astype(jnp.float32), average, params)
