"""Table rows that share parts: row = own part + vector of its language + own part of the token that it translates.

A model's tables keep a row for each token, in checkpoints and in exports. The free numbers of a table have the same shape
(V, W), so that they lie on devices like the table. Row i of them is the own part of token i, with one exception: the
vector of a language is stored in the row of one of its tokens, the host. The host has no own part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.token_ties import TokenTies, language_ties, placeholder_ties, translation_ties
from xalign_jax.interfaces import Coordinates, Parametrization
from xalign_jax.recipe import freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LanguageVectors(Parametrization):
    """Every language but the lexicon's first has a learned vector in the embedding and in the head.

    The vector is added to the rows of all tokens that only this language uses (`data.token_ties.own_tokens`).
    """

    def __post_init__(self) -> None:
        freeze(self)

    def bind(self, model: Any, corpus: Any) -> Coordinates:
        """Raises UserError: no lexicon, or no token that only one language uses."""
        rows = model.vocabulary_size
        ties = placeholder_ties(rows, False) if corpus is None else language_ties(corpus)
        return TiedCoordinates(model, ties, own_decay=0.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TiedRows(Parametrization):
    """Tokens that translate each other share a row; every language but the first has a vector, as in LanguageVectors.

    A token that follows a first-language token in the dictionary ("follower", `data.token_ties`) has that token's row, its
    language's vector, and an own part that decays. Gradients of a follower therefore reach its source, and the other
    way round.

    Attributes:
      own_decay: decay of followers' own parts per unit of learning rate, decoupled as AdamW's weight decay is.
    """

    own_decay: float = 10.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "own_decay")

    def bind(self, model: Any, corpus: Any) -> Coordinates:
        """Raises UserError: no lexicon, or none of its pairs of words ties two tokens."""
        rows = model.vocabulary_size
        ties = placeholder_ties(rows, True) if corpus is None else translation_ties(corpus)
        return TiedCoordinates(model, ties, self.own_decay)


class TiedCoordinates(Coordinates):
    """Everything is free; tables are (V, W) arrays of own parts and, in hosts' rows, vectors of languages."""

    def __init__(self, model: Any, ties: TokenTies, own_decay: float) -> None:
        self._axes, self._ties, self._own_decay = model.logical_axes(), ties, own_decay
        self.fingerprint = ties.fingerprint
        follows = ties.source != ties.token
        self._follower, self._source = ties.token[follows], ties.source[follows]  # (F,)
        # A language's host is its last follower, or its last token where none follows.
        order = np.lexsort((follows, ties.language))[::-1]
        languages, at = np.unique(ties.language[order], return_index=True)
        self._host = ties.token[order[at]]  # (K,)
        self._number = np.searchsorted(languages, ties.language)  # (P,) of K, of each tied token
        self._number_of_follower = self._number[follows]  # (F,)

    def enter(self, params: Any) -> Any:
        """Each follower starts as its source's row plus its language's mean offset."""

        def tie(table: jax.Array) -> jax.Array:
            source, number = table[self._source], self._number_of_follower
            total = jax.ops.segment_sum(table[self._follower] - source, number, len(self._host))
            mean = total / np.maximum(np.bincount(number, minlength=len(self._host)), 1)[:, None]  # (K, W)
            return table.at[self._follower].set(source + mean[number])

        return self._of_tables(params, tie)

    def split(self, params: Any, rng: jax.Array) -> tuple[Any, Any]:
        """The own parts that give these rows; a host's row is its language's vector."""

        def apart(table: jax.Array) -> jax.Array:
            own = table.at[self._follower].add(-table[self._source])
            vectors = own[self._host]  # (K, W)
            return (own - self._of_language(vectors, table)).at[self._host].set(vectors)

        return self._of_tables(params, apart), {}

    def params(self, free: Any, fixed: Any) -> Any:
        """Rows from own parts and vectors."""

        def join(table: jax.Array) -> jax.Array:
            own = table.at[self._host].set(0)
            own = own.at[self._follower].add(own[self._source])
            return own + self._of_language(table[self._host], table)

        return self._of_tables(free, join)

    def after_update(self, free: Any, rate: jax.Array) -> Any:
        """Followers' own parts shrink; vectors do not."""
        follower = np.setdiff1d(self._follower, self._host)
        return self._of_tables(free, lambda table: table.at[follower].multiply(1 - self._own_decay * rate))

    def hidden(self, free: Any, fixed: Any) -> dict[str, Any]:
        """The tables as they train: rows alone would give them back up to rounding only."""
        return {name: table for name, table in free["model"].items() if self._is_table(self._axes[name])}

    def resume(self, params: Any, hidden: dict[str, Any]) -> tuple[Any, Any]:
        return params | {"model": params["model"] | hidden}, {}

    def _of_language(self, vectors: jax.Array, table: jax.Array) -> jax.Array:
        """(V, W): the vector of each row's language, 0 where the row has none.

        One gather of V rows from K + 1 vectors: a scatter into some rows would gather a sharded table.
        """
        numbers = np.full(len(table), len(self._host), np.int32)
        numbers[self._ties.token] = self._number
        return jnp.pad(vectors, ((0, 1), (0, 0)))[numbers]

    def _of_tables(self, tree: Any, function: Callable[[jax.Array], jax.Array]) -> Any:
        """`tree` with `function` applied to its tables (V, W)."""
        model = {
            name: function(leaf) if self._is_table(self._axes[name]) else leaf for name, leaf in tree["model"].items()
        }
        return tree | {"model": model}

    @staticmethod
    def _is_table(axes: Any) -> bool:
        return isinstance(axes, tuple) and axes[0] == "vocab" and len(axes) == 2
