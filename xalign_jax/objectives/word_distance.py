"""Rows of translations held together: a part they share, along the dictionary, and a part of their own that is kept small."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import segment_sums
from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.recipe import freeze

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordDistance(Objective):
    """Mean over the embedding and the output head of words' squared distance to their concept's mean, counted by words.

    A word is the mean of its tokens' rows. What a concept's words share is their mean m, what is a word's own is
    v - m: the loss |v - m|^2 over the batch's mean |v|^2 (which gets no gradient) is 0 where translations have equal
    rows, 1 - 1/k (half, of two) where a concept's k words have nothing in common, and 1 where they cancel. Unlike the
    word contrast it pushes nothing apart, and it goes on pulling when translations are each other's nearest
    neighbours.

    Batch: tokens, positions, segment_ids, own_tokens (R,T) int32, segment s in 1..S is word slot s - 1, own_tokens is 1
    for tokens that the first language hardly uses; concept, language (R,S) int32, concept -1 = absent.

    Attributes:
      offset: take each language's mean own part away first. A language may then lie beside another: the head needs that
        to tell languages apart, and a softmax within a language does not notice it.
      anchored: only tokens that are their language's own get a gradient: the first language's rows, and those it shares,
        stay where text puts them, and the others come to them. Else they meet half way.
    """

    offset: bool = False
    anchored: bool = False

    def __post_init__(self) -> None:
        freeze(self)

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """No heads, no state."""
        return {}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """Words of the batch."""
        return jnp.sum(batch["concept"] >= 0, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(mean over the tables of the summed distances, their mean in each table, state)."""
        tokens, segment_ids, concept = batch["tokens"], batch["segment_ids"], batch["concept"].reshape(-1)
        states = model.hidden(Inputs.of(batch), levels=(0,))
        tables = {"embedding": states[0]} | ({} if model.tied else {"head": model.head_rows(tokens)})
        mates = ((concept[:, None] == concept) & (concept >= 0)).astype(jnp.float32)
        language = batch["language"].reshape(-1)
        alike = ((language[:, None] == language) & (concept >= 0)).astype(jnp.float32) if self.offset else None
        slots = batch["concept"].shape[1]
        size = jnp.maximum(segment_sums(jnp.ones((*tokens.shape, 1)), segment_ids, slots), 1)
        sums = {}
        for name, rows in tables.items():
            if self.anchored:
                rows = jnp.where((batch["own_tokens"] > 0)[..., None], rows, jax.lax.stop_gradient(rows))
            words = (segment_sums(rows, segment_ids, slots) / size).reshape(len(concept), -1)
            sums[name] = _distances(words, mates, alike)
        count = jnp.maximum(self.count(model, batch, rng), 1)
        metrics = {f"{name}/distance": total / count for name, total in sums.items()}
        return sum(sums.values(), jnp.zeros(())) / len(sums), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """Means over a concept's words, and over a language's with `offset`, in each table."""
        means = (1 + self.offset) * (1 if model.tied else 2)
        return means * 4.0 * batch["concept"].size ** 2 * model.width


def _distances(words: jax.Array, mates: jax.Array, alike: jax.Array | None) -> jax.Array:
    """The summed squares of own parts over the mean |v|^2; words (W,D).

    Args:
      mates: (W,W) 1 within a concept, all 0 in the columns of absent words.
      alike: the same within a language, to take a language's mean own part away; None = leave it.
    """
    real = jnp.diagonal(mates)
    own = words - _means(words, mates)
    if alike is not None:
        own = own - _means(own, alike)
    size = jnp.sum(jnp.sum(words * words, 1) * real) / jnp.maximum(real.sum(), 1)
    return jnp.sum(jnp.sum(own * own, 1) * real) / jax.lax.stop_gradient(jnp.maximum(size, 1e-12))


def _means(rows: jax.Array, members: jax.Array) -> jax.Array:
    """For each row the mean of its members, (W,D)."""
    return members @ rows / jnp.maximum(members.sum(1, keepdims=True), 1)
