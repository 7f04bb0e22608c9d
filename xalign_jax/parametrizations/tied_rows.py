"""Table rows that share parts: row = own part + vector of its language + own part of the token that it translates.

For a token i of language l that translates token s of the first language:

    row_i = own_i + vector_l + row_s

A model's tables keep a row for each token, in checkpoints and in exports. The free numbers of a table have the same
shape (V, W), so that they are sharded like the table. Row i of them is the own part of token i, with one exception. The
vector of a language is stored in the row of one of its tokens, the host, and the host has no own part.

Shapes: V rows of a table, W its width, P tied tokens, F of which follow a source, and K languages with a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.token_ties import TokenTies, language_ties, placeholder_ties, translation_ties
from xalign_jax.interfaces import Coordinates, Parametrization, Tree
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LanguageVectors(Parametrization):
    """Every language except the lexicon's first has one learned vector in the embedding, and one in the head.

    The vector is added to the rows of all tokens that only this language uses (`data.token_ties.own_tokens`). The
    lexicon only names the languages.
    """

    def __post_init__(self) -> None:
        freeze(self)

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The coordinates for the tokens of a corpus; None = any tokens, if only shapes count.

        Raises:
          UserError: the recipe has no lexicon, or no token is used by one language only.
        """
        rows = model.vocabulary_size
        ties = placeholder_ties(rows, False) if corpus is None else language_ties(corpus)
        return TiedCoordinates(model, ties, own_decay=0.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TiedRows(Parametrization):
    """Tokens that translate each other share a row. Each language except the first has a vector, as in LanguageVectors.

    A token that translates a first-language token in the dictionary follows it (`data.token_ties`). The follower's row
    is the sum of the source's row, the vector of the follower's language, and an own part that decays. So a follower's
    gradient moves its source, and the other way round.

    Attributes:
      own_decay: decay of followers' own parts per unit of learning rate. Like AdamW's weight decay, it is decoupled
        from the gradient: own <- own * (1 - own_decay * rate).
    """

    own_decay: float = 10.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "own_decay")

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The coordinates for the lexicon of a corpus; None = any ties, if only shapes count.

        Raises:
          UserError: the recipe has no lexicon, or no pair of its words ties two tokens.
        """
        rows = model.vocabulary_size
        ties = placeholder_ties(rows, True) if corpus is None else translation_ties(corpus)
        return TiedCoordinates(model, ties, self.own_decay)


class TiedCoordinates(Coordinates):
    """Everything is free. Tables are (V, W) arrays of own parts, and of languages' vectors in the rows of hosts."""

    def __init__(self, model: Model, ties: TokenTies, own_decay: float) -> None:
        self._axes, self._ties, self._own_decay = model.logical_axes(), ties, own_decay
        self.fingerprint = ties.fingerprint
        # Numpy arrays of token ids, constants of the compiled program.
        follows = ties.source != ties.token
        self._follower, self._source = ties.token[follows], ties.source[follows]  # (F,)
        # A language's host is its last follower, or its last token if none follows. Sorted by language, then followers
        # last, and reversed, so that `unique` finds the host first.
        order = np.lexsort((follows, ties.language))[::-1]
        languages, at = np.unique(ties.language[order], return_index=True)
        self._host = ties.token[order[at]]  # (K,)
        # Languages are numbered from 0 to K - 1 here, in the order of their numbers in the lexicon.
        self._number = np.searchsorted(languages, ties.language)  # (P,) of K, of each tied token
        self._number_of_follower = self._number[follows]  # (F,)

    def enter(self, params: Tree) -> Tree:
        """Each follower starts as its source's row plus its language's mean offset."""

        def tie(table: jax.Array) -> jax.Array:
            # (F,W) offsets of followers from their sources, summed by language: (K,W).
            source, number = table[self._source], self._number_of_follower
            total = jax.ops.segment_sum(table[self._follower] - source, number, len(self._host))
            # A language without followers has the sum 0; it is divided by 1.
            mean = total / np.maximum(np.bincount(number, minlength=len(self._host)), 1)[:, None]  # (K, W)
            return table.at[self._follower].set(source + mean[number])

        return self._of_tables(params, tie)

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        """The own parts and vectors that give these rows."""

        def apart(table: jax.Array) -> jax.Array:
            # Without the source's row, a host's row is its language's vector, since the host has no own part.
            own = table.at[self._follower].add(-table[self._source])
            vectors = own[self._host]  # (K, W)
            return (own - self._of_language(vectors, table)).at[self._host].set(vectors)

        return self._of_tables(params, apart), {}

    def params(self, free: Tree, fixed: Tree) -> Tree:
        """Rows from own parts and vectors; the inverse of `split`."""

        def join(table: jax.Array) -> jax.Array:
            # No source is tied itself, so its own part is its row already.
            own = table.at[self._host].set(0)
            own = own.at[self._follower].add(own[self._source])
            return own + self._of_language(table[self._host], table)

        return self._of_tables(free, join)

    def after_update(self, free: Tree, rate: jax.Array) -> Tree:
        """Followers' own parts shrink, and vectors do not."""
        # A host's row holds a vector, even if the host is a follower.
        follower = np.setdiff1d(self._follower, self._host)
        return self._of_tables(free, lambda table: table.at[follower].multiply(1 - self._own_decay * rate))

    def hidden(self, free: Tree, fixed: Tree) -> dict[str, Tree]:
        """The tables of own parts and vectors. Rows alone would give them back only up to rounding."""
        return {name: table for name, table in free["model"].items() if self._is_table(self._axes[name])}

    def resume(self, params: Tree, hidden: dict[str, Tree]) -> tuple[Tree, Tree]:
        return params | {"model": params["model"] | hidden}, {}

    def _of_language(self, vectors: jax.Array, table: jax.Array) -> jax.Array:
        """(V, W): the vector of each row's language, from vectors (K, W); 0 where the row has none.

        One gather of V rows from K + 1 vectors. A scatter into some of the rows would make XLA gather a sharded table.
        """
        # (V,): the number of each row's language. Row K of the padded vectors is 0.
        numbers = np.full(len(table), len(self._host), np.int32)
        numbers[self._ties.token] = self._number
        return jnp.pad(vectors, ((0, 1), (0, 0)))[numbers]

    def _of_tables(self, tree: Tree, function: Callable[[jax.Array], jax.Array]) -> Tree:
        """`tree` with `function` applied to its tables (V, W): the embedding, and the head if it is not tied."""
        model = {
            name: function(leaf) if self._is_table(self._axes[name]) else leaf for name, leaf in tree["model"].items()
        }
        # Heads of objectives have no tables.
        return tree | {"model": model}

    @staticmethod
    def _is_table(axes: object) -> bool:
        return isinstance(axes, tuple) and axes[0] == "vocab" and len(axes) == 2
