"""The feed of gold links: sentence pairs with one word marked, packed as segments into rows of one shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import gin
import numpy as np

from xalign_jax.data.feeds.packing import Batch, blank, largest, pack
from xalign_jax.data.sampling.hashing import hash64, permute
from xalign_jax.data.text.linked import Gold, Pair, count_pairs, read_gold, read_pairs
from xalign_jax.data.tokens.marked import Both, MarkedRow, Marking, WordEncoder, words_to_mark
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batches, Feed
from xalign_jax.recipe import at_least_one, freeze, one_of, resolve, with_paths

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.sampling.mixture import Mixture

_SAMPLE = 8  # steps that are packed at build, to find how many marked words a step holds
_FIELDS = ("tokens", "positions", "segment_ids", "token_language", "linked")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MarkedFeed(Feed):
    """Sentence pairs with gold links. Each word of either side is marked once in an epoch (`data.tokens.marked`).

    It reads three files, as `xalign align --gold` does: line n of each belongs together.

    Attributes:
      length: T, tokens of a row; a pair whose marked row is longer is left out and counted.
      source, target: files of sentences.
      links: file of gold links, "2-3" sure and "2p3" possible.
      base: the number of a sentence's first word in `links`; None = 0, and a file that seems to count from 1 is refused.
      possible: possible links count as links; False = their tokens are not judged.
      words: "spaces" or "icu", where words end.
      marker: the sign before and after the marked word.
    """

    length: int = gin.REQUIRED
    source: str = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(resolve))
    target: str = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(resolve))
    links: str = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(resolve))
    base: int | None = None
    possible: bool = False
    words: str = "spaces"
    marker: str = "¶"

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length")
        if self.base not in (None, 0, 1):
            raise UserError(f"MarkedFeed.base = {self.base}: 0 or 1, the number of a sentence's first word")
        one_of(self, "words", ("spaces", "icu"))

    def own_files(self) -> Mapping[str, str]:
        """The three files."""
        return {name: resolve(getattr(self, name)) for name in ("source", "target", "links")}

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Read the files once, before anything is prepared.

        Raises:
          UserError: naming file and line, as `read_gold`; no link is sure; or the stream has a mixture.
        """
        if mixture is not None:
            raise UserError("Stream.mixture: a MarkedFeed reads MarkedFeed.source, .target and .links; bind no Mixture")
        # A sum reads all lines, and so finds every mistake.
        if not sum(len(gold.sure) + self.possible * len(gold.possible) for _, gold in self._read()):
            raise UserError(f"{self.links}: no sure link there, so nothing can be learned")

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> MarkedRows:
        """The feed over the files; no split but "train" exists.

        Raises:
          UserError: as `check`; or the vocabulary has no token for the marker, or no pair fits into a row.
        """
        pairs, gold = zip(*self._read(), strict=True)
        both = WordEncoder(corpus.tokenizer, self.words == "spaces").encode(pairs)
        marking = Marking(corpus.tokenizer, self.marker, "MarkedFeed.marker")
        return MarkedRows(self, both, gold, marking, rows, int(hash64(seed, "MarkedFeed")), corpus.tokenizer.pad or 0)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        batch = {name: blank((rows, self.length), np.int32) for name in _FIELDS}
        return batch | {name: blank((rows,), np.int32) for name in ("count_words", "count_dropped")}

    def _read(self) -> Iterator[tuple[Pair, Gold]]:
        source, target, links = self.own_files().values()
        count_pairs(source, target)
        return read_gold(links, read_pairs(source, target, self.words), self.base, "MarkedFeed.base")


class MarkedRows(Batches):
    """Epochs over all marked words, each in a new order. An epoch leaves out words that do not fill its last step."""

    languages = ("source", "target")

    def __init__(
        self, config: MarkedFeed, pairs: Sequence[Both], gold: Sequence[Gold], marking: Marking, rows: int, seed: int,
        pad: int,
    ) -> None:  # fmt: skip
        self.length = config.length
        self._pairs, self._gold, self._possible, self._marking = pairs, gold, config.possible, marking
        self._rows, self._seed, self._pad = rows, seed, pad
        # (E,3) pair, side and word of each example, and (E,) tokens of its row.
        every = words_to_mark(pairs)
        lengths = np.array([sum(len(side.tokens) for side in both) for both in pairs], np.int64)
        sizes = lengths[every[:, 0]] + marking.frame
        fits = sizes <= self.length
        self._examples, self._sizes = every[fits], sizes[fits]
        if not len(self._sizes):
            raise UserError(
                f"MarkedFeed.length = {self.length}: the shortest row with a marked word has "
                f"{sizes.min(initial=0)} tokens; raise it"
            )
        long = len(np.unique(every[~fits, 0]))
        self._count = max(1, largest(self._all_fit, len(self._sizes)))
        self.report = {"pairs": len(pairs), "too long": long, "words": len(self._sizes), "words a step": self._count}

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the step that begins at `first_row`.

        Returns:
          tokens, positions, segment_ids: (R,T) int32; a segment is one marked row, and 0 is padding.
          token_language: (R,T) int32, 0 = a token of the source file's line, with its specials and markers, 1 = of the
            target file's, -1 at padding.
          linked: (R,T) int32 on the translation of the marked word's sentence: 1 = the token's word is linked with the
            marked word, 0 = it is not; -1 = the link is only possible. -1 at all other tokens.
          count_words: (R,) int32, marked words packed in the row.
          count_dropped: (R,) int32, marked words of the step that did not fit; row 0 has them all.
        """
        chosen = self._chosen(first_row // self._rows, self._count)
        row, slot, place = self._packed(chosen)
        batch: Batch = {name: np.zeros((self._rows, self.length), np.int32) for name in _FIELDS}
        batch["tokens"][:], batch["linked"][:], batch["token_language"][:] = self._pad, -1, -1
        kept = row < self._rows
        for example, at, number, begin in zip(chosen[kept], row[kept], slot[kept], place[kept, 0], strict=True):
            pair, side, word = self._examples[example].tolist()
            made = self._marking.row(self._pairs[pair], side, word)
            here = at, slice(begin, begin + len(made.tokens))
            batch["tokens"][here], batch["segment_ids"][here] = made.tokens, number + 1
            batch["positions"][here] = np.arange(len(made.tokens))
            second = np.arange(len(made.tokens)) >= np.argmax(made.words >= 0)
            batch["token_language"][here] = np.where(second, 1 - side, side)
            batch["linked"][here] = self._labels(made, self._gold[pair], side, word)
        batch["count_words"] = np.bincount(row[kept], minlength=self._rows).astype(np.int32)
        batch["count_dropped"] = np.zeros(self._rows, np.int32)
        batch["count_dropped"][0] = np.count_nonzero(~kept)
        return {key: array[row_slice] for key, array in batch.items()}

    def _labels(self, made: MarkedRow, gold: Gold, side: int, word: int) -> np.ndarray:
        """(n,) int32: `linked` of a marked row."""
        sure, possible = (
            [link[1 - side] for link in links if link[side] == word] for links in (gold.sure, gold.possible)
        )
        labels = np.where(np.isin(made.words, possible), 1 if self._possible else -1, np.minimum(made.words, 0))
        return np.where(np.isin(made.words, sure), 1, labels)

    def _chosen(self, step: int, count: int) -> np.ndarray:
        """(count,) int64: the examples of a step."""
        total = len(self._sizes)
        epoch, index = divmod(step, total // count)
        return permute(index * count + np.arange(count), total, hash64(self._seed, "words", epoch)).astype(np.int64)

    def _packed(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return pack(self._sizes[chosen, None], self.length, self.length)

    def _all_fit(self, count: int) -> bool:
        """Whether so many examples fit into a step's rows, in some sampled steps."""
        return all(self._packed(self._chosen(step, count))[0].max() < self._rows for step in range(_SAMPLE))
