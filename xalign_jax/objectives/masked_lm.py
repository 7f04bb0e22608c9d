"""Masked language modelling: chosen tokens are replaced, and predicted from both sides (Devlin et al. 2019).

MMLM reads texts in any language, TLM reads two translations in one segment (Conneau and Lample 2019). The feed makes
this difference; the objective is the same.

Only chosen tokens have a target, so the head need not see the others. Their number is random, but shapes must be fixed.
So positions form G groups, and each group has a budget of K scored positions (`_budget`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.corruption import Corruption, corrupt
from xalign_jax.objectives.parts.primitives import predict_tokens, rows_on_mesh
from xalign_jax.recipe import freeze

GROUP_TOKENS = 8192  # upper limit for the tokens of a group, unless a single row has more
DEVIATIONS = 6  # standard deviations of the budget above the mean; about one group in 10^9 chooses more

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


class Plan(NamedTuple):
    """What the model reads and which positions are scored: G groups of contiguous rows, K the budget of each.

    Attributes:
      tokens: (B,T) int32, the model's input.
      places: (G,K) int32, the scored positions: indices into a group's rows, one after another.
      scored: (G,K) bool, False where the budget is not used up.
      chosen: (B,T) bool, the scored positions again.
      excess: int32 scalar, positions that were chosen beyond the budget. They keep their token and are not scored.
    """

    tokens: jax.Array
    places: jax.Array
    scored: jax.Array
    chosen: jax.Array
    excess: jax.Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
    """Cross-entropy of the chosen tokens, counted by their number.

    Batch: tokens, positions, segment_ids (B,T) int32, and `types` (B,T) int32 where the model has token types.

    Attributes:
      corruption: how many tokens are chosen, and what replaces them.
    """

    corruption: Corruption = dataclasses.field(default_factory=Corruption)

    def __post_init__(self) -> None:
        freeze(self)
        if not isinstance(self.corruption, Corruption):
            raise UserError(f"{type(self).__name__}.corruption = {self.corruption!r}: expected @Corruption()")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model is causal, or the vocabulary has no mask piece.
        """
        name, own = type(model.config).__name__, type(self).__name__
        if model.causal:
            raise UserError(f"Recipe.model = @{name}(): {own} needs a model that sees both sides, as @XLMRoberta()")
        if model.mask_id is None:
            raise UserError(f"Stream.objective = @{own}(): the vocabulary has no mask piece; choose one that has")
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of scored positions, float32 scalar. The key is that of `loss`, so the choice is the same."""
        return jnp.sum(self._plan(model, batch, rng).scored, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed cross-entropy, metrics, state).

        Metrics: `accuracy` on the scored positions, and `count_excess`, the positions beyond the budget.
        """
        plan = self._plan(model, batch, rng)
        states, metrics = self.states(model, batch, plan)
        # (B,T,width) -> (G,K,width): the states at the scored positions, and their original tokens (G,K). Groups lie on
        # one device each, so that gathering moves nothing between devices.
        gather = jax.vmap(lambda rows, places: rows[places])
        groups = plan.places.shape[0]
        h = gather(states.reshape(groups, -1, states.shape[-1]), plan.places)
        targets = gather(batch["tokens"].reshape(groups, -1), plan.places)
        # (G,K,..) -> (G K,..). Unused places of the budget have weight 0.
        found = predict_tokens(
            model.head_input(h.reshape(-1, h.shape[-1])),
            model.head_weight(),
            model.head_bias(),
            targets.reshape(-1),
            plan.scored.reshape(-1),
        )
        accuracy = found.correct / jnp.maximum(jnp.sum(plan.scored), 1)
        return found.loss, {"accuracy": accuracy, "count_excess": plan.excess, **metrics}, state

    def states(self, model: Model, batch: Batch, plan: Plan) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(states (B,T,width) of level L from which the head predicts, further metrics). Variants override this."""
        top = model.num_layers
        return model.hidden(Inputs.of(batch)._replace(tokens=plan.tokens), levels=(top,))[top], {}

    def corrupted(self, model: Model, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """The tokens that the model reads, and the scored positions."""
        plan = self._plan(model, batch, rng)
        return {"tokens": plan.tokens, "chosen": plan.chosen}

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of all blocks on every token, and of the head on the scored tokens."""
        rows, length = batch["tokens"].shape
        blocks = model.num_layers * model.block_flops_per_token(length)
        return rows * length * (blocks + self.corruption.rate * model.head_flops_per_token)

    def _plan(self, model: Model, batch: Batch, rng: jax.Array) -> Plan:
        """Corrupt the tokens and choose the positions to score."""
        tokens = batch["tokens"]
        found = corrupt(rng, tokens, batch["segment_ids"], self.corruption, model.special, model.mask_id)
        # (B,T) -> (G,positions): the rows of a group one after another.
        chosen = found.chosen.reshape(_groups(*tokens.shape), -1)
        size = chosen.shape[1]
        # Keep the first K chosen positions of each group, and list them: (G,positions) bool -> (G,K) indices.
        budget = self._budget(size)
        kept = chosen & (jnp.cumsum(chosen, axis=1) <= budget)
        places = jax.vmap(lambda row: jnp.nonzero(row, size=budget, fill_value=0)[0])(kept).astype(jnp.int32)
        # (G,K): the first places of each group's budget are used.
        scored = jnp.arange(budget) < jnp.sum(kept, axis=1, keepdims=True)
        # Positions beyond the budget get their token back: a token that is replaced and not scored would teach nothing.
        excess = chosen & ~kept
        restored = jnp.where(excess.reshape(tokens.shape), tokens, found.tokens)
        return Plan(restored, places, scored, kept.reshape(tokens.shape), jnp.sum(excess, dtype=jnp.int32))

    def _budget(self, positions: int) -> int:
        """K for a group of that many positions: the mean number of chosen positions, and 6 standard deviations more."""
        # The deviation is a binomial distribution's, as if each position were chosen independently.
        mean = positions * self.corruption.rate
        return min(positions, math.ceil(mean + DEVIATIONS * math.sqrt(mean * (1 - self.corruption.rate))))


def _groups(rows: int, length: int) -> int:
    """G, the number of groups of a batch. Its rows lie on one device and have at most GROUP_TOKENS tokens."""
    # The largest number of rows that divides a device's rows and stays within the limit; at least one row.
    ways = rows_on_mesh()[2]
    local = rows // ways if rows % ways == 0 else rows
    size = max(n for n in range(1, local + 1) if local % n == 0 and (n == 1 or n * length <= GROUP_TOKENS))
    return rows // size
