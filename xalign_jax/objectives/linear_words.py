"""A linear map between the words of two languages, trained on linked tokens while the encoder stays as it is.

For the states a_k and b_k of the n linked tokens of a batch, the linear form of explicit alignment (Wu and Dredze 2020,
arXiv 2010.02537, and their code):

    loss = mean_k |a_k - b_k W|^2

W starts as the identity. `Orthogonal` trains it alone, and pulls it towards an orthogonal matrix after each update, as
their code does. `xalign map --method=trained` makes a map of it that models are read through.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.maps import WORD_MAP, level_name
from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.matrix_product import product
from xalign_jax.objectives.parts import links
from xalign_jax.objectives.parts.primitives import FORWARD
from xalign_jax.objectives.parts.sentences import KEY, LANGUAGES, check_level
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinearWords(Objective):
    """Map the tokens of keys to those of queries: a mean over links, times the sentence pairs, by which it is counted.

    Only the map gets a gradient. It is for one language: bind `ContrastFeed.pairs = (("en", "de"),)` and
    `ContrastFeed.reverse = 0.0`, and German words are mapped to English ones.

    Batch: as of WordAlignment. Pairs whose sides have the same text are left out and counted.

    Attributes:
      level: the level whose states are mapped. Nothing above it is computed.
      guide: "argmax" or "ot", as `xalign align --method`; it links states as they are, not mapped ones.
    """

    level: int = gin.REQUIRED
    guide: str = "argmax"

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "guide", links.ONE_TO_ONE)
        within(self, "[0, inf)", "level")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "word_map": {level's name: the identity (width,width)}. No state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("LinearWords", model, self.level)
        return {WORD_MAP: {level_name(self.level): jnp.eye(model.width)}}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch that holds no single sentence pairs."""
        links.check_pairs("LinearWords", batch)

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of sentence pairs that take part, float32 scalar."""
        return jnp.sum(links.taking_part(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean loss times the count, metrics, state).

        Metrics: `count_links`, the mean `cosine` of linked tokens after the map, `stretch`: the largest entry of
        |W^T W - I|, `languages`: of the keys, which should be 1, and `count_identical` (pairs that were left out).
        """
        fixed = model.bind(jax.lax.stop_gradient(model.params))
        # (N,D) twice, (N,): N query tokens, and the key token that each is linked with.
        a, b, linked = links.linked_states(links.token_pairs(fixed, batch, self.level), self.guide)
        weight = model.heads[WORD_MAP][level_name(self.level)]
        mapped = product(b.astype(jnp.float32), weight, precision=jax.lax.Precision.HIGHEST)
        total = jnp.sum(linked, dtype=jnp.float32)
        inner = product(weight, weight, "tn", precision=jax.lax.Precision.HIGHEST)
        metrics = {
            "count_links": total,
            "cosine": links.mean_cosine(a, mapped, linked),
            "stretch": jnp.max(jnp.abs(inner - jnp.eye(len(weight)))),
            "languages": _languages(batch),
            "count_identical": links.identical(batch),
        }
        loss = links.squared_distance(a, mapped, linked) / jnp.maximum(total, 1)
        return loss * self.count(model, batch, rng), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of both sides up to the level, forward alone, and of the map."""
        return links.pair_flops(model, batch, self.level) * FORWARD + 6.0 * batch["tokens"].size * model.width**2


def _languages(batch: Batch) -> jax.Array:
    """The number of languages among the keys; int32 scalar."""
    own = batch[f"{KEY}token_language"].reshape(-1)
    # -1 at padding becomes an index past the end, which is dropped.
    return jnp.sum(jnp.zeros(LANGUAGES, jnp.int32).at[jnp.where(own < 0, LANGUAGES, own)].set(1, mode="drop"))
