"""Explicit alignment of words in context: aligned tokens of a sentence and its translation are pulled together.

For the states a_k and b_k of the n aligned token pairs of a batch (Wu and Dredze 2020, arXiv 2010.02537, and their code):

    distance:   mean_k |a_k - b_k|^2
    weak:       S = a b^T / t;            half the mean cross-entropy of rows, and half of columns; S(k,k) is right
    strong:     Z = [a; b], S = Z Z^T / t without its diagonal;  the mean cross-entropy of 2 n rows; Z_k's right one is
                the other token of its pair
    loss = one of these + stay |theta - theta_0|          a norm, not squared; theta_0 are the start's parameters

Both contrasts compare unit vectors. The links come from the model as it is, not from a statistical aligner as there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.objectives.parts import links
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import infonce, infonce_flops
from xalign_jax.objectives.parts.momentum import copied
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.objectives.parts.sentences import check_level
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

FORMS = ("distance", "weak", "strong")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AlignedWords(Objective):
    """Pull linked tokens of translations together: a mean over links, times the sentence pairs, by which it is counted.

    The links are those that both directions find at the same level, without a gradient.

    Batch: as of WordAlignment. Pairs whose sides have the same text are left out and counted.

    Attributes:
      level: the level whose states are aligned. Nothing above it is computed.
      form: "distance", "weak" or "strong". "strong" also takes the tokens of the same language as candidates.
      temperature: t of the contrasts.
      stay: weight of the distance to the start's parameters; 0 = none, and no copy of them is kept.
      guide: "argmax" or "ot", as `xalign align --method`.
    """

    level: int = gin.REQUIRED
    form: str = "strong"
    temperature: float = 0.1
    stay: float = 0.0
    guide: str = "argmax"

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "form", FORMS)
        one_of(self, "guide", links.ONE_TO_ONE)
        within(self, "[0, inf)", "level", "stay")
        within(self, "(0, inf)", "temperature")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads; with `stay`, the state "start" has the parameters' shapes.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("AlignedWords", model, self.level)
        if not self.stay:
            return {}, {}
        return {}, {"start": jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), model.shapes)}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch that holds no single sentence pairs."""
        links.check_pairs("AlignedWords", batch)

    def prefill(
        self, model: Model, state: dict[str, Tree], batches: Iterable[Batch], rng: jax.Array
    ) -> dict[str, Tree]:
        """With `stay`, a copy of the parameters."""
        return {name: copied(model.params) for name in state}

    def state_axes(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """Logical axes of the state, which is sharded like the model."""
        return {name: model.logical_axes() for name in state}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of sentence pairs that take part, float32 scalar."""
        return jnp.sum(links.taking_part(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean loss times the count, metrics, state).

        Metrics: `count_links`, the mean `cosine` of linked tokens, `count_identical` (pairs that were left out, because
        both sides have the same text) and, with `stay`, `moved`: |theta - theta_0|.
        """
        # (N,D) twice, (N,): N query tokens, and the key token that each is linked with.
        a, b, linked = links.linked_states(links.token_pairs(model, batch, self.level), self.guide)
        count, total = self.count(model, batch, rng), jnp.sum(linked, dtype=jnp.float32)
        cosine = links.mean_cosine(a, b, linked)
        metrics = {"count_links": total, "cosine": cosine, "count_identical": links.identical(batch)}
        loss = self._aligned(a, b, linked) / jnp.maximum(total, 1)
        if self.stay:
            metrics["moved"] = _distance(model.params, state["start"])
            loss = loss + self.stay * metrics["moved"]
        return loss * count, metrics, state

    def _aligned(self, a: jax.Array, b: jax.Array, linked: jax.Array) -> jax.Array:
        """The sum over links of the chosen form: (N,D), (N,D), (N,) bool -> scalar."""
        if self.form == "distance":
            return links.squared_distance(a, b, linked)
        a, b = l2_normalize(a), l2_normalize(b)
        own = jnp.where(linked, jnp.arange(len(a), dtype=jnp.int32), -1)
        if self.form == "strong":
            z, ids = jnp.concatenate([a, b]), _ids(jnp.concatenate([own, own]))
            return infonce(z, z, ids, ids, self.temperature, exclude_self=True).loss / 2
        ids = _ids(own)
        rows, columns = (infonce(*way, ids, ids, self.temperature).loss for way in ((a, b), (b, a)))
        return (rows + columns) / 2

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, and of all tokens with all others."""
        return links.pair_flops(model, batch, self.level) + 2 * infonce_flops(batch["tokens"].size, model.width)


def _ids(own: jax.Array) -> Ids:
    """Rows of which only the item is known."""
    nothing = jnp.zeros((len(own), 0), jnp.int32)
    return Ids(own, nothing, nothing)


def _distance(params: Tree, start: Tree) -> jax.Array:
    """|theta - theta_0|, whose gradient at 0 is 0."""
    apart = jax.tree.map(lambda new, old: jnp.sum(jnp.square(new - old)), params, start)
    return jnp.sqrt(jnp.maximum(sum(jax.tree.leaves(apart)), 1e-24))
