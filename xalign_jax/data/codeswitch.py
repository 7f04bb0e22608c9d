"""Input-only code-switching on token arrays (PreAlign, Li et al. 2024, stage 2).

Words of a row are drawn with probability `rate`; a drawn word that the table knows is replaced, in the input, by one
of its translations. Targets stay original: the span's first target is the original word's first token, the rest of
the span weighs 0, so no target is ever a switched token (unless `vanilla`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import numpy as np

from xalign_jax.data.hashing import draw32, hash64
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.data.lexicon import Concepts
    from xalign_jax.data.vocabulary import Tokenizer

_FOLLOWER, _START, _STANDALONE = 0, 1, 3


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Switch:
    """How a window feed switches words.

    Attributes:
      rate: probability that a word is drawn; the effective rate is this times the table's coverage of the words.
      vanilla: targets are switched as well (what the paper argues against).
      both_ways: words of the other languages are also switched into the source language.
    """

    rate: float = 0.05
    vanilla: bool = False
    both_ways: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, 1]", "rate")


def word_flags(tokenizer: Tokenizer) -> np.ndarray:
    """(base_size,) uint8: 1 = begins a word, 3 = a word of its own (specials, punctuation), 0 = goes on with a word."""
    return np.where(tokenizer.standalone, _STANDALONE, tokenizer.word_start.astype(np.uint8)).astype(np.uint8)


def split_words(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Word borders of token rows.

    Args:
      flags: (B, L) uint8, `word_flags` of the tokens.
    Returns:
      begins (B, L) bool: a word or a standalone token begins here (also whatever follows a standalone token);
      ordinary (B, L) bool: those of them that are not standalone.
    """
    begins = flags & 1
    begins[:, 1:] |= flags[:, :-1] >> 1
    return begins.view(bool), begins > (flags >> 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """Words and their translations. Keys are looked up by a hash that is unique among them, then compared exactly.

    Attributes:
      flags: (base_size,) uint8, see `word_flags`.
      factors: (n + 1,) uint64 odd multipliers of the n key columns and the language: hash = their sum of products.
      hashes: (K,) uint64, sorted.   keys: (K, n) int32 base ids, -1 = none.   key_language: (K,) int32.
      choices: (K + 1,) int64, key -> its target languages; translations: (G + 1,) int64, target language -> words.
      word: (X,) int64 translation -> row of `starts`;  starts: (W + 1,) int64;  ids: (n,) int32 clone ids applied.
      shrink: mean tokens that a switched word of a key loses (0 when it gains).
    """

    flags: np.ndarray
    factors: np.ndarray
    hashes: np.ndarray
    keys: np.ndarray
    key_language: np.ndarray
    choices: np.ndarray
    translations: np.ndarray
    word: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    shrink: float

    def slack(self, length: int, rate: float) -> int:
        """Tokens to read beyond a window so that switching rarely leaves it short (mean + 6 sd of the loss)."""
        mean = length * rate * self.shrink
        return min(length, int(np.ceil(mean + 6 * np.sqrt(mean * max(1.0, self.shrink)))))

    def find(self, words: np.ndarray, language: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Args: words (C, n) int32 padded with -1; language (C,). Returns: key (C,) int64, found (C,) bool."""
        key = np.searchsorted(self.hashes, hash_words(words, language, self.factors))
        np.minimum(key, len(self.hashes) - 1, out=key)
        found = (self.keys[key] == words).all(axis=1) & (self.key_language[key] == language)
        return key, found


def hash_words(words: np.ndarray, language: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multilinear hash (C,) uint64 of words (C, n) padded with -1 and their language (C,); factors (n + 1,)."""
    with np.errstate(over="ignore"):
        return words.astype(np.uint64) @ factors[:-1] + language.astype(np.uint64) * factors[-1]


Senses = dict[int, set[int]]  # target language -> words of the concept table
Key = tuple[int, tuple[int, ...]]  # language, base ids


def build_table(concepts: Concepts, tokenizer: Tokenizer, both_ways: bool = False) -> Table | None:
    """The switching table of a concept table; its language 0 is the source. None if no word has a translation.

    A word is looked up as its exact tokens; failing that, in the casings (lower, Capitalised, UPPER) of a word with
    the same case-folded spelling.
    """
    entries: dict[Key, Senses] = {}
    folded: dict[tuple[int, str], Senses] = {}
    bounds = np.searchsorted(concepts.concept, np.unique(concepts.concept))
    for group in np.split(np.arange(len(concepts.concept)), bounds[1:]):
        for source in group:
            language = int(concepts.language[source])
            targets = [w for w in group if (concepts.language[w] == 0) != (language == 0)]
            if not targets or (language and not both_ways):
                continue
            exact = tuple(tokenizer.unclone(concepts.tokens(source)).tolist())
            spelling = tokenizer.decode(np.array(exact, np.int32)).strip().casefold()
            for senses in (
                entries.setdefault((language, exact), {}),
                folded.setdefault((language, spelling), {}),
            ):
                for word in targets:
                    senses.setdefault(int(concepts.language[word]), set()).add(int(word))
    shrink = _mean_loss(entries, np.diff(concepts.starts))
    for (language, spelling), senses in folded.items():
        casings = sorted({spelling, spelling.capitalize(), spelling.title(), spelling.upper()})
        for ids in tokenizer.encode_words(casings):
            entries.setdefault((language, tuple(ids.tolist())), senses)
    entries = {key: senses for key, senses in entries.items() if key[1]}
    return _pack_table(entries, concepts, word_flags(tokenizer), shrink) if entries else None


def _mean_loss(entries: dict[Key, Senses], size: np.ndarray) -> float:
    """Mean over words of the tokens that switching takes away, where it takes some; `size` (W,) of the translations."""
    loss = [len(ids) - size[list(words)].mean() for (_, ids), senses in entries.items() for words in senses.values()]
    return float(np.maximum(loss, 0).mean()) if loss else 0.0


def _pack_table(entries: dict[Key, Senses], concepts: Concepts, flags: np.ndarray, shrink: float) -> Table:
    items = sorted(entries.items())
    width = max(len(ids) for (_, ids), _ in items)
    keys = np.full((len(items), width), -1, np.int32)
    for row, ((_, ids), _) in enumerate(items):
        keys[row, : len(ids)] = ids
    language = np.array([language for (language, _), _ in items], np.int32)
    hashes = np.zeros(len(items), np.uint64)
    salt = 0
    while len(np.unique(hashes)) < len(items) or not salt:
        salt += 1
        factors = hash64("table", salt, np.arange(width + 1)) | np.uint64(1)
        hashes = hash_words(keys, language, factors)
    order = np.argsort(hashes)
    choices, translations, word = [0], [0], []
    for index in order:
        senses = items[index][1]
        for target in sorted(senses):
            word += sorted(senses[target])
            translations.append(len(word))
        choices.append(len(translations) - 1)
    return Table(
        flags=flags,
        factors=factors,
        hashes=hashes[order],
        keys=keys[order],
        key_language=language[order],
        choices=np.array(choices, np.int64),
        translations=np.array(translations, np.int64),
        word=np.array(word, np.int64),
        starts=concepts.starts,
        ids=concepts.ids,
        shrink=shrink,
    )


@dataclasses.dataclass(frozen=True)
class Spans:
    """Words to switch, in row order. All arrays (C,): row, column and length n in the read tokens; the translation's
    first index in `Table.ids` and length m; column of the span in the output."""

    row: np.ndarray
    column: np.ndarray
    n: np.ndarray
    first: np.ndarray
    m: np.ndarray
    out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Switched:
    """Rows after switching, unshifted: position t of `labels` is what the input at t - 1 predicts.

    tokens, labels (B, T) int32; weights (B, T) float32; length (B,) int64 tokens that are there, the rest is filled;
    words, drawn, switched, clipped, filled (B,) int32: ordinary words that begin and end within the read tokens and
    begin in the first T; those drawn; spans replaced; original tokens pushed out; positions filled.
    """

    tokens: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    length: np.ndarray
    words: np.ndarray
    drawn: np.ndarray
    switched: np.ndarray
    clipped: np.ndarray
    filled: np.ndarray


COUNTS = ("words", "drawn", "switched", "clipped", "filled")


def unswitched(tokens: np.ndarray) -> Switched:
    """Rows as they are: (B, T) int32 tokens, all of them there."""
    zeros = np.zeros(len(tokens), np.int32)
    length = np.full(len(tokens), tokens.shape[1])
    return Switched(tokens, tokens, np.ones(tokens.shape, np.float32), length, **dict.fromkeys(COUNTS, zeros))


def switch(
    base: np.ndarray, tokens: np.ndarray, valid: np.ndarray, keys: np.ndarray, language: np.ndarray,
    *, table: Table, config: Switch, length: int, pad: int,
) -> Switched:  # fmt: skip
    """Switches words of rows of L = length + slack read tokens and cuts to `length`.

    Args:
      base: (B, L) base ids; past `valid` (B,) they must be standalone.   tokens: (B, L) int32 the row language's ids.
      keys: (B,) uint64 keys of the draws.   language: (B,) index of the row's language in the table, -1 = not switched.
      config: with a rate above 0.
    """
    begins, ordinary = split_words(table.flags.take(base))
    ordinary &= (language >= 0)[:, None]
    last = base.shape[1] - 1 - np.argmax(begins[:, ::-1], axis=1)
    limit = np.uint32(np.ceil(config.rate * 2.0**32) - 1)
    drawn = draw32((keys >> np.uint64(32)).astype(np.uint32), base.shape[1]) <= limit
    drawn &= ordinary
    row, column = np.divmod(np.flatnonzero(drawn), base.shape[1])
    whole = column < last[row]
    row, column = row[whole], column[whole]
    n, words = read_words(base, begins, row, column, table.keys.shape[1])
    key, found = table.find(words, language[row])
    spans = _choose(row[found], column[found], n[found], key[found], keys, table, length)
    cut = (last < length) & ordinary[np.arange(len(base)), last]
    counts = {
        "words": (np.count_nonzero(ordinary[:, :length], axis=1) - cut).astype(np.int32),
        "drawn": np.bincount(row[column < length], minlength=len(base)).astype(np.int32),
    }
    return _replace(tokens, valid, spans, table, config.vanilla, length, pad, counts)


def read_words(
    base: np.ndarray, begins: np.ndarray, row: np.ndarray, column: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (C,) and ids (C, width), padded with -1, of the words that begin at (row, column); too long: all -1."""
    size = base.shape[1]
    start = (row * size + column)[:, None]
    ahead = np.arange(1, width + 1)
    ends = begins.ravel().take(start + ahead, mode="clip") & (column[:, None] + ahead < size)
    n = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, 0)
    words = base.ravel().take(start + ahead - 1, mode="clip").astype(np.int32)
    words[ahead > n[:, None]] = -1
    return n, words


def _choose(
    row: np.ndarray,
    column: np.ndarray,
    n: np.ndarray,
    key: np.ndarray,
    keys: np.ndarray,
    table: Table,
    length: int,
) -> Spans:
    """Picks a target language, then one of its translations, both uniformly; drops spans that `length` would cut."""
    draw = hash64(keys[row], "choice", column)
    group = _pick(table.choices, key, draw >> np.uint64(32))
    word = table.word[_pick(table.translations, group, draw & np.uint64(0xFFFFFFFF))]
    first = table.starts[word]
    m = table.starts[word + 1] - first
    shift = np.concatenate([[0], np.cumsum(m - n)])
    out = column + shift[:-1] - shift[np.searchsorted(row, row)]
    kept = out + m <= length
    return Spans(row[kept], column[kept], n[kept], first[kept], m[kept], out[kept])


def _pick(starts: np.ndarray, index: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A uniform element of range(starts[index], starts[index + 1]) by a 32-bit draw."""
    count = (starts[index + 1] - starts[index]).astype(np.uint64)
    return starts[index] + (draw * count >> np.uint64(32)).astype(np.int64)


def _replace(
    tokens: np.ndarray,
    valid: np.ndarray,
    spans: Spans,
    table: Table,
    vanilla: bool,
    length: int,
    pad: int,
    counts: dict,
) -> Switched:
    rows = len(tokens)
    growth = np.bincount(spans.row, weights=spans.m - spans.n, minlength=rows).astype(np.int64)
    own = spans.column < length
    clipped = np.bincount(spans.row[own], weights=(spans.m - spans.n)[own], minlength=rows).astype(np.int32)
    result = tokens.take(_sources(tokens.shape, spans, length), mode="clip")
    labels, weights = result.copy(), np.ones((rows, length), np.float32)
    before = np.cumsum(spans.m) - spans.m
    step = np.arange(spans.m.sum())
    place = np.repeat(spans.row * length + spans.out - before, spans.m) + step
    result.ravel()[place] = table.ids[np.repeat(spans.first - before, spans.m) + step]
    if vanilla:
        labels = result.copy()
    else:
        rest = np.delete(place, before)
        labels.ravel()[rest], weights.ravel()[rest] = pad, 0.0
    there = np.minimum(valid + growth, length)
    for row in np.flatnonzero(there < length):
        for array in (result, labels, weights):
            array[row, there[row] :] = 0 if array is weights else pad
    return Switched(
        result, labels, weights, there, **counts,
        switched=np.bincount(spans.row, minlength=rows).astype(np.int32),
        clipped=np.maximum(clipped, 0), filled=(length - there).astype(np.int32),
    )  # fmt: skip


def _sources(shape: tuple[int, int], spans: Spans, length: int) -> np.ndarray:
    """(B, length) int64 index into the flat read tokens that each output position copies (spans: overwritten later)."""
    rows, size = shape
    step = np.ones((rows, length), np.int64)
    end = spans.out + spans.m
    inside = end < length
    loss = (spans.n - spans.m)[inside]
    step[spans.row[inside], end[inside]] += loss
    lost = np.bincount(spans.row[inside], weights=loss, minlength=rows).astype(np.int64)
    step[1:, 0] = size - (length - 1) - lost[:-1]
    step[0, 0] = 0
    return np.cumsum(step.ravel()).reshape(rows, length)
