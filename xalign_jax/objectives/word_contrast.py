"""PreAlign's word contrast (Li et al. 2024, arXiv 2407.16222): make translations alike at every level and in the head.

P(a) are the other words of word a's concept, A(a) all candidates, and s = cosine / temperature. A level has the loss

    - sum_a sum_{p in P(a)} log [ exp s(a,p) / sum_{b in A(a)} exp s(a,b) ]

Three things differ from the released code:

- The code multiplies masked logits by 0, which leaves the anchor itself among its candidates. Here the sum leaves out
  masked candidates.
- Anchors are words of all languages, not of the source language only.
- A word that is spelt like the anchor, or like one of its positives, is no negative.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import segment_sums
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import Contrast, infonce, infonce_flops, positive_pairs
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordContrast(Objective):
    """The contrast of pooled words, a mean over levels, counted by positive pairs.

    Every word of the global batch is a candidate. A word is the sum of its tokens' states. The mean would give the same
    cosines.

    Batch: tokens, positions, segment_ids (R,T) int32, where segment s in 1..S is word slot s - 1; concept (R,S) int32,
    -1 = empty slot; text_hash (R,S) uint32. Words that are spelt alike have equal hashes.

    Attributes:
      temperature: cosines are divided by it.
      levels: the levels contrasted, 0 = embedding output; () = all.
      head: also contrast the words' pooled rows of the output head, which must not be tied to the embedding.
    """

    temperature: float = 0.1
    levels: tuple = ()
    head: bool = True

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "(0, inf)", "temperature")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model has no such level, or its head is tied and `head` is set.
        """
        self._levels(model)
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of positive pairs (a, p), float32 scalar; (a, p) and (p, a) are two pairs."""
        return positive_pairs(batch["concept"].reshape(-1))

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean over levels of the summed loss, metrics of each level, state).

        Metrics of a level: `loss`, `retrieval` (accuracy of the nearest candidate), `positive_cosine`, `mean_cosine`.
        """
        levels = self._levels(model)
        # (levels,W,width) unit vectors of W = R S words. Words have no groups: (W,0).
        words = self._words(model, batch, levels)
        concept = batch["concept"].reshape(-1)
        ids = Ids(concept, jnp.zeros((concept.shape[0], 0), jnp.int32), batch["text_hash"].reshape(-1, 1))

        def contrast(z: jax.Array) -> Contrast:
            return infonce(z, z, ids, ids, self.temperature, exclude_self=True)

        # One level after another, so that the similarities of only one level exist: (levels,) of every sum.
        found = jax.lax.map(contrast, words)
        # Metrics are named level_0, level_1, .., level_head.
        names = [*levels, "head"] if self.head else levels
        metrics: dict[str, jax.Array] = {}
        for i, name in enumerate(names):
            metrics |= _metrics(f"level_{name}", jax.tree.map(lambda a, i=i: a[i], found))
        return jnp.mean(found.loss), metrics, state

    def _levels(self, model: Model) -> tuple[int, ...]:
        """The levels to contrast. Raises UserError as `init` does."""
        # A tied head has the rows of the embedding, which level 0 contrasts already.
        if self.head and model.tied:
            raise UserError("WordContrast.head = True needs an untied head: set WordContrast.head = False")
        levels = self.levels or tuple(range(model.num_layers + 1))
        if not all(isinstance(level, int) and 0 <= level <= model.num_layers for level in levels):
            raise UserError(f"WordContrast.levels = {levels}: the model has levels 0 to {model.num_layers}")
        return levels

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the blocks up to the highest level, and of all words with all words for each level."""
        (rows, length), words = batch["tokens"].shape, batch["concept"].size
        levels = self._levels(model)
        products = len(levels) + self.head
        return rows * length * max(levels) * model.block_flops_per_token(length) + products * infonce_flops(
            words, model.width
        )

    def _words(self, model: Model, batch: Batch, levels: tuple[int, ...]) -> jax.Array:
        """(levels, R * S, width) float32 unit vectors of the words; the head's come last."""
        tokens, segment_ids = batch["tokens"], batch["segment_ids"]
        slots = batch["concept"].shape[1]
        states = model.hidden(Inputs.of(batch), levels=levels)
        # (R,T,width) -> (R,S,width) for each level, then for the rows of the head.
        pooled = [segment_sums(states[level], segment_ids, slots) for level in levels]
        if self.head:
            pooled.append(segment_sums(model.head_rows(tokens), segment_ids, slots))
        # Normalised before the stack, in float32: cosines / 0.1 are too coarse in bfloat16.
        return jnp.stack([l2_normalize(words).reshape(-1, words.shape[-1]) for words in pooled])


def _metrics(name: str, sums: Contrast) -> dict[str, jax.Array]:
    """The metrics of one level; 0 where the batch has no pair."""
    positives = jnp.maximum(sums.positives, 1)
    return {
        f"{name}/loss": sums.loss / positives,
        f"{name}/retrieval": sums.correct / jnp.maximum(sums.anchors, 1),
        f"{name}/positive_cosine": sums.positive_similarity / positives,
        f"{name}/mean_cosine": sums.similarity / jnp.maximum(sums.pairs, 1),
    }
