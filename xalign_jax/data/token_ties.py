"""Tokens that belong to one language, and tokens that translate each other."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xalign_jax.data.lexicon.frequencies import token_shares
from xalign_jax.data.lexicon.subword_pairs import with_pieces
from xalign_jax.data.store.store import training_stores
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus

OWN = 10  # a token belongs to a language that uses it at least this many times as often as the first language


class TokenTies(NamedTuple):
    """P tokens whose table rows share parameters. Rows that the first language uses share none.

    Attributes:
      token: (P,) int32, distinct tokens, each of which belongs to a language other than the first.
      source: (P,) int32, the token of the first language that `token` follows, or `token` itself if it follows none. A
        source that is followed is not in `token`.
      language: (P,) int32, index into the lexicon's languages, from 1.
    """

    token: np.ndarray
    source: np.ndarray
    language: np.ndarray

    @property
    def fingerprint(self) -> str:
        """A hash of all three arrays."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self)).hexdigest()[:16]


def own_tokens(corpus: Corpus, languages: tuple[str, ...]) -> np.ndarray:
    """(L, V) bool: the tokens that belong to each language. No token belongs to the first one, `languages[0]`.

    A token belongs to a language if its share of the language's running tokens is at least `OWN` times its share of the
    first language's. So all tokens of a clone's text belong to the clone. If two languages share a vocabulary, some
    tokens belong to the second.
    """
    # (L, V) shares of the running tokens; a language reads its base language's texts with its own ids.
    tokenizer = corpus.tokenizer
    shares = np.zeros((len(languages), tokenizer.size))
    for language, (base, k) in enumerate(map(clone_index, languages)):
        stores = training_stores(corpus.stores, base)
        shares[language, tokenizer.clone_table[k]] = token_shares(stores, tokenizer)
    own = (shares > 0) & (shares >= OWN * shares[0])
    own[0] = False
    return own


def language_ties(corpus: Corpus) -> TokenTies:
    """The tokens that belong to a language. None of them follows another.

    Raises:
      UserError: there is no lexicon, or no token belongs to a language.
    """
    own = _own_tokens(corpus)
    language = own.argmax(0).astype(np.int32)  # (V,), 0 = none
    token = np.flatnonzero(language).astype(np.int32)
    return TokenTies(token, token, language[token])


def translation_ties(corpus: Corpus) -> TokenTies:
    """As `language_ties`; in addition, tokens follow the tokens that they translate in the training lexicon.

    The translations are words of one token, and pieces of longer words that translate each other
    (`lexicon.subword_pairs`). If several concepts have a token, the first one counts.

    Raises:
      UserError: as `language_ties`, or the lexicon has no pair of tokens.
    """
    own = _own_tokens(corpus)
    table = with_pieces(corpus.lexicon.train)  # type: ignore[union-attr]
    words = np.flatnonzero(np.diff(table.starts) == 1)  # (W,) words of one token
    ids, concept, language = table.ids[table.starts[words]], table.concept[words], table.language[words]
    # (N,) concepts with such a word in the first language; the first of these words is the source of the others.
    named, first = np.unique(concept[language == 0], return_index=True)
    sources = ids[language == 0][first]
    # A word follows if its token belongs to its language and its concept has a source; of equal tokens the first one.
    own[:, sources] = False
    follows = own[language, ids] & np.isin(concept, named)
    follower, at = np.unique(ids[follows], return_index=True)
    if not len(follower):
        raise UserError("TiedRows: no token of the lexicon's words translates a token of its first language")
    # (V,) source and language of every token -> (P,) the same of the tokens that belong to a language.
    source, of = np.arange(own.shape[1], dtype=np.int32), own.argmax(0).astype(np.int32)
    source[follower] = sources[np.searchsorted(named, concept[follows][at])]
    of[follower] = language[follows][at]
    token = np.flatnonzero(of).astype(np.int32)
    return TokenTies(token, source[token], of[token])


def placeholder_ties(rows: int, translations: bool) -> TokenTies:
    """Ties for shape-only compilation, without text: the second half of the tokens translates the first half."""
    token = np.arange(rows // 2, 2 * (rows // 2), dtype=np.int32)
    return TokenTies(token, token - rows // 2 if translations else token, np.ones_like(token))


def _own_tokens(corpus: Corpus) -> np.ndarray:
    """`own_tokens` for the lexicon's languages. Raises UserError without a lexicon or without such tokens."""
    if corpus.lexicon is None:
        raise UserError("LanguageVectors and TiedRows need Recipe.lexicon, which names the languages")
    languages = corpus.lexicon.train.languages
    own = own_tokens(corpus, languages)
    if not own.any():
        raise UserError(
            f"LanguageVectors and TiedRows: no token is used ten times as often by {', '.join(languages[1:])} "
            f"as by {languages[0]} (Lexicon.languages), so no token belongs to another language"
        )
    return own
