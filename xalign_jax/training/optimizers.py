"""Optimisers and learning-rate schedules as plain values; the mathematics is optax's."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from xalign_jax.interfaces import Tree
from xalign_jax.recipe import freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up over a share of the stage's steps, then a cosine from `peak` to `final` x `peak`."""

    peak: float = 1e-3
    warmup: float = 0.05
    final: float = 0.1

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "peak")
        within(self, "[0, 1]", "warmup", "final")

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = max(1, round(self.warmup * steps))
        # The first update has the rate peak / warm, not 0. optax wants at least one step after the warm-up.
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
        within(self, "[0, inf)", "peak")
        within(self, "[0, 1]", "warmup")

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = round(self.warmup * steps)
        # Steps count from 0. The first update has the rate peak / warm, not 0.
        return lambda step: self.peak * jnp.minimum(1.0, (step + 1) / max(warm, 1))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupLinear:
    """Linear warm-up over a share of the stage's steps, then a line from `peak` to 0 (polynomial decay of power 1)."""

    peak: float = 1e-3
    warmup: float = 0.05

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "peak")
        within(self, "[0, 1]", "warmup")

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        warm = max(1, round(self.warmup * steps))
        # The smaller of two lines: up to `peak` in `warm` steps, and down to 0 after the last step.
        return lambda step: self.peak * jnp.minimum((step + 1) / warm, (steps - step) / max(steps - warm, 1))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up over some steps, a constant rate, then a line from `peak` to `final` x `peak` (Hu et al. 2024).

    For runs whose length is not known in advance: before its decay begins, the rate at a step does not depend on the
    stage's length. So `xalign train --extend` continues as if the stage had been longer from the start.

    Attributes:
      warmup_steps: steps of the warm-up.
      decay: share of the stage's steps, the last ones, in which the rate falls.
      final: the rate after the last step, as a share of `peak`.
    """

    peak: float = 1e-3
    warmup_steps: int = 100
    decay: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "peak", "warmup_steps")
        within(self, "[0, 1]", "decay", "final")

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of the step within the stage."""
        # `left` is 1 until `falling` steps remain, then falls in a line to 0.
        warm, falling = max(1, self.warmup_steps), max(1, round(self.decay * steps))

        def rate(step: jax.Array) -> jax.Array:
            left = jnp.minimum(1.0, (steps - step) / falling)
            return self.peak * jnp.minimum(1.0, (step + 1) / warm) * (self.final + (1 - self.final) * left)

        return rate


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
        within(self, "[0, 1)", "b1", "b2")
        within(self, "(0, inf)", "eps")
        within(self, "[0, inf)", "weight_decay", "clip")

    def direction(self, decays: Tree) -> optax.GradientTransformation:
        """The update before it is scaled by minus the learning rate.

        Args:
          decays: tree of bools over the free numbers; True where weight decay applies.
        """
        # Clip the gradient before Adam sees it. Decay is added after Adam's scaling, which makes it decoupled.
        clip = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        decay = optax.add_decayed_weights(self.weight_decay, decays)
        return optax.chain(*clip, optax.scale_by_adam(self.b1, self.b2, self.eps), decay)
