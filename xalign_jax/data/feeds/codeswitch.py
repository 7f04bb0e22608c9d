"""Input-only code-switching on token arrays (PreAlign, Li et al. 2024, stage 2).

Each word of a row is drawn with probability `rate`. A drawn word that the table holds is replaced in the input by one
of its translations. Targets stay original: the span's first target is the original word's first token, and the rest of
the span has weight 0. So no target is ever a switched token, except with `vanilla`.
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
    from xalign_jax.data.tokens.tokenizer import Tokenizer


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Switch:
    """How a window feed switches words.

    Attributes:
      rate: probability that a word is drawn. The effective rate is this times the share of words that the table holds.
      vanilla: True also switches the targets; the paper argues against it.
      both_ways: True also switches words of the other languages into the source language.
    """

    rate: float = 0.05
    vanilla: bool = False
    both_ways: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, 1]", "rate")


@dataclasses.dataclass(frozen=True)
class Table(Keys):
    """K keys (the words that can be switched) and their translations, as ranges into flat arrays.

    Attributes:
      choices: (K + 1,) int64, key k has the groups choices[k] to choices[k + 1] - 1, one for each target language.
      translations: (G + 1,) int64, group g has the entries translations[g] to translations[g + 1] - 1 of `word`.
      word: (X,) int64, rows of `starts`.
      starts: (W + 1,) int64, translation w has the tokens ids[starts[w]:starts[w + 1]].
      ids: (n,) int32, tokens as the translation's language (or clone) writes them.
      shrink: mean number of tokens that a key's word loses when it is switched; a gain counts as 0.
    """

    choices: np.ndarray
    translations: np.ndarray
    word: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    shrink: float

    def slack(self, length: int, rate: float) -> int:
        """Tokens to read beyond a window of `length`, so that switching rarely leaves it short."""
        # The loss is taken as a compound Poisson variable: its mean plus six standard deviations.
        mean = length * rate * self.shrink
        return min(length, int(np.ceil(mean + 6 * np.sqrt(mean * max(1.0, self.shrink)))))


Senses = dict[int, set[int]]  # target language -> word numbers of the concept table


def build_table(concepts: Concepts, tokenizer: Tokenizer, both_ways: bool = False) -> Table | None:
    """The switching table of a concept table, whose language 0 is the source. None if no word has a translation.

    A word of a text is looked up by its exact tokens. If they are no key, other casings (lower, Capitalised, UPPER) of
    a key with the same case-folded spelling count, and for scripts without spaces the word after a space.
    """
    entries: dict[Key, Senses] = {}
    folded: dict[tuple[int, str], Senses] = {}
    # The table is sorted by concept: (W,) word numbers -> one array of words for each concept.
    bounds = np.searchsorted(concepts.concept, np.unique(concepts.concept))
    for group in np.split(np.arange(len(concepts.concept)), bounds[1:]):
        for source in group:
            # A source word goes to all other languages; a word of another language goes to the source alone.
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
    # Add the other casings. `setdefault` keeps an exact key, so casings never replace one.
    for (language, spelling), senses in folded.items():
        casings = sorted({spelling, spelling.capitalize(), spelling.title(), spelling.upper()})
        for ids in (*tokenizer.encode_words(casings), *tokenizer.encode_words(casings, spaced=True)):
            entries.setdefault((language, tuple(ids.tolist())), senses)
    entries = {key: senses for key, senses in entries.items() if key[1]}
    return _pack_table(entries, concepts, word_flags(tokenizer), shrink) if entries else None


def _mean_loss(entries: dict[Key, Senses], size: np.ndarray) -> float:
    """Mean number of tokens that a key's word loses by switching; a gain counts as 0.

    Args:
      size: (W,) int64, tokens of each word of the concept table.
    """
    loss = [len(ids) - size[list(words)].mean() for (_, ids), senses in entries.items() for words in senses.values()]
    return float(np.maximum(loss, 0).mean()) if loss else 0.0


def _pack_table(entries: dict[Key, Senses], concepts: Concepts, flags: np.ndarray, shrink: float) -> Table:
    items = sorted(entries.items())
    keys, order = make_keys([key for key, _ in items], flags)
    # Flatten key -> target languages -> words into two levels of ranges, keys in the order of their hashes.
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
    """C words to switch, sorted by row and column.

    Attributes:
      row, column: (C,) int64, where the word begins in the tokens that were read.
      n: (C,) int64, tokens of the word.
      first, m: (C,) int64, the translation is Table.ids[first:first + m].
      out: (C,) int64, the column where the translation begins in the output.
    """

    row: np.ndarray
    column: np.ndarray
    n: np.ndarray
    first: np.ndarray
    m: np.ndarray
    out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Switched:
    """Rows after switching, not yet shifted: the input at position t - 1 predicts position t of `labels`.

    Attributes:
      tokens, labels: (B, T) int32.
      weights: (B, T) float32.
      length: (B,) int64, positions that hold text; the rest is filled.
      words: (B,) int32, ordinary words that begin in the first T read tokens and end within the read tokens.
      drawn: (B,) int32, how many of these words were drawn.
      switched: (B,) int32, words that were replaced.
      clipped: (B,) int32, original tokens that longer translations pushed out of the row.
      filled: (B,) int32, positions that are filled.
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
    """The result for rows (B, T) int32 in which no word is switched and no position is filled."""
    zeros = np.zeros(len(tokens), np.int32)
    length = np.full(len(tokens), tokens.shape[1])
    return Switched(tokens, tokens, np.ones(tokens.shape, np.float32), length, **dict.fromkeys(COUNTS, zeros))


def switch(
    base: np.ndarray, tokens: np.ndarray, valid: np.ndarray, keys: np.ndarray, language: np.ndarray,
    *, table: Table, config: Switch, length: int, pad: int, starts: np.ndarray | None = None,
) -> Switched:  # fmt: skip
    """Switches words of rows of L = length + slack read tokens, and cuts the rows to `length`.

    Args:
      base: (B, L) base ids; from `valid` on they must be standalone.
      tokens: (B, L) int32, the same tokens as the row's language (or clone) writes them.
      valid: (B,) int64, tokens that the store has for the row.
      keys: (B,) uint64 keys of the random draws.
      language: (B,) int64 index of the row's language in the table; -1 = no word of the row is switched.
      config: its rate is above 0.
      pad: the id that fills positions.
      starts: (B, L) bool, the tokens that begin words; None if the vocabulary alone tells.
    """
    # (B,L) bool: where words begin, and which of these words can be drawn.
    begins, ordinary = split_words(table.flags.take(base), starts)
    ordinary &= (language >= 0)[:, None]
    # (B,): where the last word begins. It may go on past the read tokens, so it is never switched.
    last = base.shape[1] - 1 - np.argmax(begins[:, ::-1], axis=1)
    # (B,L): a word is drawn if the uint32 of its first token lies below `rate` of the range.
    limit = np.uint32(np.ceil(config.rate * 2.0**32) - 1)
    drawn = draw32((keys >> np.uint64(32)).astype(np.uint32), base.shape[1]) <= limit
    drawn &= ordinary
    # (B,L) bool -> (D,) flat places of drawn words -> those whose key is in the table, with its n tokens.
    at = np.flatnonzero(drawn)
    row, column = np.divmod(at, base.shape[1])
    whole = column < last[row]
    at, n, key = table.read(base, begins, at[whole], language)
    spans = _choose(*np.divmod(at, base.shape[1]), n, key, keys, table, length)
    # (B,) bool: the last word begins in the first `length` tokens; it is not counted, because it may be cut.
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
    """Picks a translation for each of C words, and drops the words whose translation `length` would cut.

    A target language is drawn uniformly, then one of the translations into it. All arrays are (C,), except `keys` (B,).
    """
    # One 64-bit draw for each word: the upper half picks the language, the lower half the translation.
    draw = hash64(keys[row], "choice", column)
    group = _pick(table.choices, key, draw >> np.uint64(32))
    word = table.word[_pick(table.translations, group, draw & np.uint64(0xFFFFFFFF))]
    first = table.starts[word]
    m = table.starts[word + 1] - first
    # A word moves by the growth of the words before it in its row: the running sum less its value at the row's first.
    shift = np.concatenate([[0], np.cumsum(m - n)])
    out = column + shift[:-1] - shift[np.searchsorted(row, row)]
    kept = out + m <= length
    return Spans(row[kept], column[kept], n[kept], first[kept], m[kept], out[kept])


def _pick(starts: np.ndarray, index: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """(C,) int64: a uniform element of range(starts[index], starts[index + 1]), by (C,) draws of 32 bits."""
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
    """The rows with their spans replaced.

    Args:
      tokens: (B, L) int32.   valid: (B,) int64.   counts: "words" and "drawn" of `Switched`.
    """
    rows = len(tokens)
    # (B,): tokens that each row gains, and tokens that spans of the window itself push out of it.
    growth = np.bincount(spans.row, weights=spans.m - spans.n, minlength=rows).astype(np.int64)
    own = spans.column < length
    clipped = np.bincount(spans.row[own], weights=(spans.m - spans.n)[own], minlength=rows).astype(np.int32)
    # (B,L) -> (B,length): every token at its new place; the places of translations hold anything.
    result = tokens.take(_sources(tokens.shape, spans, length), mode="clip")
    labels, weights = result.copy(), np.ones((rows, length), np.float32)
    # (C,) spans -> (sum of m,) flat places in the output, and the translations' tokens in the same order.
    before = np.cumsum(spans.m) - spans.m
    step = np.arange(spans.m.sum())
    place = np.repeat(spans.row * length + spans.out - before, spans.m) + step
    result.ravel()[place] = table.ids[np.repeat(spans.first - before, spans.m) + step]
    if vanilla:
        labels = result.copy()
    else:  # a span's first label stays the original word's first token; its other labels do not count
        rest = np.delete(place, before)
        labels.ravel()[rest], weights.ravel()[rest] = pad, 0.0
    # (B,): positions that hold text. Few rows are short, so they are filled one by one.
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
    """(B, length) int64: the flat index in the read tokens (B, L) that each output position copies.

    Positions of translations hold indices too; the caller overwrites what they copy.
    """
    rows, size = shape
    # Sources are a running sum of steps. Within a row a step is 1; after a span it also skips what the span lost.
    step = np.ones((rows, length), np.int64)
    end = spans.out + spans.m
    inside = end < length
    loss = (spans.n - spans.m)[inside]
    step[spans.row[inside], end[inside]] += loss
    # The step into the next row's first token undoes the steps and the losses of the row before.
    lost = np.bincount(spans.row[inside], weights=loss, minlength=rows).astype(np.int64)
    step[1:, 0] = size - (length - 1) - lost[:-1]
    step[0, 0] = 0
    return np.cumsum(step.ravel()).reshape(rows, length)
