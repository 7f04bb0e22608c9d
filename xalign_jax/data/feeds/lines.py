"""Documents made of lines: texts of one group, and parts of two texts in turn. Pure functions of item numbers.

A line is a text, or a part of one, and its eos. A tag such as "en:" may stand before it, as ordinary tokens.
"""

from __future__ import annotations

import copy

import numpy as np

from xalign_jax.data.feeds.items import Items, Numbered
from xalign_jax.data.feeds.pair_items import ExampleItems, PairExamples, rows_by_language
from xalign_jax.data.feeds.pairs import Pairs
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.mixing import Blocks, Epochs
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.words import word_flags

SENTENCE_ENDS = tuple(".!?…。！？।؟۔")


class Tags:
    """The tokens of each language's tag, as one more token array behind the stores'.

    Attributes:
      tokens: the token arrays of the stores, and the tags one after another.
      tasks: the task of each of these arrays; "" for the tags.
      start, size: (L,) int64, where each language's tag lies in the last array.
    """

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer, tag: str) -> None:
        written = tokenizer.encode([tag.replace("{}", language) if tag else "" for language in pairs.languages])
        self.size = np.array([len(ids) for ids in written])
        self.start = np.cumsum(self.size) - self.size
        self.tasks = [*pairs.tasks, ""]
        self.tokens = [*pairs.tokens, np.concatenate(written).astype(np.int32)]


def _documents(
    tags: Tags, pairs: Pairs, document: np.ndarray, start: np.ndarray, size: np.ndarray, cut: np.ndarray,
    named: np.ndarray,
) -> Items:  # fmt: skip
    """Items of lines.

    Args:
      document: (I, K) int64, the document of each line; -1 = no line.
      start, size: (I, K) int64, the part of it, from its beginning; a line of size 0 is left out.
      cut: (I,) int64, as in `Items`.
      named: (I, G) int64, the documents whose groups and texts are named; -1 = none.
    """
    real = (document >= 0) & (size > 0)
    language = np.where(real, pairs.language[document], 0)
    # (I, K) -> (I, 1, 2K): each line is its tag, without an eos, and its text.
    shape = len(document), 1, 2 * document.shape[1]
    spans = [
        np.stack(two, axis=2).reshape(shape)
        for two in (
            (np.full_like(document, len(tags.tokens) - 1), np.where(real, pairs.store[document], 0)),
            (tags.start[language], np.where(real, pairs.start[document] + start, 0)),
            (np.where(real, tags.size[language], 0), np.where(real, size, 0)),
            (language, language),
            (np.zeros_like(document), real.astype(np.int64)),
        )
    ]
    group = np.where(named >= 0, pairs.group[named], -1).astype(np.int32)
    text = np.where(named >= 0, pairs.text[named], 0).astype(np.uint32)
    store, start, size, language, ends = spans
    return Items(store, start, size, language, np.zeros(shape, np.int64), cut, ends, group, text[:, None])


class GroupLines(ExampleItems):
    """Documents of up to `lines` shuffled lines, which are texts of one group in different languages.

    The mixture's rates draw the language of one line. The others are drawn at random from the same group.

    Args:
      pivot: the language of one line; None = any languages.
      side: most tokens of a text; longer texts are cut.
      shuffled: the matched control. Within a block, the lines of a language change places at random, so that lines
        of a document come from different groups. A block holds the same lines as without `shuffled`, and each
        document has the same languages in the same order.
    """

    unit = "documents"
    units = 1

    def __init__(
        self, examples: PairExamples, tags: Tags, pivot: str | None, lines: int, side: int, shuffled: bool, seed: int
    ) -> None:
        super().__init__(examples)
        self._tags, self._lines, self._side, self._seed = tags, lines, side, seed
        self._pivot, self._shuffled = -1 if pivot is None else self.languages.index(pivot), shuffled
        self.tokens, self.tasks = tags.tokens, tags.tasks

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0; the numbers of a whole block, if lines are shuffled."""
        pairs, document = self._examples.pairs, self.draw(number)
        if self._shuffled:
            document = self._exchanged(document, number)
        size = np.where(document >= 0, pairs.size[document], 0)
        cut = np.count_nonzero(size > self._side, axis=1)
        size = np.minimum(size, self._side)
        return _documents(self._tags, pairs, document, np.zeros_like(size), size, cut, document)

    def draw(self, number: np.ndarray) -> np.ndarray:
        """(I, lines) int64: the documents of the lines in their order, before any exchange; -1 behind the last."""
        pairs, first = self._examples.pairs, self._examples.first(number)
        # (N,) all documents of the groups, each with a random key. The drawn document and the pivot's come first.
        owner, document = pairs.mates(pairs.group[first])
        key = hash64(self._seed, "lines", number[owner], document) >> np.uint64(2)
        key = np.where(pairs.language[document] == self._pivot, np.uint64(1), key)
        key = np.where(document == first[owner], np.uint64(0), key)
        order = np.lexsort((key, owner))
        owner, document = owner[order], document[order]
        # Keep the first document of each language, and then the first `lines` of them.
        kept = np.unique(owner * len(pairs.languages) + pairs.language[document], return_index=True)[1]
        kept.sort()
        kept = kept[_rank(owner[kept]) < self._lines]
        owner, document = owner[kept], document[kept]
        # A random order of the lines of each document.
        order = np.lexsort((hash64(self._seed, "order", number[owner], document), owner))
        found = np.full((len(number), self._lines), -1)
        found[owner, _rank(owner)] = document[order]
        return found

    def _exchanged(self, document: np.ndarray, number: np.ndarray) -> np.ndarray:
        """(I, lines): every line goes to another document of the block, in a place of its own language."""
        found, language = document.ravel().copy(), np.where(document >= 0, self._examples.pairs.language[document], -1)
        # (I * lines,) places by language, within a language in a random order: each gives its line to the next one.
        place = np.lexsort((hash64(self._seed, "exchange", number[0], np.arange(found.size)), language.ravel()))
        place = place[language.ravel()[place] >= 0]
        for mine in np.split(place, np.flatnonzero(np.diff(language.ravel()[place])) + 1):
            found[np.roll(mine, -1)] = document.ravel()[mine]
        return found.reshape(document.shape)


def _rank(owner: np.ndarray) -> np.ndarray:
    """(N,) int64: the place of each entry among the entries of its owner; `owner` (N,) is sorted."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)


class Interleaved(Numbered):
    """Two documents of one group in turn: part 1 of both, part 2 of both, and so on (CrossIC-PT).

    A pair that is too long for a row becomes several windows, each with equal shares of both documents. Windows are the
    items. Within a language's epoch, every window of each of its documents comes once.

    Both documents have the same number of parts. So part n of one says about the same as part n of the other, as long
    as translations keep the order of what they say. A part begins behind the end of a sentence where one lies in the
    last half of the part before, or else at a word.

    Args:
      part: tokens of a part, about.
      length: T, tokens of a row.
    """

    unit = "windows"
    units = 1

    def __init__(
        self, pairs: Pairs, tags: Tags, tokenizer: Tokenizer, mixture: Mixture, part: int, length: int, seed: int
    ) -> None:
        self._pairs, self._tags, self._part, self._seed = pairs, tags, part, seed
        self._reach = part // 2
        self.window = room(length, part, int(tags.size.max()), tokenizer)
        # (D,) windows of each document by `by_language`, with the longest text of its group as the partner.
        longest = np.maximum.reduceat(pairs.size, pairs.group_first)[pairs.group]
        self._windows = -(-(pairs.size + longest) // self.window)
        self._first = np.cumsum(np.concatenate([[0], self._windows[pairs.by_language]]))
        # (L + 1,): the first window of each language.
        bounds = self._first[np.cumsum([0, *pairs.per_language])]
        self._sizes = dict(zip(pairs.languages, np.diff(bounds).tolist(), strict=True))
        self.rows = rows_by_language(self._sizes, mixture)
        names = self.rows.names
        language = [pairs.languages.index(name) for name in names]
        key = np.stack([hash64(seed, "language", name) for name in names])
        blocks = Blocks(self.rows.counts, np.arange(len(names)), seed, self.rows.start)
        self._epochs = Epochs(blocks, bounds[:-1][language], np.diff(bounds)[language], key)
        # (base_size,) bool: a piece that ends a sentence, and one that begins a word.
        self._ends = np.array([text.endswith(SENTENCE_ENDS) for text in tokenizer.texts])
        self._begins = word_flags(tokenizer) % 2 > 0
        self.tokens, self.tasks, self.languages = tags.tokens, tags.tasks, pairs.languages
        self.report, self.degrees = pairs.report | {"windows": int(self._first[-1])}, pairs.degrees

    def drawn_by(self, mixture: Mixture) -> Interleaved:
        """A copy that draws the same languages at other rates."""
        other = copy.copy(self)
        other.rows = rows_by_language(self._sizes, mixture)
        other._epochs = self._epochs.with_rows(self.rows.names, other.rows)
        return other

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0."""
        pairs, place = self._pairs, self._epochs.locate(number)
        # (I,): window -> document and number of the window within it. The key of an epoch gives all windows of a
        # document the same partner and the same order.
        index = np.searchsorted(self._first, place.item, side="right") - 1
        document, window = pairs.by_language[index], place.item - self._first[index]
        lot = hash64(place.key, "partner", document)
        both = np.stack([document, pairs.partner(document, lot >> np.uint64(1))], axis=1)
        both = np.where((lot & np.uint64(1) > 0)[:, None], both[:, ::-1], both)
        # (I,) parts of a window: as many as the longer document needs. (I, K + 1) numbers of the cuts of a window.
        windows = self._windows[document]
        parts = np.maximum(1, -(-pairs.size[both].max(1) // (windows * self._part)))
        step = np.minimum(np.arange(parts.max() + 1), parts[:, None])
        # (I, 2, K + 1) cuts -> (I, K, 2) parts -> (I, 2K) lines.
        cuts = self._cuts(both, (window * parts)[:, None] + step, windows * parts)
        lines = [np.repeat(both, parts.max(), axis=1).reshape(len(both), 2, -1), cuts[:, :, :-1], np.diff(cuts)]
        lines = [column.transpose(0, 2, 1).reshape(len(both), -1) for column in lines]
        of, start, size = lines
        return _documents(self._tags, pairs, of, start, size, np.zeros(len(both), np.int64), both)

    def _cuts(self, document: np.ndarray, cut: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Where documents (I, 2) are cut: (I, 2, C) int64, from their beginning.

        Args:
          cut: (I, C) int64, numbers of cuts, from 0 to `parts`, which is (I,).
        """
        size = self._pairs.size[document]
        at = size[:, :, None] * cut[:, None] // parts[:, None, None]
        inner = np.flatnonzero((at > 0) & (at < size[:, :, None]))
        owner, where = document.ravel()[inner // cut.shape[1]], at.ravel()[inner]
        # (N, reach + 1) tokens up to each cut -> (N, reach) bool: a cut before the token at `place` is before a word,
        # or behind a sentence as well.
        place = where[:, None] + np.arange(-self._reach, 1)
        tokens = self._read(owner, np.maximum(place, 0))
        place = place[:, 1:]
        words = self._begins[tokens[:, 1:]] & (place > 0)
        ends = self._ends[tokens[:, :-1]] & words
        # The last sentence end, or else the last beginning of a word, or else the place itself.
        nearest = np.where(ends.any(1), _last(ends), _last(words))
        at.ravel()[inner] = place[np.arange(len(inner)), nearest]
        return at

    def _read(self, document: np.ndarray, place: np.ndarray) -> np.ndarray:
        """(N, n) int64 base ids at places (N, n) of documents (N,), which may reach to their eos."""
        found, store = np.empty(place.shape, np.int64), self._pairs.store[document]
        for name in np.unique(store).tolist():
            mine = store == name
            found[mine] = self.tokens[name][self._pairs.start[document[mine]][:, None] + place[mine]]
        return found


def _last(flags: np.ndarray) -> np.ndarray:
    """(N,) int64: the last column of flags (N, n) that is True; n - 1 where none is."""
    return flags.shape[1] - 1 - np.argmax(flags[:, ::-1], axis=1)


def room(length: int, part: int, tag: int, tokenizer: Tokenizer) -> int:
    """The tokens of both texts that a window of `length` tokens holds, whatever the ends of sentences.

    Both texts may begin part // 2 tokens earlier. Each part takes an eos and a tag, and parts stand in twos.
    """
    bos = tokenizer.bos is not None
    return int((length - bos - 2 * (part // 2) - 2 * (1 + tag)) // (1 + 2 * (1 + tag) / part))
