"""Translation ranking with an additive margin: LaBSE (Feng et al. 2022, arXiv 2007.01852) and DAP's form of it.

    l(x->y) = - sum_i log e^{s(i,i)} / sum_n e^{s(i,n)},   s(i,n) = (cos(x_i, y_n) - margin [i = n]) / temperature

LaBSE's loss is l(x->y) + l(y->x). LaBSE subtracts the margin from the cosine; DAP's code subtracts it after dividing by
the temperature.

Where a batch holds whole groups (`TextFeed.whole_groups`), a sentence x has all its translations P(x) as positives:

    l = - sum_x sum_{p in P(x)} log e^{s(x,p)} / sum_n e^{s(x,n)}

The sum in the denominator has all other sentences, also the other positives. So with P translations the least value of
a term is log P, not 0.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Tree
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import Contrast, infonce, infonce_flops, positive_pairs
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.objectives.parts.sentences import (
    KEY,
    POOLINGS,
    QUERY,
    PoolsSentences,
    check_encoder,
    contrast_ids,
    group_ids,
    has_keys,
    items,
    level_of,
    sentence_vectors,
    side,
    swapped,
)
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TranslationRanking(PoolsSentences):
    """Find each sentence's translation among all sentences of the global batch.

    One encoder reads both sides of a ContrastFeed's items. The loss is summed over items and directions and counted by
    items. A candidate that shares a group or a text with the item is masked.

    With a TextFeed of whole groups, every sentence is a query and a key. The loss is summed and counted by pairs of a
    sentence and a translation. A candidate that has the text of the query or of one of its translations is masked.

    Batch: tokens, positions, segment_ids (R,T) int32 and, of a ContrastFeed, the same with `key_`; group (R,S,P) int32,
    -1 = empty slot; text and, of a ContrastFeed, key_text (R,S,P).

    Attributes:
      level: the level whose states are compared; None = the last.
      pooling: "first" token, "last" token (AFP), "mean" over the tokens that are not special, or the "mask" token of a
        prompt (`ContrastFeed.suffix`).
      temperature: cosines are divided by it.
      margin: subtracted from the positives' cosine, or with `margin_after_temperature` from their scaled cosine.
      both_directions: also rank the queries for each key. With whole groups there is only one direction.
    """

    level: int | None = None
    pooling: str = "first"
    temperature: float = 0.05
    margin: float = 0.3
    margin_after_temperature: bool = False
    both_directions: bool = True

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "pooling", POOLINGS)
        within(self, "[0, inf)", "level", "margin")
        within(self, "(0, inf)", "temperature")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model lacks the level, or `pooling` does not suit the model.
        """
        check_encoder("TranslationRanking", model, self.level, self.pooling)
        return {}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch whose items are neither pairs nor single sentences."""
        if not has_keys(batch) and batch["group"].shape[-1] != 1:
            raise UserError(
                "Stream.objective = @TranslationRanking(): it compares sentences, and this feed's items hold several; "
                "bind a ContrastFeed, or a TextFeed with TextFeed.whole_groups = True"
            )

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of items, float32 scalar. Both directions together count an item once, as in LaBSE's sum.

        With whole groups it is the number of pairs (x, p); (x, p) and (p, x) are two pairs.
        """
        return items(batch) if has_keys(batch) else positive_pairs(group_ids(batch).own)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: `accuracy` of the ranking, and the mean cosine of positive pairs and of all pairs.
        """
        found = self._by_items(model, batch) if has_keys(batch) else [self._by_groups(model, batch)]
        # Losses and counts add up. Each metric is a ratio of sums, and 0 where nothing is present.
        sums = jax.tree.map(lambda *parts: sum(parts), *found)
        metrics = {
            "accuracy": sums.correct / jnp.maximum(sums.anchors, 1),
            "positive_cosine": sums.positive_similarity / jnp.maximum(sums.positives, 1),
            "mean_cosine": sums.similarity / jnp.maximum(sums.pairs, 1),
        }
        return sums.loss, metrics, state

    def _by_items(self, model: Model, batch: Batch) -> list[Contrast]:
        """The contrast of a ContrastFeed's items in each direction."""
        query, key = (self._vectors(model, side(batch, which), batch) for which in (QUERY, KEY))
        # Rank keys for each query, then queries for each key.
        directions = [(query, key, *contrast_ids(batch))]
        if self.both_directions:
            directions.append((key, query, *contrast_ids(swapped(batch))))
        # (N,width) against (N,width): a query's positive is the key of its own item, all other keys are negatives.
        return [self._contrast(*direction, exclude_self=False) for direction in directions]

    def _by_groups(self, model: Model, batch: Batch) -> Contrast:
        """The contrast of all sentences of whole groups with each other."""
        vectors, ids = self._vectors(model, side(batch, QUERY), batch), group_ids(batch)
        return self._contrast(vectors, vectors, ids, ids, exclude_self=True)

    def _vectors(self, model: Model, rows: dict[str, jax.Array], batch: Batch) -> jax.Array:
        """(R,T) rows of one side -> (N,width) unit vectors of N = R S sentences, by the same encoder for both sides."""
        slots = batch["group"].shape[1]
        return l2_normalize(sentence_vectors(model, rows, slots, level_of(model, self.level), self.pooling))

    def _contrast(self, query: jax.Array, key: jax.Array, ids: Ids, key_ids: Ids, exclude_self: bool) -> Contrast:
        after = self.margin_after_temperature
        return infonce(
            query, key, ids, key_ids, self.temperature,
            exclude_self=exclude_self, margin=self.margin, margin_after_temperature=after,
        )  # fmt: skip

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, and of all items with all items in each direction."""
        # Shapes do not say which slots are empty, so every slot counts as an item.
        rows, length = batch["tokens"].shape
        items_at_most = batch["group"].shape[0] * batch["group"].shape[1]
        # Queries and keys are encoded once, whatever the number of directions.
        sides, directions = (2, 1 + self.both_directions) if has_keys(batch) else (1, 1)
        passes = sides * rows * length * level_of(model, self.level) * model.block_flops_per_token(length)
        return passes + directions * infonce_flops(items_at_most, model.width)
