"""Causal language modelling: each token is predicted from the tokens before it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.primitives import token_cross_entropy

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CausalLM(Objective):
    """sum_i w_i * cross-entropy_i over all tokens, counted by sum_i w_i.

    Batch: tokens, targets, positions, segment_ids (B,T) int32, weights (B,T) float32. Inputs and targets are separate
    arrays. So the feed alone can switch words of the input to another language and keep the targets (PreAlign).
    """

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model is not causal, so a token would see its target.
        """
        # A model that reads the next token at its input learns to copy it, and the loss says nothing.
        if not model.causal:
            name = type(model.config).__name__
            raise UserError(
                f"Recipe.model = @{name}(): CausalLM needs a model that sees only what was before, as @Llama()"
            )
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The sum of the weights, float32 scalar."""
        # Weights are 0 at padding and where the feed leaves a target out.
        return jnp.sum(batch["weights"], dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed cross-entropy, no metrics, state)."""
        # (B,T) -> (B,T,width): the states of the last level, as the head reads them.
        top = model.num_layers
        h = model.head_input(model.hidden(Inputs.of(batch), levels=(top,))[top])
        # (B,T,..) -> (B T,..): the cross-entropy takes a list of tokens.
        total = token_cross_entropy(
            h.reshape(-1, h.shape[-1]),
            model.head_weight(),
            model.head_bias(),
            batch["targets"].reshape(-1),
            batch["weights"].reshape(-1),
        )
        return total, {}, state
