"""Token-level distillation: tokens of a new language learn the states of the English tokens that they translate.

Follows DR.DECR (Li et al. 2022, arXiv 2112.08185) and its code. A teacher reads English sentences, and its states are
a_k. The student reads their translations, and b_k are the states of the tokens that are linked with a_k:

    loss = mean_k d(b_k, a_k) + sources mean_i d(student's state of English token i, a_i)

    d(u, v) = squared mean_j (u_j - v_j)^2 + cosine (1 - cos(u, v))

Links are found in each step, between the teacher's states and the student's. DR.DECR links all tokens greedily, one to
one. Here both directions must agree, so that some tokens have no link. Its retriever, whose scores are distilled too, is
not here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Tree
from xalign_jax.objectives.parts import links
from xalign_jax.objectives.parts.primitives import FORWARD, distances
from xalign_jax.objectives.parts.sentences import QUERY, check_level, level_of
from xalign_jax.objectives.parts.taught import Taught
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TokenDistillation(Taught):
    """Pull linked tokens of translations to a teacher's states: means over tokens, times the pairs, the count.

    The teacher reads the queries of a ContrastFeed (`Taught`).

    Batch: as of WordAlignment. Pairs whose sides have the same text are left out and counted.

    Attributes:
      level: the level whose states are learned; None = the last.
      teacher: as in `Taught`.
      squared, cosine: weights of the two parts of d.
      sources: weight of the teacher's own sentences, whose tokens the student reads too; 0 = it does not.
      guide: "argmax" or "ot", as `xalign align --method`.
    """

    level: int | None = None
    squared: float = 1.0
    cosine: float = 0.0
    sources: float = 0.0
    guide: str = "argmax"

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "guide", links.ONE_TO_ONE)
        within(self, "[0, inf)", "level", "squared", "cosine", "sources")
        if not self.squared + self.cosine:
            raise UserError("TokenDistillation: squared and cosine are both 0, so nothing is learned")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """As of `Taught`.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("TokenDistillation", model, self.level)
        return super().init(rng, model)

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch that holds no single sentence pairs."""
        links.check_pairs("TokenDistillation", batch)

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of sentence pairs that take part, float32 scalar."""
        return jnp.sum(links.taking_part(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean loss times the count, metrics, the same state).

        Metrics: `count_links`, the mean `cosine` of linked tokens, `linked`: the share of the teacher's tokens that have
        a link, and `count_identical` (pairs that were left out).
        """
        level = level_of(model, self.level)
        student = links.token_pairs(model, batch, level)
        target = self.taught_by(model, state).hidden(Inputs.of(batch, QUERY), levels=(level,))[level]
        # (N,D) twice, (N,): the teacher's N query tokens, and the student's key token that each is linked with.
        a, b, linked = links.linked_states(student._replace(query=target), self.guide)
        loss = self._mean(b, a, linked)
        if self.sources:
            own = student.query_mask.reshape(-1)
            loss += self.sources * self._mean(student.query.reshape(a.shape), a, own)
        total = jnp.sum(linked, dtype=jnp.float32)
        metrics = {
            "count_links": total,
            "cosine": links.mean_cosine(a, b, linked),
            "linked": total / jnp.maximum(jnp.sum(student.query_mask), 1),
            "count_identical": links.identical(batch),
        }
        return loss * self.count(model, batch, rng), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the student's keys, and of its queries if it reads them; of the teacher, forward; of the links."""
        rows, length = batch["tokens"].shape
        passes = 1 + (self.sources > 0) + FORWARD
        products = 2.0 * rows * length**2 * model.width
        return passes * rows * length * level_of(model, self.level) * model.block_flops_per_token(length) + products

    def _mean(self, student: jax.Array, target: jax.Array, chosen: jax.Array) -> jax.Array:
        """The mean of d over the chosen rows (N,) of two arrays (N,D); 0 where none is chosen."""
        apart = distances(student.astype(jnp.float32), target.astype(jnp.float32), self.squared, self.cosine)
        return jnp.sum(apart * chosen) / jnp.maximum(jnp.sum(chosen), 1)
