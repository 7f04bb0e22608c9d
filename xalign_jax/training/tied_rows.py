"""Rows along the dictionary as one parameter: a token's row is its source's plus a vector of its language.

A model's tables stay what they are, a row for each token, in checkpoints and in what is exported; only the optimiser sees
other coordinates. In them a source's row is the row of all that follow it, a language's vector stands where its first
follower's row was, the rows of the other followers are 0, and tokens that follow nothing have theirs less the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.ties import Ties
from xalign_jax.models.functional import Model


class TiedRows:
    """Maps between a model's rows and the optimiser's, on trees {"model": .., "heads": ..}; without ties they do nothing."""

    def __init__(self, model: Model, ties: Ties | None) -> None:
        self._axes, self._ties = model.logical_axes(), ties
        if ties is not None:
            follows = ties.source != ties.token
            _, first, language = np.unique(ties.language[follows], return_index=True, return_inverse=True)
            self._vectors = ties.token[follows][first]  # (K,) where the languages' vectors stand
            self._number = np.searchsorted(ties.language[follows][first], ties.language)  # (P,) of K
            self._alone = ~follows[:, None]
            self._share = (1 / np.bincount(language)[self._number]).astype(np.float32)[:, None]

    def coordinates(self, params: Any) -> Any:
        """The optimiser's rows; of rows that are not tied yet, followers' mean distance is what their language keeps."""

        def split(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            apart = (table[token] - table[source]) * self._share
            vectors = self._by_language(apart)
            rows = jnp.where(self._alone, table[token] - vectors[self._number], 0)
            return table.at[token].set(rows).at[self._vectors].set(vectors)

        return self._of_tables(params, split)

    def gradients(self, grads: Any) -> Any:
        """Gradients of the optimiser's rows from those of the model's."""

        def total(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            own = table[token]
            return table.at[token].set(0).at[source].add(own).at[self._vectors].set(self._by_language(own))

        return self._of_tables(grads, total)

    def rows(self, coordinates: Any) -> Any:
        """The model's rows."""

        def join(table: jax.Array, token: np.ndarray, source: np.ndarray) -> jax.Array:
            return table.at[token].set(table[source] + table[self._vectors][self._number])

        return self._of_tables(coordinates, join)

    def _by_language(self, rows: jax.Array) -> jax.Array:
        """(K, W) sums of the (P, W) rows."""
        return jax.ops.segment_sum(rows, self._number, len(self._vectors))

    def _of_tables(self, tree: Any, function: Callable[..., jax.Array]) -> Any:
        if (ties := self._ties) is None:
            return tree

        def each(axes: tuple[str | None, ...], array: jax.Array) -> jax.Array:
            return function(array, ties.token, ties.source) if axes[0] == "vocab" and len(axes) == 2 else array

        return tree | {"model": jax.tree.map(each, self._axes, tree["model"], is_leaf=lambda x: isinstance(x, tuple))}
