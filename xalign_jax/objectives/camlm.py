"""Cross-attention masked LM, the first objective of ERNIE-M (Ouyang et al. 2021): x is predicted from y alone.

    loss = - sum_{i in M_x} log p(x_i | y) - sum_{j in M_y} log p(y_j | x)

M_x are the chosen tokens of x, and C_x the other ones. Each token sees the tokens of some classes only:

    C_x -> C_x      C_y -> C_y      M_x -> C_y and itself      M_y -> C_x and itself

This table leaks nothing, whatever the number of layers. If C_x saw C_y, or the reverse, the context of x would reach
M_x in the second layer. No code was published. The table is ours, and so is every detail beyond the formula.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs
from xalign_jax.objectives.masked_lm import MaskedLM, Plan

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CAMLM(MaskedLM):
    """Cross-entropy of the chosen tokens, each predicted from the other language alone; counted by their number.

    Texts that stand in one segment may be more than two, as in a GroupFeed's documents. A chosen token then sees the
    other tokens of all other languages.

    Batch: tokens, positions, segment_ids, token_language (B,T) int32 of a TranslationFeed or GroupFeed.
    """

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for batches that do not name the language of each token."""
        if "token_language" not in batch:
            raise UserError("Stream.objective = @CAMLM(): it reads pairs; bind a TranslationFeed")

    def states(self, model: Model, batch: Batch, plan: Plan) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The states of level L, and `count_blind`: chosen tokens that see no other token, whose loss says little."""
        top = model.num_layers
        seen = cross_attention(batch["segment_ids"], batch["token_language"], plan.chosen)
        inputs = Inputs.of(batch)._replace(tokens=plan.tokens, seen=seen)
        blind = plan.chosen & (jnp.sum(seen, axis=-1) <= 1)
        return model.hidden(inputs, levels=(top,))[top], {"count_blind": jnp.sum(blind, dtype=jnp.int32)}


def cross_attention(segment_ids: jax.Array, language: jax.Array, chosen: jax.Array) -> jax.Array:
    """The table at the top of this module: (B,T,T) bool, True where the query (second axis) sees the key (last axis).

    Args:
      segment_ids, language: (B,T) integers; texts of one segment translate each other.
      chosen: (B,T) bool, the tokens that are predicted.
    """
    own = language[:, :, None] == language[:, None, :]
    # A chosen token reads the other languages, any other token its own. No token reads a chosen one but itself.
    there = ~chosen[:, None, :] & jnp.where(chosen[:, :, None], ~own, own)
    there |= jnp.eye(segment_ids.shape[1], dtype=bool)
    return there & (segment_ids[:, :, None] == segment_ids[:, None, :])
