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

from xalign_jax.data.sampling.hashing import draw32, hash64
from xalign_jax.data.tokens.words import Key, Keys, make_keys, split_words, word_flags
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.data.lexicon.lexicon import Concepts
    from xalign_jax.data.tokens.vocabulary import Tokenizer


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


@dataclasses.dataclass(frozen=True)
class Table(Keys):
    """Words and their translations.

    Attributes:
      choices: (K + 1,) int64, key -> its target languages; translations: (G + 1,) int64, target language -> words.
      word: (X,) int64 translation -> row of `starts`;  starts: (W + 1,) int64;  ids: (n,) int32 clone ids applied.
      shrink: mean tokens that a switched word of a key loses (0 when it gains).
    """

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


Senses = dict[int, set[int]]  # target language -> words of the concept table


def build_table(concepts: Concepts, tokenizer: Tokenizer, both_ways: bool = False) -> Table | None:
    """The switching table of a concept table; its language 0 is the source. None if no word has a translation.

    A word is looked up as its exact tokens; failing that, in the casings (lower, Capitalised, UPPER) of a word with
    the same case-folded spelling, and after a space where its script has none.
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
        for ids in (*tokenizer.encode_words(casings), *tokenizer.encode_words(casings, spaced=True)):
            entries.setdefault((language, tuple(ids.tolist())), senses)
    entries = {key: senses for key, senses in entries.items() if key[1]}
    return _pack_table(entries, concepts, word_flags(tokenizer), shrink) if entries else None


def _mean_loss(entries: dict[Key, Senses], size: np.ndarray) -> float:
    """Mean over words of the tokens that switching takes away, where it takes some; `size` (W,) of the translations."""
    loss = [len(ids) - size[list(words)].mean() for (_, ids), senses in entries.items() for words in senses.values()]
    return float(np.maximum(loss, 0).mean()) if loss else 0.0


def _pack_table(entries: dict[Key, Senses], concepts: Concepts, flags: np.ndarray, shrink: float) -> Table:
    items = sorted(entries.items())
    keys, order = make_keys([key for key, _ in items], flags)
    choices, translations, word = [0], [0], []
    for index in order:
        senses = items[index][1]
        for target in sorted(senses):
            word += sorted(senses[target])
            translations.append(len(word))
        choices.append(len(translations) - 1)
    return Table(
        **vars(keys),
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
    at = np.flatnonzero(drawn)
    row, column = np.divmod(at, base.shape[1])
    whole = column < last[row]
    at, n, key = table.read(base, begins, at[whole], language)
    spans = _choose(*np.divmod(at, base.shape[1]), n, key, keys, table, length)
    cut = (last < length) & ordinary[np.arange(len(base)), last]
    counts = {
        "words": (np.count_nonzero(ordinary[:, :length], axis=1) - cut).astype(np.int32),
        "drawn": np.bincount(row[whole & (column < length)], minlength=len(base)).astype(np.int32),
    }
    return _replace(tokens, valid, spans, table, config.vanilla, length, pad, counts)


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
