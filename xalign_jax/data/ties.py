"""Tokens that translate each other: pairs whose rows in a table may be one parameter."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from xalign_jax.data.piece_pairs import with_pieces
from xalign_jax.data.prepared import Prepared
from xalign_jax.data.words import own_tokens
from xalign_jax.errors import UserError


class Ties(NamedTuple):
    """P tokens of which a table's rows are their source's row plus a vector of their language.

    Attributes:
      token: (P,) int32, distinct.   source: (P,) int32, a token of the first language; `token` itself where it follows
        nothing and only the vector is shared. Sources of others are not in `token`.
      language: (P,) int32 index into the lexicon's languages, 1 or more; each has a token that follows.
    """

    token: np.ndarray
    source: np.ndarray
    language: np.ndarray

    @property
    def fingerprint(self) -> str:
        """A hash of the pairs."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self)).hexdigest()[:16]


def word_ties(prepared: Prepared) -> Ties:
    """The pairs of the training lexicon, and their languages' other tokens.

    Pairs are words of one token, and pieces that translate each other in longer ones. Only tokens that are their
    language's own (`words.own_tokens`) follow or get its vector: a row that the first language uses stays its own. Of
    several concepts that name a token the first one counts.

    Raises:
      UserError: no lexicon, or no pair in it.
    """
    if prepared.lexicon is None:
        raise UserError("Stage.tie_words needs Recipe.lexicon")
    table = with_pieces(prepared.lexicon.train)
    words = np.flatnonzero(np.diff(table.starts) == 1)
    ids, concept, language = table.ids[table.starts[words]], table.concept[words], table.language[words]
    named, first = np.unique(concept[language == 0], return_index=True)
    sources = ids[language == 0][first]
    own = own_tokens(prepared, table.languages)
    own[:, sources] = False
    follows = own[language, ids] & np.isin(concept, named)
    follower, at = np.unique(ids[follows], return_index=True)
    if not len(follower):
        raise UserError("Stage.tie_words: no token of the lexicon's words translates a token of its first language")
    source, of = np.arange(own.shape[1], dtype=np.int32), own.argmax(0).astype(np.int32)
    source[follower] = sources[np.searchsorted(named, concept[follows][at])]
    of[follower] = language[follows][at]
    token = np.flatnonzero(np.isin(of, of[follower])).astype(np.int32)
    return Ties(token, source[token], of[token])
