"""A light word aligner: a small shared projection of an encoder's states, after MirrorAlign.

The idea is MirrorAlign's (Wu et al. 2022, arXiv 2102.04009): attention in both directions, agreement of the two attention
matrices, and a contrast of sentence pairs. The formula is ours. P is the head, and with unit vectors P x_i and P y_j of
the tokens of a sentence and its translation, A, B and score as in `alignment.partners`:

    agreement = - sum(A B) / min(m, n)                                   1 at most in size: both attentions are the same links
    contrast = - log softmax over sentences y' of score(x, y') / tau [y]   half of it, and half of the other direction
    loss = agreement_weight agreement + contrast_weight contrast         summed over sentence pairs, and counted by them

`xalign align --projected` compares projected states.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.losses import consistency_loss
from xalign_jax.alignment.partners import HEAD, partner_scores
from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.matrix_product import product
from xalign_jax.objectives.parts import links
from xalign_jax.objectives.parts.candidates import shared_ids
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.objectives.parts.sentences import check_level, contrast_ids
from xalign_jax.recipe import at_least_one, freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LightAligner(Objective):
    """Project states so that translations' tokens find each other, in both directions alike; counted by sentence pairs.

    Batch: as of WordAlignment. Pairs whose sides have the same text are left out and counted. Other pairs with a text or
    a group of the pair are no candidates of its contrast.

    Attributes:
      level: the level whose states are projected. Nothing above it is computed.
      size: width of the projection.
      agreement, contrast: weights of the two losses.
      temperature: t of the attentions.
      sentence_temperature: tau of the contrast.
    """

    level: int = gin.REQUIRED
    size: int = 128
    agreement: float = 1.0
    contrast: float = 1.0
    temperature: float = 0.05
    sentence_temperature: float = 0.05

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "size")
        within(self, "[0, inf)", "level", "agreement", "contrast")
        within(self, "[0.05, inf)", "temperature")
        within(self, "(0, inf)", "sentence_temperature")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "light_aligner": projection (width,size), a random orthogonal one. No state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("LightAligner", model, self.level)
        return {HEAD: {"projection": jax.nn.initializers.orthogonal()(rng, (model.width, self.size))}}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch that holds no single sentence pairs."""
        links.check_pairs("LightAligner", batch)

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of sentence pairs that take part, float32 scalar."""
        return jnp.sum(links.taking_part(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: the means of both losses, `accuracy` of finding the translation among the sentences of the batch, and
        `count_identical`.
        """
        pairs, projection = links.token_pairs(model, batch, self.level), model.heads[HEAD]["projection"]
        projected = [_project(states, projection) for states in (pairs.query, pairs.key)]
        pairs = pairs._replace(query=projected[0], key=projected[1])
        agreement = consistency_loss(*links.probabilities(pairs, self.temperature), *pairs.masks)
        contrast, right = self._contrast(pairs, batch)
        count = jnp.maximum(self.count(model, batch, rng), 1)
        metrics = {
            "agreement": agreement / count,
            "contrast": contrast / count,
            "accuracy": right / count,
            "count_identical": links.identical(batch),
        }
        return self.agreement * agreement + self.contrast * contrast, metrics, state

    def _contrast(self, pairs: links.TokenPairs, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The summed contrast, and how many sentences find their translation."""
        slots = batch["group"].shape[1]
        real, items = links.taking_part(batch).reshape(-1), batch["group"].shape[0] * slots
        # (R,T) segments -> (R T,) items of the batch, -1 at tokens that are left out; item r S + s is slot s of row r.
        before = slots * jnp.arange(batch["group"].shape[0])[:, None] - 1
        owners = [
            jnp.where(mask, before + batch[f"{side}segment_ids"], -1).reshape(-1)
            for side, mask in (("", pairs.query_mask), ("key_", pairs.key_mask))
        ]
        query, key = (states.reshape(-1, self.size) for states in (pairs.query, pairs.key))
        scores = partner_scores(query, key, owners[0], owners[1], items, self.temperature) / self.sentence_temperature
        same = jnp.eye(items, dtype=bool)
        candidates = real[:, None] & real & (same | ~shared_ids(*contrast_ids(batch)))
        ways = [jax.nn.logsumexp(s, axis=1, where=candidates | same) - jnp.diag(s) for s in (scores, scores.T)]
        right = jnp.argmax(jnp.where(candidates, scores, -jnp.inf), axis=1) == jnp.arange(items)
        return jnp.sum((ways[0] + ways[1]) / 2, where=real), jnp.sum(right & real, dtype=jnp.float32)

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, and of all tokens with all others."""
        return links.pair_flops(model, batch, self.level) + 6.0 * batch["tokens"].size ** 2 * self.size


def _project(states: jax.Array, projection: jax.Array) -> jax.Array:
    """Unit vectors of projected states: (R,T,D) -> (R,T,size) float32."""
    return l2_normalize(product(states.astype(jnp.float32), projection, precision=jax.lax.Precision.HIGHEST))
