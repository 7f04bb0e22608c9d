"""Rows along the dictionary as one parameter: a follower's row is its source's plus a vector of its language.

A model's tables stay what they are, a row for each token, in checkpoints and in what is exported; only the optimiser sees
other coordinates. In them a source's row is the row of all that follow it, a language's vector stands where its first
follower's row was, and the rows of the other followers are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from xalign_jax.data.ties import Ties
from xalign_jax.models.functional import Model


class TiedRows:
    """Maps between a model's rows and the optimiser's, on trees {"model": .., "heads": ..}; without ties they do nothing."""

    def __init__(self, model: Model, ties: Ties | None) -> None:
        self._axes, self._ties = model.logical_axes(), ties
        if ties is not None:
            _, first, language = np.unique(ties.language, return_index=True, return_inverse=True)
            self._vector = ties.follower[first][language]  # (P,) whose row stands for the pair's language's vector
            self._share = (1 / np.bincount(language)[language]).astype(np.float32)[:, None]

    def coordinates(self, params: Any) -> Any:
        """The optimiser's rows; of rows that are not tied yet, followers' mean distance is what their language keeps."""

        def split(table: jax.Array, source: np.ndarray, follower: np.ndarray) -> jax.Array:
            own = (table[follower] - table[source]) * self._share
            return table.at[follower].set(0).at[self._vector].add(own)

        return self._of_tables(params, split)

    def gradients(self, grads: Any) -> Any:
        """Gradients of the optimiser's rows from those of the model's."""

        def total(table: jax.Array, source: np.ndarray, follower: np.ndarray) -> jax.Array:
            own = table[follower]
            return table.at[source].add(own).at[follower].set(0).at[self._vector].add(own)

        return self._of_tables(grads, total)

    def rows(self, coordinates: Any) -> Any:
        """The model's rows."""

        def join(table: jax.Array, source: np.ndarray, follower: np.ndarray) -> jax.Array:
            return table.at[follower].set(table[source] + table[self._vector])

        return self._of_tables(coordinates, join)

    def _of_tables(self, tree: Any, function: Callable[..., jax.Array]) -> Any:
        if (ties := self._ties) is None:
            return tree

        def each(axes: tuple[str | None, ...], array: jax.Array) -> jax.Array:
            return function(array, ties.source, ties.follower) if axes[0] == "vocab" and len(axes) == 2 else array

        return tree | {"model": jax.tree.map(each, self._axes, tree["model"], is_leaf=lambda x: isinstance(x, tuple))}
