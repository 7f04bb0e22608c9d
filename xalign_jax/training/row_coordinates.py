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

from xalign_jax.data.shared_rows import SharedRows
from xalign_jax.models.functional import Model

OWN_DECAY = 10.0  # of followers' own parts, decoupled and scaled by the learning rate as AdamW's weight decay is


class RowCoordinates:
    """Maps between a model's rows and the optimiser's, on trees {"model": .., "heads": ..}; without `shared` they do nothing."""

    def __init__(self, model: Model, shared: SharedRows | None) -> None:
        self._axes, self._shared = model.logical_axes(), shared
        if shared is not None:
            follows = shared.source != shared.token
            order = np.lexsort((follows, shared.language))[::-1]
            languages, at = np.unique(shared.language[order], return_index=True)
            self._host = order[at]  # (K,) of P: where the vectors stand
            self._number = np.searchsorted(languages, shared.language)  # (P,) of K
            self._follows = follows[:, None]

    def tied(self, params: Any) -> Any:
        """Rows for a first step: followers' are their source's plus the mean distance of their language's."""

        def tie(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            count = self._by_language(self._follows.astype(np.float32))
            mean = self._by_language(table[token] - table[source]) / jnp.maximum(count, 1)
            return table.at[token].set(table[source] + jnp.where(self._follows, mean[self._number], 0))

        return self._of_tables(params, tie)

    def coordinates(self, params: Any) -> Any:
        """The optimiser's rows."""

        def split(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            apart = table[token] - jnp.where(self._follows, table[source], 0)
            vectors = apart[self._host]
            own = apart - vectors[self._number]
            return table.at[token].set(own.at[self._host].set(vectors))

        return self._of_tables(params, split)

    def gradients(self, grads: Any) -> Any:
        """Gradients of the optimiser's rows from those of the model's."""

        def total(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            own = table[token]
            table = table.at[source].add(jnp.where(self._follows, own, 0))
            return table.at[token[self._host]].set(self._by_language(own))

        return self._of_tables(grads, total)

    def rows(self, coordinates: Any, rate: jax.Array) -> Any:
        """The model's rows after a step at a learning rate."""

        def join(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            vectors = table[token[self._host]]
            own = table[token].at[self._host].set(0)
            base = jnp.where(self._follows, table[source] + (1 - OWN_DECAY * rate) * own, own)
            return table.at[token].set(base + vectors[self._number])

        return self._of_tables(coordinates, join)

    def _by_language(self, rows: jax.Array) -> jax.Array:
        """(K, W) sums of the (P, W) rows."""
        return jax.ops.segment_sum(rows, self._number, len(self._host))

    def _of_tables(self, tree: Any, function: Callable[..., jax.Array]) -> Any:
        if (shared := self._shared) is None:
            return tree

        def each(axes: tuple[str | None, ...], array: jax.Array) -> jax.Array:
            return function(array, shared.token, shared.source) if axes[0] == "vocab" and len(axes) == 2 else array

        return tree | {"model": jax.tree.map(each, self._axes, tree["model"], is_leaf=lambda x: isinstance(x, tuple))}
