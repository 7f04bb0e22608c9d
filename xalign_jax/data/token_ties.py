"""Tokens whose rows in a table share something: a vector of their language, and with translations a row."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from xalign_jax.data.corpus import Prepared
from xalign_jax.data.feeds.words import own_tokens
from xalign_jax.data.lexicon.subword_pairs import with_pieces
from xalign_jax.errors import UserError


class SharedRows(NamedTuple):
    """P tokens of which a table's rows have a vector of their language in common, and some follow another's row.

    Attributes:
      token: (P,) int32, distinct.   source: (P,) int32, the token of the first language that it follows, which is not in
        `token`; `token` itself where it follows none.   language: (P,) int32 index into the lexicon's languages, from 1.
    """

    token: np.ndarray
    source: np.ndarray
    language: np.ndarray

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and what they share."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self)).hexdigest()[:16]


def shared_rows(prepared: Prepared, tie_words: bool) -> SharedRows:
    """All tokens that are a language's own (`words.own_tokens`); a row that the first language uses shares nothing.

    Args:
      tie_words: tokens follow those that they translate in the training lexicon: words of one token, and pieces that
        translate each other in longer ones. Of several concepts that name a token the first one counts.

    Raises:
      UserError: no lexicon, no token that is a language's own, or with `tie_words` no pair of them in the lexicon.
    """
    if prepared.lexicon is None:
        raise UserError("Stage.language_vectors and Stage.tie_words need Recipe.lexicon, which names the languages")
    languages = prepared.lexicon.train.languages
    own = own_tokens(prepared, languages)
    if not own.any():
        raise UserError(
            f"Stage.language_vectors and Stage.tie_words: no token is used ten times as often by {', '.join(languages[1:])} "
            f"as by {languages[0]} (Lexicon.languages), so there is none to move"
        )
    if not tie_words:
        language = own.argmax(0).astype(np.int32)
        token = np.flatnonzero(language).astype(np.int32)
        return SharedRows(token, token, language[token])
    table = with_pieces(prepared.lexicon.train)
    words = np.flatnonzero(np.diff(table.starts) == 1)
    ids, concept, language = table.ids[table.starts[words]], table.concept[words], table.language[words]
    named, first = np.unique(concept[language == 0], return_index=True)
    sources = ids[language == 0][first]
    own[:, sources] = False
    follows = own[language, ids] & np.isin(concept, named)
    follower, at = np.unique(ids[follows], return_index=True)
    if not len(follower):
        raise UserError("Stage.tie_words: no token of the lexicon's words translates a token of its first language")
    source, of = np.arange(own.shape[1], dtype=np.int32), own.argmax(0).astype(np.int32)
    source[follower] = sources[np.searchsorted(named, concept[follows][at])]
    of[follower] = language[follows][at]
    token = np.flatnonzero(of).astype(np.int32)
    return SharedRows(token, source[token], of[token])
