"""Masked language modelling: of texts in any language (MMLM), and of pairs of translations in one segment (TLM)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.objectives.parts.corruption import Corruption, corrupt
from xalign_jax.objectives.parts.primitives import predict_tokens, rows_on_mesh
from xalign_jax.recipe import freeze

GROUP_TOKENS = 8192  # tokens of the rows that share a budget, about
DEVIATIONS = 6  # budget above the mean: one group in 10^9 chooses more

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


class Plan(NamedTuple):
    """What is read and scored; G groups of contiguous rows, K the budget of each.

    Attributes:
      tokens: (B,T) int32, the model's input.
      places: (G,K) int32, scored positions within a group's flattened rows.
      scored: (G,K) bool, False where the budget is not used.
      excess: int32 scalar, positions chosen beyond the budget: they keep their token and are not scored.
    """

    tokens: jax.Array
    places: jax.Array
    scored: jax.Array
    excess: jax.Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
    """Cross-entropy of the chosen tokens, counted by how many they are.

    Batch: tokens, positions, segment_ids (B,T) int32, and `types` (B,T) where the model has token types. The head sees
    chosen positions only, gathered under a fixed budget.

    Attributes:
      corruption: which tokens are chosen and what becomes of them.
    """

    corruption: Corruption = dataclasses.field(default_factory=Corruption)

    def __post_init__(self) -> None:
        freeze(self)
        if not isinstance(self.corruption, Corruption):
            raise UserError(f"MaskedLM.corruption = {self.corruption!r}: expected @Corruption()")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """No heads, no state.

        Raises:
          UserError: the model is causal, or the vocabulary has no mask piece.
        """
        name = type(model.config).__name__
        if model.causal:
            raise UserError(f"Recipe.model = @{name}(): MaskedLM needs a model that sees both sides, as @XLMRoberta()")
        if model.mask_id is None:
            raise UserError("Stream.objective = @MaskedLM(): the vocabulary has no mask piece; choose one that has")
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """Scored positions of the batch."""
        return jnp.sum(self._plan(model, batch, rng).scored, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(summed cross-entropy, accuracy and excess positions, state)."""
        top = model.num_layers
        plan = self._plan(model, batch, rng)
        states = model.hidden(Inputs.of(batch)._replace(tokens=plan.tokens), levels=(top,))[top]
        gather = jax.vmap(lambda rows, places: rows[places])
        groups = plan.places.shape[0]
        h = gather(states.reshape(groups, -1, states.shape[-1]), plan.places)
        targets = gather(batch["tokens"].reshape(groups, -1), plan.places)
        found = predict_tokens(
            model.head_input(h.reshape(-1, h.shape[-1])),
            model.head_weight(),
            model.head_bias(),
            targets.reshape(-1),
            plan.scored.reshape(-1),
        )
        accuracy = found.correct / jnp.maximum(jnp.sum(plan.scored), 1)
        return found.loss, {"accuracy": accuracy, "count_excess": plan.excess}, state

    def flops(self, model: Model, batch: Batch) -> float:
        """All blocks on every token, the head on those that are scored."""
        rows, length = batch["tokens"].shape
        blocks = model.num_layers * model.block_flops_per_token(length)
        return rows * length * (blocks + self.corruption.rate * model.head_flops_per_token)

    def _plan(self, model: Model, batch: Batch, rng: jax.Array) -> Plan:
        tokens = batch["tokens"]
        found = corrupt(rng, tokens, batch["segment_ids"], self.corruption, model.special, model.mask_id)
        chosen = found.chosen.reshape(_groups(*tokens.shape), -1)
        size = chosen.shape[1]
        budget = self._budget(size)
        kept = chosen & (jnp.cumsum(chosen, axis=1) <= budget)
        places = jax.vmap(lambda row: jnp.nonzero(row, size=budget, fill_value=0)[0])(kept).astype(jnp.int32)
        scored = jnp.arange(budget) < jnp.sum(kept, axis=1, keepdims=True)
        excess = chosen & ~kept
        restored = jnp.where(excess.reshape(tokens.shape), tokens, found.tokens)
        return Plan(restored, places, scored, jnp.sum(excess, dtype=jnp.int32))

    def _budget(self, positions: int) -> int:
        """Scored positions of a group of that many positions: the mean of those chosen and 6 standard deviations."""
        mean = positions * self.corruption.rate
        return min(positions, math.ceil(mean + DEVIATIONS * math.sqrt(mean * (1 - self.corruption.rate))))


def _groups(rows: int, length: int) -> int:
    """How many groups share a budget: each of rows that lie together on the mesh, with at most about GROUP_TOKENS tokens."""
    ways = rows_on_mesh()[2]
    local = rows // ways if rows % ways == 0 else rows
    size = max(n for n in range(1, local + 1) if local % n == 0 and (n == 1 or n * length <= GROUP_TOKENS))
    return rows // size
