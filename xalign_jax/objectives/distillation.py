"""Teacher to student: sentences of a new language learn the vectors of their translations (Reimers and Gurevych 2020).

"Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", arXiv 2004.09813, section 2. A
teacher M gives a vector to each source sentence s_i. The student M' learns it for s_i and for its translation t_i:

    loss = sum_i d(M'(t_i), M(s_i)) + d(M'(s_i), M(s_i)),   d(u, v) = squared mean_j (u_j - v_j)^2 + cosine (1 - cos(u, v))

The paper has squared errors alone. `contrast` adds what squared errors do not see, the other sentences of the batch: for
each of both student vectors u_i, it adds the mean of two terms, with s(u, v) = cos(u, v) / temperature:

    - log e^s(u_i, M(s_i)) / sum_n e^s(u_i, M(s_n))   and   - log e^s(u_i, M(s_i)) / sum_n e^s(u_n, M(s_i))
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Tree
from xalign_jax.objectives.parts.contrast import Contrast, infonce, infonce_flops
from xalign_jax.objectives.parts.primitives import FORWARD, cosines, distances, l2_normalize
from xalign_jax.objectives.parts.sentences import (
    KEY,
    POOLINGS,
    QUERY,
    PoolsSentences,
    check_encoder,
    contrast_ids,
    items,
    level_of,
    sentence_vectors,
    side,
)
from xalign_jax.objectives.parts.taught import Taught
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Distillation(PoolsSentences, Taught):
    """Pull a sentence and its translation to a teacher's vector of the sentence; counted by pairs.

    The teacher reads the queries of a ContrastFeed (`Taught`).

    Batch: tokens, positions, segment_ids (R,T) int32 and the same with `key_`; group (R,S,1) int32, -1 = empty slot;
    text and key_text (R,S,1).

    Attributes:
      level: the level whose vectors are learned; None = the last.
      pooling: as in `TranslationRanking`.
      teacher: as in `Taught`.
      squared, cosine, contrast: weights of the three parts.
      temperature: of the contrast; cosines are divided by it.
      sources: the student also learns the vectors of the teacher's own sentences.
      keep: weight of d(M'(t_i), M(t_i)), which keeps vectors of translations where the teacher has them.
    """

    level: int | None = None
    pooling: str = "mean"
    squared: float = 1.0
    cosine: float = 0.0
    contrast: float = 0.0
    temperature: float = 0.05
    sources: bool = True
    keep: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "pooling", POOLINGS)
        within(self, "[0, inf)", "level", "squared", "cosine", "contrast", "keep")
        within(self, "(0, inf)", "temperature")
        if not self.squared + self.cosine + self.contrast:
            raise UserError("Distillation: squared, cosine and contrast are all 0, so nothing is learned")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads; state "teacher": its parameters, zeros until `prefill`.

        Raises:
          UserError: the model lacks the level, or `pooling` does not suit the model.
        """
        check_encoder("Distillation", model, self.level, self.pooling)
        return super().init(rng, model)

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of pairs, float32 scalar."""
        return items(batch)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, the same state).

        Metrics: `cosine` of translations with the teacher's vectors of their sources, `accuracy` of finding these
        among those of the batch, and `count_identical`, pairs whose two texts are equal.
        """
        teacher = self.taught_by(model, state)
        target, translation = self._vectors(teacher, batch, QUERY), self._vectors(model, batch, KEY)
        students = [translation, self._vectors(model, batch, QUERY)] if self.sources else [translation]
        real = (batch["group"][..., 0] >= 0).reshape(-1)
        # Each student's vectors (N,width) against the teacher's: the distance of each pair, then the contrasts.
        total = jnp.sum(jnp.stack([self._distance(student, target, real) for student in students]))
        if self.keep:
            total += self.keep * self._distance(translation, self._vectors(teacher, batch, KEY), real)
        found = [self._contrast(student, target, batch) for student in students] if self.contrast else []
        for one, other in found:
            total += 0.5 * self.contrast * (one.loss + other.loss)
        metrics = {
            "cosine": jnp.sum(cosines(translation, target), where=real) / jnp.maximum(items(batch), 1),
            "count_identical": jnp.sum(real & (batch["text"] == batch["key_text"])[..., 0].reshape(-1)),
        }
        if found:
            metrics["accuracy"] = found[0][0].correct / jnp.maximum(found[0][0].anchors, 1)
        return total, metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both models up to the level, and of the contrasts."""
        rows, length = batch["tokens"].shape
        # The teacher needs no backward pass.
        passes = 1 + self.sources + FORWARD * (1 + (self.keep > 0))
        pairs = 2 * (1 + self.sources) * (self.contrast > 0) * infonce_flops(batch["group"][..., 0].size, model.width)
        return passes * rows * length * level_of(model, self.level) * model.block_flops_per_token(length) + pairs

    def _vectors(self, model: Model, batch: Batch, which: str) -> jax.Array:
        """(N,width) vectors of one side's sentences; N = R S."""
        slots = batch["group"].shape[1]
        return sentence_vectors(model, side(batch, which), slots, level_of(model, self.level), self.pooling)

    def _distance(self, student: jax.Array, target: jax.Array, real: jax.Array) -> jax.Array:
        """The sum of d(u_i, v_i) over the real rows of two arrays (N,width)."""
        return jnp.sum(distances(student, target, self.squared, self.cosine), where=real)

    def _contrast(self, student: jax.Array, target: jax.Array, batch: Batch) -> tuple[Contrast, Contrast]:
        """The teacher's vector for each student's, and the student's for each of the teacher's."""
        u, v = l2_normalize(student), l2_normalize(target)
        ids, key_ids = contrast_ids(batch)
        return infonce(u, v, ids, key_ids, self.temperature), infonce(v, u, key_ids, ids, self.temperature)
