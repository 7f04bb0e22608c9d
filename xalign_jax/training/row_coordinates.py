"""A token's row as a vector of its language and a part of its own; a translation's as its source's row besides.

A model's tables stay what they are, a row for each token, in checkpoints and in what is exported; only the optimiser sees
other coordinates. In them a source's row is moved by all that follow it, and the vector of a language by all of its tokens;
a token's own row is what is left. The own parts of tokens that follow another decay. A language's vector stands where one
of its tokens has its row, the last one that follows if any does: that token has no part of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.token_ties import SharedRows
from xalign_jax.models.model import Model

OWN_DECAY = 10.0  # of followers' own parts, decoupled and scaled by the learning rate as AdamW's weight decay is


class RowCoordinates:
    """Maps between a model's rows and the optimiser's, on trees {"model": .., "heads": ..}; without `shared` they do nothing."""

    def __init__(self, model: Model, shared: SharedRows | None) -> None:
        self._axes, self._shared = model.logical_axes(), shared
        if shared is not None:
            self._token, follows = shared.token, shared.source != shared.token
            self._follower, self._source = shared.token[follows], shared.source[follows]  # (F,)
            order = np.lexsort((follows, shared.language))[::-1]
            languages, at = np.unique(shared.language[order], return_index=True)
            self._host = shared.token[order[at]]  # (K,) tokens where the vectors stand
            self._number = np.searchsorted(languages, shared.language)  # (P,) of K
            self._number_of_follower = self._number[follows]

    def tied(self, params: Any) -> Any:
        """Rows for a first step: followers' are their source's plus the mean distance of their language's."""

        def tie(table: jax.Array) -> jax.Array:
            source, number = table[self._source], self._number_of_follower
            total = jax.ops.segment_sum(table[self._follower] - source, number, len(self._host))
            mean = total / np.maximum(np.bincount(number, minlength=len(self._host)), 1)[:, None]
            return table.at[self._follower].set(source + mean[number])

        return self._of_tables(params, tie)

    def coordinates(self, params: Any) -> Any:
        """The optimiser's rows."""

        def split(table: jax.Array) -> jax.Array:
            apart = table.at[self._follower].add(-table[self._source])
            vectors = apart[self._host]
            return (apart - self._each(vectors, table)).at[self._host].set(vectors)

        return self._of_tables(params, split)

    def gradients(self, grads: Any) -> Any:
        """Gradients of the optimiser's rows from those of the model's."""

        def total(table: jax.Array) -> jax.Array:
            sums = jax.ops.segment_sum(table, self._numbers(table), len(self._host) + 1)[:-1]
            return table.at[self._source].add(table[self._follower]).at[self._host].set(sums)

        return self._of_tables(grads, total)

    def rows(self, coordinates: Any, rate: jax.Array) -> Any:
        """The model's rows after a step at a learning rate."""

        def join(table: jax.Array) -> jax.Array:
            own = table.at[self._host].set(0).at[self._follower].multiply(1 - OWN_DECAY * rate)
            return own.at[self._follower].add(own[self._source]) + self._each(table[self._host], table)

        return self._of_tables(coordinates, join)

    def _numbers(self, table: jax.Array) -> np.ndarray:
        """(V,) the number of each row's vector, K where it has none: whole, so that a sharded table is nowhere gathered."""
        numbers = np.full(len(table), len(self._host), np.int32)
        numbers[self._token] = self._number
        return numbers

    def _each(self, vectors: jax.Array, table: jax.Array) -> jax.Array:
        """(V, W): the vector of each row, 0 where it has none."""
        return jnp.pad(vectors, ((0, 1), (0, 0)))[self._numbers(table)]

    def _of_tables(self, tree: Any, function: Callable[..., jax.Array]) -> Any:
        if self._shared is None:
            return tree

        def each(axes: tuple[str | None, ...], array: jax.Array) -> jax.Array:
            return function(array) if axes[0] == "vocab" and len(axes) == 2 else array

        return tree | {"model": jax.tree.map(each, self._axes, tree["model"], is_leaf=lambda x: isinstance(x, tuple))}
