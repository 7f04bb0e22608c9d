"""Momentum encoders: exponential moving averages of parameters, and how much of the old one is kept at which update."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.recipe import at_least_one, freeze, within


class Momentum:
    """How much of the old average is kept at which update."""

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
    """From `first` to `last` over `steps` updates, then `last`."""

    first: float = 0.99
    last: float = 0.9999
    steps: int = 10_000

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, 1]", "first", "last")
        at_least_one(self, "steps")

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        return self.first + (self.last - self.first) * jnp.minimum(updates / self.steps, 1.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PowerMomentum(Momentum):
    """1 - t^-exponent at the t-th update: the average follows at once, then ever more slowly (InfoXLM's code)."""

    exponent: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "(0, inf)", "exponent")

    def at(self, updates: jax.Array) -> jax.Array:
        """Share of the old average kept at update number `updates` (int32, from 0); float32 scalar."""
        return 1.0 - (updates + 1.0) ** -self.exponent


def moved(average: Any, params: Any, share: jax.Array) -> Any:
    """share * average + (1 - share) * params, in float32: 1 - 0.9999 is lost in bfloat16."""
    return jax.tree.map(lambda old, new: share * old + (1.0 - share) * new.astype(jnp.float32), average, params)
