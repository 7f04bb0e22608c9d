"""The words feed: dictionary concepts with all their words, packed as segments into rows of one shape."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import numpy as np

from xalign_jax.data.feeds.packing import Batch, blank, pack
from xalign_jax.data.lexicon.subword_pairs import with_pieces
from xalign_jax.data.sampling.hashing import hash64, permute
from xalign_jax.data.token_ties import own_tokens
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batches, Feed
from xalign_jax.recipe import at_least_one, freeze

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.lexicon.lexicon import Concepts
    from xalign_jax.data.sampling.mixture import Mixture


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordFeed(Feed):
    """Words for a contrast (PreAlign, stage 1): a step takes `concepts` concepts of the training lexicon.

    Attributes:
      length: T, tokens of a row.   words_per_row: S, words of a row at most.   concepts: concepts of a step.
    """

    length: int = gin.REQUIRED
    words_per_row: int = gin.REQUIRED
    concepts: int = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "words_per_row", "concepts")

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        if not lexicon:
            raise UserError(f"{type(self).__name__} needs Recipe.lexicon")

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> Words:
        """The feed over the lexicon's training table; no mixture is read and no split but "train" exists.

        Raises:
          UserError: there is no lexicon, it has too few training concepts for a step, or a word is longer than a row.
        """
        name = type(self).__name__
        if corpus.lexicon is None:
            raise UserError(f"{name} needs Recipe.lexicon")
        # A step's concepts must be distinct, and every word must fit into a row by itself.
        table = self.table(corpus.lexicon.train)
        count = len(np.unique(table.concept))
        if self.concepts > count:
            raise UserError(f"{name}.concepts = {self.concepts}: the lexicon has {count} training concepts")
        if (longest := int(np.diff(table.starts).max())) > self.length:
            raise UserError(f"{name}.length = {self.length}: the longest word takes {longest} tokens")
        return Words(self, table, own_tokens(corpus, table.languages), rows, seed, corpus.tokenizer.pad or 0)

    def table(self, lexicon: Concepts) -> Concepts:
        """The words that are fed, from the lexicon's training table."""
        return lexicon

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without words, where only shapes matter."""
        batch = {
            n: blank((rows, self.length), np.int32)
            for n in ("tokens", "targets", "positions", "segment_ids", "own_tokens")
        }
        batch["weights"] = blank((rows, self.length), np.float32)
        kinds = {"concept": np.int32, "language": np.int32, "text_hash": np.uint32}
        batch |= {name: blank((rows, self.words_per_row), dtype) for name, dtype in kinds.items()}
        return batch | {name: blank((rows,), np.int32) for name in ("count_words", "count_dropped")}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PieceFeed(WordFeed):
    """A WordFeed that also feeds pieces of words which translate each other (`subword_pairs.with_pieces`)."""

    def table(self, lexicon: Concepts) -> Concepts:
        """The training table, and its pairs of pieces as further concepts."""
        return with_pieces(lexicon)


class Words(Batches):
    """Epochs over the concepts, each in a new order. An epoch leaves out concepts that do not fill its last step."""

    def __init__(self, config: WordFeed, table: Concepts, own: np.ndarray, rows: int, seed: int, pad: int) -> None:
        self.length = config.length
        self.languages = table.languages
        # The table is sorted by concept: `_bounds` (C + 1,) has the first word of each concept, and the end.
        self._config, self._table, self._own, self._rows, self._seed, self._pad = config, table, own, rows, seed, pad
        self._bounds = np.append(np.unique(table.concept, return_index=True)[1], len(table.concept))

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the step that begins at `first_row`.

        Returns:
          tokens, positions: (R, T) int32.
          segment_ids: (R, T) int32, segment s is word slot s - 1; 0 is padding.
          targets: (R, T) int32, the next token of the same word; weights: (R, T) float32, 0 at a word's last token.
          own_tokens: (R, T) int32, 1 for tokens that belong to the language of their word (`token_ties.own_tokens`).
          concept: (R, S) int32, -1 for free slots.
          language: (R, S) int32 index into `languages`.
          text_hash: (R, S) uint32.
          count_words: (R,) int32, words packed in the row.
          count_dropped: (R,) int32, words of the step that did not fit; row 0 has them all.
        """
        # (W,) words of the step -> row, slot and place of each; words beyond the last row are dropped.
        word = self._chosen(first_row // self._rows)
        sizes = np.diff(self._table.starts)[word, None]
        row, slot, place = pack(sizes, self._config.length, self._config.words_per_row, longest_first=False)
        fits = row < self._rows
        batch = self._fill(word[fits], row[fits], slot[fits], place[fits, 0])
        batch["count_dropped"][0] = np.count_nonzero(~fits)
        return {key: array[row_slice] for key, array in batch.items()}

    def _chosen(self, step: int) -> np.ndarray:
        """(W,) int64: the words of a step's concepts, as rows of the table."""
        concepts = len(self._bounds) - 1
        # Step -> epoch and place in its order of concepts -> concepts -> all their words.
        epoch, index = divmod(step, concepts // self._config.concepts)
        order = index * self._config.concepts + np.arange(self._config.concepts)
        chosen = permute(order, concepts, hash64(self._seed, "concepts", epoch))
        return np.concatenate([np.arange(self._bounds[c], self._bounds[c + 1]) for c in chosen])

    def _fill(self, word: np.ndarray, row: np.ndarray, slot: np.ndarray, place: np.ndarray) -> Batch:
        """All rows of a step. `word`, `row`, `slot` and `place` are (W,): the packed words and where they lie."""
        table, (R, T, S) = self._table, (self._rows, self._config.length, self._config.words_per_row)
        # (W,) words -> (N,) tokens of all words: number within the word, flat place in the rows, id.
        first = table.starts[word]
        size = table.starts[word + 1] - first
        before = np.cumsum(size) - size
        inside = np.arange(size.sum()) - np.repeat(before, size)
        at = np.repeat(row * T + place, size) + inside
        ids = table.ids[np.repeat(first, size) + inside]
        # Empty rows (R, T), then the (N,) values at their places.
        batch: Batch = {key: np.zeros((R, T), np.int32) for key in ("positions", "segment_ids", "own_tokens")}
        batch |= {key: np.full((R, T), self._pad, np.int32) for key in ("tokens", "targets")}
        batch["weights"] = np.zeros((R, T), np.float32)
        goes_on = inside + 1 < np.repeat(size, size)
        for key, values in (
            ("tokens", ids),
            ("positions", inside),
            ("segment_ids", np.repeat(slot + 1, size)),
            ("own_tokens", self._own[np.repeat(table.language[word], size), ids]),
        ):
            batch[key].ravel()[at] = values
        # Each token but a word's last predicts the next one.
        batch["targets"].ravel()[at[goes_on]] = ids[np.flatnonzero(goes_on) + 1]
        batch["weights"].ravel()[at[goes_on]] = 1.0
        # (W,) columns of the table -> (R, S) by row and slot.
        for key, absent in (("concept", -1), ("language", 0), ("text_hash", 0)):
            values = getattr(table, key)
            batch[key] = np.full((R, S), absent, values.dtype)
            batch[key][row, slot] = values[word]
        batch["count_words"] = np.bincount(row, minlength=R).astype(np.int32)
        batch["count_dropped"] = np.zeros(R, np.int32)
        return batch
