"""Keep the embedding rows of translations together: a concept's words share a part, and their own parts are kept small.

For a word with row v, whose concept's words have the mean row m:

    loss = |v - m|^2 / mean |v|^2        the mean over the batch's words; it gets no gradient
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import segment_sums
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.recipe import freeze

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordDistance(Objective):
    """Squared distance of words to their concept's mean, a mean over embedding and output head, counted by words.

    A word's row v is the mean of its tokens' rows. The loss of a word is

    - 0 if all translations have equal rows,
    - 1 - 1/k if the k words of the concept have nothing in common,
    - 1 if their rows cancel.

    Unlike the word contrast, this loss pushes nothing apart. It also goes on pulling when translations are already each
    other's nearest neighbours.

    Batch: tokens, positions, segment_ids, own_tokens (R,T) int32. Segment s in 1..S is word slot s - 1. own_tokens is 1
    for tokens that the first language hardly uses. Also concept, language (R,S) int32; concept -1 = empty slot.

    Attributes:
      offset: subtract each language's mean own part first. Languages may then differ by a constant offset. The output
        head needs it to tell languages apart, and probabilities within a language do not depend on it.
      anchored: only tokens that belong to their language get a gradient. Rows that the first language uses stay where
        text puts them, and the others come to them. False = translations meet half way.
    """

    offset: bool = False
    anchored: bool = False

    def __post_init__(self) -> None:
        freeze(self)

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state."""
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of words, float32 scalar."""
        return jnp.sum(batch["concept"] >= 0, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean over the tables of the summed distances, the mean distance in each table, state)."""
        tokens, segment_ids, concept = batch["tokens"], batch["segment_ids"], batch["concept"].reshape(-1)
        # (R,T,width) rows of the tokens in each table. Level 0 of a decoder is the embedding row itself.
        states = model.hidden(Inputs.of(batch), levels=(0,))
        tables = {"embedding": states[0]} | ({} if model.tied else {"head": model.head_rows(tokens)})
        # (W,W) for W = R S words: 1 where both have the same concept, and 1 where both have the same language.
        mates = ((concept[:, None] == concept) & (concept >= 0)).astype(jnp.float32)
        language = batch["language"].reshape(-1)
        alike = ((language[:, None] == language) & (concept >= 0)).astype(jnp.float32) if self.offset else None
        # (R,S,1): the number of tokens of each word.
        slots = batch["concept"].shape[1]
        size = jnp.maximum(segment_sums(jnp.ones((*tokens.shape, 1)), segment_ids, slots), 1)
        sums = {}
        for name, rows in tables.items():
            if self.anchored:
                # Rows of shared tokens become constants: they take part in the mean, but do not move.
                rows = jnp.where((batch["own_tokens"] > 0)[..., None], rows, jax.lax.stop_gradient(rows))
            # (R,T,width) -> (R,S,width) -> (W,width).
            words = (segment_sums(rows, segment_ids, slots) / size).reshape(len(concept), -1)
            sums[name] = _distances(words, mates, alike)
        count = jnp.maximum(self.count(model, batch, rng), 1)
        metrics = {f"{name}/distance": total / count for name, total in sums.items()}
        return sum(sums.values(), jnp.zeros(())) / len(sums), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the means over concepts, and with `offset` of the means over languages, in each table."""
        means = (1 + self.offset) * (1 if model.tied else 2)
        return means * 4.0 * batch["concept"].size ** 2 * model.width


@jax.named_scope("distance")
def _distances(words: jax.Array, mates: jax.Array, alike: jax.Array | None) -> jax.Array:
    """The sum of |v - m|^2 over words, divided by the mean |v|^2; float32 scalar.

    Args:
      words: (W,D) rows v.
      mates: (W,W), 1 where both words have the same concept; the columns of absent words are 0.
      alike: (W,W), 1 where both words have the same language; None = do not subtract languages' means.
    """
    # (W,): a word that is present is its own mate.
    real = jnp.diagonal(mates)
    own = words - _means(words, mates)
    if alike is not None:
        own = own - _means(own, alike)
    # Relative to the mean |v|^2, so that shrinking all rows gains nothing. As a constant: with a gradient, growing rows
    # would lower the loss.
    size = jnp.sum(jnp.sum(words * words, 1) * real) / jnp.maximum(real.sum(), 1)
    return jnp.sum(jnp.sum(own * own, 1) * real) / jax.lax.stop_gradient(jnp.maximum(size, 1e-12))


def _means(rows: jax.Array, members: jax.Array) -> jax.Array:
    """(W,W) x (W,D) -> (W,D): for each row, the mean over the rows that its line of `members` names."""
    return members @ rows / jnp.maximum(members.sum(1, keepdims=True), 1)
