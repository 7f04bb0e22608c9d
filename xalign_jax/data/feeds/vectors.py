"""The feed of words with static vectors: each row holds as many words as it has slots, and the vector of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gin
import numpy as np

from xalign_jax.data.feeds.packing import Batch, blank
from xalign_jax.data.lexicon.vectors import common_width, read_vectors
from xalign_jax.data.sampling.hashing import hash64, permute
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batches, Feed
from xalign_jax.recipe import at_least_one, freeze, resolve, with_paths

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.sampling.mixture import Mixture
    from xalign_jax.data.tokens.tokenizer import Tokenizer

FRAME = 2  # bos and eos


def _located(files: tuple) -> tuple:
    """(language, path) pairs with absolute paths."""
    return tuple((language, resolve(path)) for language, path in files)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class VectorFeed(Feed):
    """Words that stand alone, "bos word eos", with a static vector of length 1 each. Every word comes once in an epoch.

    Attributes:
      files: a word2vec text file of each language, {"en": "en.vec", "de": "de.vec"}, in one space.
      words_per_row: S.
      side: most tokens of a word; longer ones are left out and counted.
      most: the first words of each file that are read, which are the most frequent ones.
    """

    files: tuple = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(_located))
    words_per_row: int = 16
    side: int = 6
    most: int = 200_000

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "words_per_row", "side", "most")
        named = all(
            isinstance(one, tuple) and len(one) == 2 and all(isinstance(s, str) for s in one) for one in self.files
        )
        if not self.files or not named:
            raise UserError(f'VectorFeed.files = {self.files!r}: expected {{"en": "en.vec", "de": "de.vec"}}')

    @property
    def length(self) -> int:  # type: ignore[override]
        """T: a slot has room for the longest word and its specials."""
        return self.words_per_row * (self.side + FRAME)

    def own_files(self) -> Mapping[str, str]:
        """The files of vectors."""
        return {f"files[{language!r}]": resolve(path) for language, path in self.files}

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Read the first line of each file.

        Raises:
          UserError: a file is missing, or the files have vectors of different widths.
        """
        self._width()

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> VectorRows:
        """The feed over the files' words. No mixture is read and no split but "train" exists.

        Raises:
          UserError: a file is missing or damaged, or no word of a language has few enough tokens.
        """
        return VectorRows(self, corpus.tokenizer, int(hash64(seed, "VectorFeed")))

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without words. The width comes from the files' first lines."""
        names = ("tokens", "positions", "segment_ids")
        batch = {name: blank((rows, self.length), np.int32) for name in names}
        batch["token_language"] = np.full((rows, self.length), -1, np.int32)
        return batch | {"vector": blank((rows, self.words_per_row, self._width()), np.float32)}

    def _width(self) -> int:
        return common_width("VectorFeed.files", [*self.own_files().values()])


class VectorRows(Batches):
    """Rows of `VectorFeed`. Epochs go over all words of all languages, each in a new order."""

    def __init__(self, config: VectorFeed, tokenizer: Tokenizer, seed: int) -> None:
        self.length, self.languages = config.length, tuple(language for language, _ in config.files)
        self._slots, self._seed, self._pad = config.words_per_row, seed, tokenizer.pad or 0
        before, after = tokenizer.framing(causal=False)
        ids: list[list[int]] = []
        vectors: list[np.ndarray] = []
        language: list[np.ndarray] = []
        report: dict[str, int] = {}
        for number, (name, path) in enumerate(zip(self.languages, config.own_files().values(), strict=True)):
            read = read_vectors(path, config.most)
            found = tokenizer.encode_words(read.words)
            fits = np.array([0 < len(own) <= config.side for own in found], bool)
            if not fits.any():
                raise UserError(f"VectorFeed.side = {config.side}: no word of {path} has so few tokens")
            ids += [[*before, *own.tolist(), *after] for own, fit in zip(found, fits, strict=True) if fit]
            vectors.append(read.vectors[fits])
            language.append(np.full(int(fits.sum()), number, np.int32))
            report |= {f"words {name}": int(fits.sum()), f"left out {name}": int((~fits).sum())}
        self.report = report
        # (N,) words: a slot's tokens (N,W) padded with -1, unit vectors (N,D), languages.
        room = config.side + FRAME
        self._ids = np.array([own + [-1] * (room - len(own)) for own in ids], np.int32)
        joined = np.concatenate(vectors)
        self._vectors = joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
        self._language = np.concatenate(language)

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` from `first_row` on.

        Returns:
          tokens, positions, segment_ids, token_language: (R,T) int32; segment s is slot s - 1, 0 is padding, and the
            language of padding is -1.
          vector: (R,S,D) float32, of length 1.
        """
        rows = first_row + np.arange(row_slice.start, row_slice.stop)
        # (R,S) items -> epoch and place in its order -> words.
        item = rows[:, None] * self._slots + np.arange(self._slots)
        count = len(self._ids)
        epoch, index = np.divmod(item, count)
        word = np.empty_like(item)
        for one in np.unique(epoch):
            own = epoch == one
            word[own] = permute(index[own], count, hash64(self._seed, "epoch", int(one)))
        ids = self._ids[word]  # (R,S,W)
        real, shape = ids >= 0, (len(rows), self.length)
        slot, place = np.arange(1, self._slots + 1)[:, None], np.arange(ids.shape[2])
        return {
            "tokens": np.where(real, ids, self._pad).reshape(shape).astype(np.int32),
            "positions": np.where(real, place, 0).reshape(shape).astype(np.int32),
            "segment_ids": np.where(real, slot, 0).reshape(shape).astype(np.int32),
            "token_language": np.where(real, self._language[word][..., None], -1).reshape(shape).astype(np.int32),
            "vector": self._vectors[word],
        }
