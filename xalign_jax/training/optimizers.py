"""Optimisers and learning-rate schedules as plain values; the mathematics is optax's."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax.numpy as jnp
import optax

from xalign_jax.recipe import freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up over a share of the stage's steps, then a cosine from `peak` to `final` x `peak`."""

    peak: float = 1e-3
    warmup: float = 0.05
    final: float = 0.1

    def __post_init__(self) -> None:
        freeze(self)

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = max(1, round(self.warmup * steps))
        return optax.warmup_cosine_decay_schedule(
            self.peak / warm, self.peak, warm, max(steps, warm + 1), self.final * self.peak
        )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupConstant:
    """Linear warm-up over a share of the stage's steps, then a constant learning rate."""

    peak: float = 1e-3
    warmup: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = round(self.warmup * steps)
        return lambda step: self.peak * jnp.minimum(1.0, (step + 1) / max(warm, 1))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupLinear:
    """Linear warm-up over a share of the stage's steps, then a line from `peak` to 0 (polynomial decay of power 1)."""

    peak: float = 1e-3
    warmup: float = 0.05

    def __post_init__(self) -> None:
        freeze(self)

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = max(1, round(self.warmup * steps))
        return lambda step: self.peak * jnp.minimum((step + 1) / warm, (steps - step) / max(steps - warm, 1))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW with decoupled weight decay on matrices only and clipping by global norm (0 = no clipping)."""

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)

    def direction(self, decay_mask: Any) -> optax.GradientTransformation:
        """The update before it is scaled by minus the learning rate.

        Args:
          decay_mask: tree of bools over the parameters; True where weight decay applies.
        """
        clip = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        decay = optax.add_decayed_weights(self.weight_decay, decay_mask)
        return optax.chain(*clip, optax.scale_by_adam(self.b1, self.b2, self.eps), decay)
