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
    """P pairs of tokens; no source follows, and no token follows twice.

    Attributes:
      source: (P,) int32 tokens of the first language.   follower: (P,) int32, its translation's.
      language: (P,) int32, the follower's index into the lexicon's languages, 1 or more.
    """

    source: np.ndarray
    follower: np.ndarray
    language: np.ndarray

    @property
    def fingerprint(self) -> str:
        """A hash of the pairs."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self)).hexdigest()[:16]


def word_ties(prepared: Prepared) -> Ties:
    """The pairs of the training lexicon: words of one token, and pieces that translate each other in longer ones.

    Only tokens that are their language's own follow (`words.own_tokens`): a row that the first language uses stays its
    own. Of several concepts that name a token the first one counts.

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
    follows = own_tokens(prepared, table.languages)[language, ids] & np.isin(concept, named) & ~np.isin(ids, sources)
    follower, at = np.unique(ids[follows], return_index=True)
    if not len(follower):
        raise UserError("Stage.tie_words: no token of the lexicon's words translates a token of its first language")
    source = sources[np.searchsorted(named, concept[follows][at])]
    return Ties(source, follower, language[follows][at])
