"""Optimal-transport divergence between the states of two languages: their clouds of points should coincide.

    W(x, y) = min_P <P, C> + eps KL(P | a b^T),   C(i,j) = 1 - cos(x_i, y_j),   a, b uniform
    loss = W(x, y) - (W(x, x) + W(y, y)) / 2

It is the debiased entropic cost of Genevay et al. (2018, arXiv 1706.00292): never negative, and 0 where both clouds are
equal. A cloud is all sentence vectors of one side of the batch, or the token states of one sentence.

Between clouds of sentences, the loss does not read which sentence translates which. Comparable text is enough, and
shuffled pairs give the same loss.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.transport import transport_cost
from xalign_jax.interfaces import Batch, Inputs, Tree
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.objectives.parts.sentences import (
    KEY,
    POOLINGS,
    QUERY,
    PoolsSentences,
    check_encoder,
    items,
    level_of,
    sentence_vectors,
    side,
)
from xalign_jax.recipe import at_least_one, freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

UNITS = ("sentence", "token")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TransportDivergence(PoolsSentences):
    """The divergence of the two sides of a ContrastFeed's batch, counted by items.

    With sentences, the divergence of the whole batch is multiplied by the number of items. With tokens, the divergences
    of all pairs add up. To compare two languages, let the feed draw one pair in one order (`ContrastFeed.pivot`,
    `reverse`).

    Batch: tokens, positions, segment_ids (R,T) int32, the same with `key_`; group (R,S,1) int32, -1 = empty slot.

    Attributes:
      level: the level whose states are compared; None = the last.
      unit: "sentence" = clouds of sentence vectors, "token" = clouds of the tokens of each pair, without special ones.
      pooling: how states become a sentence vector, as in `TranslationRanking`.
      regularisation: eps, on the scale of cosines.
      iterations: of Sinkhorn's algorithm.
    """

    level: int | None = None
    unit: str = "sentence"
    pooling: str = "mean"
    regularisation: float = 0.1
    iterations: int = 50

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "unit", UNITS)
        one_of(self, "pooling", POOLINGS)
        within(self, "[0, inf)", "level")
        within(self, "(0, inf)", "regularisation")
        at_least_one(self, "iterations")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model lacks the level, or `pooling` does not suit the model.
        """
        pooling = self.pooling if self.unit == "sentence" else "mean"
        check_encoder("TransportDivergence", model, self.level, pooling)
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of items, float32 scalar."""
        return items(batch)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed divergence, no metrics, state)."""
        clouds = self._tokens if self.unit == "token" else self._sentences
        x, y, owner, other = clouds(model, batch)
        total = self._cost(x, y, owner, other)
        total -= (self._cost(x, x, owner, owner) + self._cost(y, y, other, other)) / 2
        return total * (items(batch) if self.unit == "sentence" else 1), {}, state

    def _cost(self, x: jax.Array, y: jax.Array, owner: jax.Array, other: jax.Array) -> jax.Array:
        """W(x, y), summed over the clouds: vectors (..,M,D) and (..,N,D), and their clouds (..,M) and (..,N)."""
        cosine = jnp.einsum("...md,...nd->...mn", x, y, precision=jax.lax.Precision.HIGHEST)
        there = (owner[..., :, None] == other[..., None, :]) & (owner[..., :, None] > 0)
        # A point weighs 1 / the points of its cloud.
        weights = (
            -jnp.log(jnp.maximum(jnp.sum(own[..., :, None] == own[..., None, :], -1), 1)) for own in (owner, other)
        )
        return transport_cost(
            1 - cosine, there, *weights, regularisation=self.regularisation, iterations=self.iterations
        )

    def _sentences(self, model: Model, batch: Batch) -> tuple[jax.Array, ...]:
        """Unit vectors (N,D) of both sides, N = R S, and their clouds (N,) each: 1, or 0 for an empty slot."""
        slots, level = batch["group"].shape[1], level_of(model, self.level)
        x, y = (
            l2_normalize(sentence_vectors(model, side(batch, which), slots, level, self.pooling))
            for which in (QUERY, KEY)
        )
        present = (batch["group"][..., 0] >= 0).reshape(-1).astype(jnp.int32)
        return x, y, present, present

    def _tokens(self, model: Model, batch: Batch) -> tuple[jax.Array, ...]:
        """Unit states (R,T,D) of both sides, and the clouds (R,T) of their tokens: the slot from 1, or 0 for none."""
        special, slot = jnp.asarray(model.special), jnp.arange(1, batch["group"].shape[1] + 1)
        states, owners = [], []
        for which in (QUERY, KEY):
            level = level_of(model, self.level)
            states.append(l2_normalize(model.hidden(Inputs.of(batch, which), levels=(level,))[level]))
            owners.append(jnp.where(special[batch[which + "tokens"]], 0, batch[which + "segment_ids"]))
        # (R,S) bool: slots that have a token on both sides. Tokens of other slots belong to no cloud.
        has = [jnp.any(owner[:, None, :] == slot[:, None], axis=2) for owner in owners]
        both = jnp.pad(has[0] & has[1], ((0, 0), (1, 0)))
        owners = [jnp.where(jnp.take_along_axis(both, owner, axis=1), owner, 0) for owner in owners]
        return *states, *owners

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, and of the cosines of three pairs of clouds with their gradients."""
        rows, length = batch["tokens"].shape
        points = rows * batch["group"].shape[1] if self.unit == "sentence" else length
        clouds = 18.0 * points * points * model.width * (1 if self.unit == "sentence" else rows)
        return 2 * rows * length * level_of(model, self.level) * model.block_flops_per_token(length) + clouds
