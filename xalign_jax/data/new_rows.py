"""Rows for tokens that a model has never seen: each row of the new table is a weighted mean of some old rows."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from xalign_jax.data.lexicon.lexicon import LexiconTable
from xalign_jax.data.lexicon.vectors import WordVectors
from xalign_jax.data.similar_rows import Blend, similar_rows
from xalign_jax.data.tokens.pieces import SPECIALS
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError

WAYS = ("mean", "copy", "aligned", "similar")


@dataclasses.dataclass(frozen=True)
class RowSources:
    """Row i of the new table is a weighted mean of the old rows ids[starts[i]:starts[i + 1]].

    If a row has no ids, it is the mean of all ordinary old rows.

    Attributes:
      ids: (n,) int32, old rows.
      weights: (n,) float32; those of a new row sum to 1.
      starts: (new rows + 1,) int64.
      ordinary: (old rows,) bool, rows that text reads.
      kept: number of ordinary new rows that are an old row.
      made: number of other ordinary new rows that have ids.
    """

    ids: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    ordinary: np.ndarray
    kept: int
    made: int


def check_way(how: str, lexicon: bool, words: bool) -> None:
    """Raise UserError as `row_sources` does. `lexicon` and `words` say whether the recipe has them."""
    if how not in WAYS:
        raise UserError(f"Recipe.new_rows = {how!r}: one of {', '.join(WAYS)}")
    if how == "aligned" and not lexicon:
        raise UserError('Recipe.new_rows = "aligned" reads Recipe.lexicon, which is not bound')
    if how == "similar" and not words:
        raise UserError('Recipe.new_rows = "similar" reads Recipe.row_vectors, which is not bound')


def row_sources(
    old: Tokenizer, new: Tokenizer, how: str, lexicon: LexiconTable | None = None, words: WordVectors | None = None
) -> RowSources | None:
    """The old rows that the rows of `new`'s table are made of; None if both vocabularies are the same.

    A token that the old vocabulary has (the same piece in the same clone, or the same special) keeps its row. For other
    tokens, `how` decides:
      "mean": the mean of all ordinary rows.
      "copy": a clone gets the row of its original, a new piece the mean of the old pieces that spell it.
      "aligned": a token that occurs in words of the lexicon's training table gets the mean over the pieces of their
        translations into the first language.
      "similar": a token that occurs in `words` gets the row of an old token, or a mixture of several (`similar_rows`).
    If these give no rows, the token gets the mean of all ordinary rows.

    Raises:
      UserError: `how` is none of these, or it is "aligned" and there is no lexicon, or "similar" and there are no words.
    """
    check_way(how, lexicon is not None, words is not None)
    # With the same vocabulary and number of rows, the table needs no new rows.
    if old.fingerprint == new.fingerprint and old.size == new.size:
        return None
    known = _known(old, new)
    made: Mapping[int, Blend] = {}
    if how == "copy":
        made = _alike(_copied(old, new, known))
    elif how == "aligned" and lexicon is not None:
        made = _alike(_aligned(lexicon, old, known))
    elif how == "similar" and words is not None:
        made = similar_rows(old, new, known, words)
    # A known row comes from one old row, a made one from some, and any other from all (an empty list).
    rows = [[(known[i], 1.0)] if i in known else made.get(i, []) for i in range(new.size)]
    ordinary = np.flatnonzero(~new.special).tolist()
    kept = sum(i in known for i in ordinary)
    return RowSources(
        ids=np.array([i for row in rows for i, _ in row], np.int32),
        weights=np.array([weight for row in rows for _, weight in row], np.float32),
        starts=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        ordinary=~old.special,
        kept=kept,
        made=sum(bool(rows[i]) for i in ordinary) - kept,
    )


def _alike(made: Mapping[int, list[int]]) -> dict[int, Blend]:
    """Mixtures to which all old rows of a list contribute alike."""
    return {i: [(row, 1 / len(found)) for row in found] for i, found in made.items()}


def _known(old: Tokenizer, new: Tokenizer) -> dict[int, int]:
    """New row -> old row, for the tokens that both vocabularies have."""
    # The same base pieces match by number. Otherwise match the specials by role, then pieces by name and by spelling.
    if old.base_fingerprint == new.base_fingerprint:
        pairs = [(i, i) for i in range(new.base_size)]
    else:
        roles = {name: (getattr(old, name), getattr(new, name)) for name in SPECIALS}
        pairs = [(b, a) for a, b in roles.values() if a is not None and b is not None]
        for keys in (_names, _spellings):  # match by exact name first, then by spelling
            done = {b for b, _ in pairs}
            places = {key: i for i, key in keys(old)}
            pairs += [(i, places[key]) for i, key in keys(new) if key in places and i not in done]
    return {
        # Clones match their own clone. From the last to the first, so that ids which clones share end with the base
        # row.
        int(new.clone(np.int32(b), k)): int(old.clone(np.int32(a), k))
        for k in range(min(old.clones, new.clones), -1, -1)
        for b, a in pairs
    }


def _names(tokenizer: Tokenizer) -> list[tuple[int, str]]:
    """(piece, name) of the base pieces that occur in text and have a name."""
    names = enumerate(tokenizer.names)
    return [(i, name) for i, name in names if name and not tokenizer.special[i]]


def _spellings(tokenizer: Tokenizer) -> list[tuple[int, tuple[bool, str]]]:
    """(piece, (begins a word, spelling)) of the base pieces that occur in text and have a spelling."""
    found = enumerate(zip(tokenizer.word_start.tolist(), tokenizer.texts, strict=True))
    return [(i, key) for i, key in found if key[1] and not tokenizer.special[i]]


def _copied(old: Tokenizer, new: Tokenizer, known: dict[int, int]) -> dict[int, list[int]]:
    """New row -> old rows, by "copy", for rows that are not in `known`."""
    # Base pieces: the old vocabulary encodes their spelling. Then the clones: the row or rows of their base piece.
    spelt = [i for i in range(new.base_size) if i not in known and new.texts[i]]
    made = {}
    for i, ids in zip(spelt, old.encode_words([new.texts[i] for i in spelt]), strict=True):
        made[i] = [int(j) for j in ids if not old.special[j]]
    for k in range(1, new.clones + 1):
        for i in range(new.base_size):
            row = int(new.clone(np.int32(i), k))
            if row not in known:
                made.setdefault(row, [known[i]] if i in known else made.get(i, []))
    return made


def _aligned(lexicon: LexiconTable, old: Tokenizer, known: dict[int, int]) -> dict[int, list[int]]:
    """New row -> old rows, by "aligned", for rows that are not in `known`."""
    table = lexicon.train
    # Concept -> old ids of its words in the first language; then every token of the concept's other words gets them.
    firsts = np.flatnonzero(table.language == 0).tolist()
    sources: dict[int, list[int]] = defaultdict(list)
    for word, ids in zip(firsts, old.encode_words([table.words[word] for word in firsts]), strict=True):
        sources[int(table.concept[word])] += [int(i) for i in ids if not old.special[i]]
    made: dict[int, list[int]] = defaultdict(list)
    for word in np.flatnonzero(table.language > 0).tolist():
        for i in table.tokens(word).tolist():
            if i not in known:
                made[i] += sources[int(table.concept[word])]
    return made
