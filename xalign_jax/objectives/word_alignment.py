"""Fine-tune a word aligner on bitext: awesome-align's self-training and consistency (Dou and Neubig 2021, section 2.2).

For the states X (m,D) and Y (n,D) of the m and n tokens of a sentence and of its translation (arXiv 2101.08231):

    P_s = softmax over Y's tokens of X Y^T,   P_t = softmax over X's tokens of X Y^T
    SO  = - [ sum(P_s G) / m + sum(P_t G) / n ]        G: links that the model itself finds now; they get no gradient
    CO  = - sum(P_s P_t) / min(m, n)
    loss = self_training SO + consistency CO           summed over sentence pairs, and counted by them

AccAlign (Wang et al. 2022) trains adapters of a sentence encoder in the same way: use `LowRank`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.losses import consistency_loss, self_training_loss
from xalign_jax.alignment.pooling import segment_sums
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.objectives.parts.links import (
    GUIDES,
    check_pairs,
    found_links,
    identical,
    pair_flops,
    probabilities,
    taking_part,
    token_pairs,
)
from xalign_jax.objectives.parts.sentences import check_level
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordAlignment(Objective):
    """Self-training and consistency of token alignments, on sentence pairs that are read apart from each other.

    Batch of a ContrastFeed: tokens, positions, segment_ids (R,T) int32, the same with `key_`; group (R,S,1) int32, -1 =
    empty slot; text and key_text (R,S,1). Pairs whose sides have the same text are left out and counted.

    Attributes:
      level: the level whose states are compared. Nothing above it is computed.
      self_training, consistency: weights of the two losses.
      guide: how G is found: "softmax" (awesome-align), "argmax", "itermax" or "ot", as `xalign align --method`.
      threshold: of "softmax". awesome-align's .001 suits mBERT; multilingual-e5-small needs about .2.
      temperature: None = products of states as they are (published). A number = cosines divided by it.
    """

    level: int = gin.REQUIRED
    self_training: float = 1.0
    consistency: float = 1.0
    guide: str = "softmax"
    threshold: float = 1e-3
    temperature: float | None = None

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "guide", GUIDES)
        within(self, "[0, inf)", "level", "self_training", "consistency")
        within(self, "(0, inf)", "temperature", "threshold")
        if not self.self_training + self.consistency > 0:
            raise UserError("WordAlignment.self_training and .consistency are both 0: nothing would train")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("WordAlignment", model, self.level)
        return {}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch that holds no single sentence pairs."""
        check_pairs("WordAlignment", batch)

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of sentence pairs that take part, float32 scalar."""
        return jnp.sum(taking_part(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: the means of both losses, and `linked`, the share of query tokens that have a link. `count_identical`
        counts pairs that were left out, because both sides have the same text; `count_unlinked` those without a link.
        """
        pairs = token_pairs(model, batch, self.level)
        # (R,T,T) each.
        ways = probabilities(pairs, self.temperature)
        links = found_links(pairs, self.guide, self.threshold)
        training = self_training_loss(*ways, links, *pairs.masks)
        agreement = consistency_loss(*ways, *pairs.masks)
        # (R,T): query tokens with a link -> (R,S): links of each slot.
        linked = jnp.any(links, axis=2)
        of_slots = segment_sums(linked[..., None].astype(jnp.float32), batch["segment_ids"], batch["group"].shape[1])
        count, tokens = self.count(model, batch, rng), jnp.sum(pairs.query_mask)
        metrics = {
            "self_training": training / jnp.maximum(count, 1),
            "consistency": agreement / jnp.maximum(count, 1),
            "linked": jnp.sum(linked) / jnp.maximum(tokens, 1),
            "count_identical": identical(batch),
            "count_unlinked": jnp.sum(taking_part(batch) & (of_slots[..., 0] == 0), dtype=jnp.int32),
        }
        return self.self_training * training + self.consistency * agreement, metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, and of the products of their tokens."""
        return pair_flops(model, batch, self.level)
