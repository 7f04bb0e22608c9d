"""PreAlign's word contrast (Li et al. 2024, arXiv 2407.16222): translations alike at every level and in the head.

The released code multiplies masked logits by 0, which leaves the anchor itself among the candidates; here masked
candidates are excluded. Anchors are words of all languages, and a word that a positive spells alike is no negative.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import segment_sums
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.objectives.parts.contrast import Contrast, Ids, infonce, infonce_flops, positive_pairs
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordContrast(Objective):
    """Mean over levels of the multi-positive contrast of pooled words, counted by positive pairs.

    Batch: tokens, positions, segment_ids (R,T) int32, segment s in 1..S is word slot s - 1; concept (R,S) int32,
    -1 = absent; text_hash (R,S). Every word of the global batch is a candidate.

    Attributes:
      temperature: of the cosines.
      levels: hidden levels contrasted, 0 = embedding output; () = all.
      head: also contrast the words' pooled rows of the output head, which must not be tied.
    """

    temperature: float = 0.1
    levels: tuple = ()
    head: bool = True

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "(0, inf)", "temperature")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """No heads, no state.

        Raises:
          UserError: the model has no such level, or its head is tied and `head` is set.
        """
        self._levels(model)
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """Positive pairs (ordered) of the batch."""
        return positive_pairs(batch["concept"].reshape(-1))

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(mean over levels of the summed loss, metrics of each level, state)."""
        levels = self._levels(model)
        words = self._words(model, batch, levels)
        concept = batch["concept"].reshape(-1)
        ids = Ids(concept, jnp.zeros((concept.shape[0], 0), jnp.int32), batch["text_hash"].reshape(-1, 1))

        def contrast(z: jax.Array) -> Contrast:
            return infonce(z, z, ids, ids, self.temperature, exclude_self=True)

        found = jax.lax.map(contrast, words)  # one level's similarities at a time
        names = [*levels, "head"] if self.head else levels
        metrics: dict[str, jax.Array] = {}
        for i, name in enumerate(names):
            metrics |= _metrics(f"level_{name}", jax.tree.map(lambda a, i=i: a[i], found))
        return jnp.mean(found.loss), metrics, state

    def _levels(self, model: Model) -> tuple[int, ...]:
        if self.head and model.tied:
            raise UserError("WordContrast.head = True needs an untied head: set WordContrast.head = False")
        levels = self.levels or tuple(range(model.num_layers + 1))
        if not all(isinstance(level, int) and 0 <= level <= model.num_layers for level in levels):
            raise UserError(f"WordContrast.levels = {levels}: the model has levels 0 to {model.num_layers}")
        return levels

    def flops(self, model: Model, batch: Batch) -> float:
        """Blocks up to the highest level, and all words with all words for each level."""
        (rows, length), words = batch["tokens"].shape, batch["concept"].size
        levels = self._levels(model)
        products = len(levels) + self.head
        return rows * length * max(levels) * model.block_flops_per_token(length) + products * infonce_flops(
            words, model.width
        )

    def _words(self, model: Model, batch: Batch, levels: tuple[int, ...]) -> jax.Array:
        """(levels, words, width) unit vectors, float32: summed over a word's tokens, which is the mean once normalised."""
        tokens, segment_ids = batch["tokens"], batch["segment_ids"]
        slots = batch["concept"].shape[1]
        states = model.hidden(Inputs.of(batch), levels=levels)
        pooled = [segment_sums(states[level], segment_ids, slots) for level in levels]
        if self.head:
            pooled.append(segment_sums(model.head_rows(tokens), segment_ids, slots))
        return jnp.stack([l2_normalize(words).reshape(-1, words.shape[-1]) for words in pooled])


def _metrics(name: str, sums: Contrast) -> dict[str, jax.Array]:
    positives = jnp.maximum(sums.positives, 1)
    return {
        f"{name}/loss": sums.loss / positives,
        f"{name}/retrieval": sums.correct / jnp.maximum(sums.anchors, 1),
        f"{name}/positive_cosine": sums.positive_similarity / positives,
        f"{name}/mean_cosine": sums.similarity / jnp.maximum(sums.pairs, 1),
    }
