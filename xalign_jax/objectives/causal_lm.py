"""Causal language modelling: cross-entropy of each weighted position's target."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.objectives.parts.primitives import token_cross_entropy

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CausalLM(Objective):
    """sum_i w_i ce_i over tokens, counted by sum_i w_i.

    Batch: tokens, targets, positions, segment_ids (B,T) int32, weights (B,T) float32. Inputs and targets are separate
    arrays, so input-only code-switching (PreAlign) is a matter of data.
    """

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """No heads, no state.

        Raises:
          UserError: the model sees what comes after a token, its target too.
        """
        if not model.causal:
            name = type(model.config).__name__
            raise UserError(
                f"Recipe.model = @{name}(): CausalLM needs a model that sees only what was before, as @Llama()"
            )
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """Sum of the weights."""
        return jnp.sum(batch["weights"], dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(summed cross-entropy, no metrics, state)."""
        top = model.num_layers
        h = model.head_input(model.hidden(Inputs.of(batch), levels=(top,))[top])
        total = token_cross_entropy(
            h.reshape(-1, h.shape[-1]),
            model.head_weight(),
            model.head_bias(),
            batch["targets"].reshape(-1),
            batch["weights"].reshape(-1),
        )
        return total, {}, state
