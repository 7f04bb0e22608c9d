"""Supervised word alignment with a marked source word: BinaryAlign (Latouche et al. 2024, arXiv 2407.12881).

A row holds a sentence, in which one word is marked, and its translation. A linear head says of each token of the
translation whether it belongs to a word that gold links join with the marked word (`alignment.marking`):

    loss = sum over the translations' tokens of the binary cross-entropy, counted by these tokens

`xalign align --method=marked` extracts links with the trained head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.marking import HEAD, marked_loss, marked_scores
from xalign_jax.interfaces import Batch, Tree
from xalign_jax.objectives.parts.marked import OnMarkedRows
from xalign_jax.objectives.parts.sentences import check_level

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

RARE = 0.06  # about the share of linked tokens in sentences of 16 words


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MarkedWords(OnMarkedRows):
    """Classify each token of a translation: does it translate the marked word? Learned from gold links.

    Batch of a MarkedFeed: tokens, positions, segment_ids (B,T) int32; linked (B,T) int32: 1 = the token belongs to a
    linked word, 0 = it does not, -1 = it is not judged.
    """

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "marked_words": weight (width,), drawn from N(0, 0.02^2), and a bias. No state.

        The bias starts at the log-odds of RARE (Lin et al. 2017, arXiv 1708.02002, section 3.3): the first steps need
        not learn that most tokens are not linked.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("MarkedWords", model, self.level)
        weight = 0.02 * jax.random.normal(rng, (model.width,))
        return {HEAD: {"weight": weight, "bias": jnp.log(RARE / (1 - RARE))}}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of tokens that are judged, float32 scalar."""
        return jnp.sum(batch["linked"] >= 0, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: `precision` and `recall` of tokens whose probability exceeds .5, and `linked`, the share of linked
        tokens.
        """
        found = marked_loss(marked_scores(self.read(model, batch), model.heads[HEAD]), batch["linked"])
        metrics = {
            "precision": found.right / jnp.maximum(found.found, 1),
            "recall": found.right / jnp.maximum(found.linked, 1),
            "linked": found.linked / jnp.maximum(found.judged, 1),
        }
        return found.loss, metrics, state
