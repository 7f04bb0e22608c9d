"""A tokenizer of listed pieces, stores of listed texts, and small files of text."""

from __future__ import annotations

import gzip
import zlib

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.store.store import Store
from xalign_jax.data.tokens.segmenter import is_unspaced
from xalign_jax.data.tokens.vocabulary import Vocabulary

SPECIALS = ("<pad>", "</s>", "<unk>", "<s>", "<mask>")


class FakeTokenizer:
    """Greedy longest match over the pieces; a space becomes "▁"; specials shared by the clones."""

    pad, eos, unk, bos, mask = range(5)
    vocabulary = Vocabulary(kind="bytes")

    def __init__(self, pieces: list[str], clones: int = 0, punctuation: str = ".,()") -> None:
        self.pieces = [*SPECIALS, *punctuation, *pieces]
        self.base_size, self.clones = len(self.pieces), clones
        self.size = -(-(clones + 1) * self.base_size // 128) * 128
        self.standalone = np.arange(self.base_size) < len(SPECIALS) + len(punctuation)
        self.word_start = self.standalone | np.array([piece.startswith("▁") for piece in self.pieces])
        self.texts = [piece.lstrip("▁") for piece in self.pieces]
        self.names, self.special = self.pieces, np.arange(self.size) % self.base_size < len(SPECIALS)
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}

    def _encode(self, text: str, before: str = "▁") -> np.ndarray:
        text, ids = before + " ".join(text.split()).replace(" ", "▁"), []
        while text and text != "▁":
            sizes = [n for n in range(min(12, len(text)), 0, -1) if text[:n] in self._ids]
            if not sizes and text[0] == "▁":
                text = text[1:]
                continue
            ids.append(self._ids[text[: sizes[0]]] if sizes else self.unk)
            text = text[sizes[0] if sizes else 1 :]
        return np.array(ids, np.int32)

    def encode(self, texts):
        return [self._encode(text) for text in texts]

    def encode_words(self, words, spaced=False):
        return [self._encode(word, "▁" if spaced or not is_unspaced(word) else "") for word in words]

    def decode(self, ids) -> str:
        return "".join(self.pieces[i] for i in self.unclone(ids).tolist() if i >= 5).replace("▁", " ").strip()

    def clone(self, ids, k):
        ids = np.asarray(ids, np.int32)
        return np.where(ids < len(SPECIALS), ids, ids + np.int32(self.base_size) * np.asarray(k, np.int32))

    @property
    def clone_table(self):
        return np.stack([self.clone(np.arange(self.base_size), k) for k in range(self.clones + 1)])

    def unclone(self, ids):
        return (np.asarray(ids) % self.base_size).astype(np.int32)


def make_store(tokens: np.ndarray, language: str = "en", split: str = "train", eos: int = 1) -> Store:
    ends = np.flatnonzero(tokens == eos) + 1
    count = len(ends)
    return Store(
        tokens=tokens,
        offsets=np.concatenate([[0], ends]),
        group=np.full(count, -1, np.int32),
        text_hash=np.zeros(count, np.uint32),
        utf8_bytes=np.ones(count, np.int32),
        language=language,
        task="texts",
        split=split,
        fingerprint="",
    )


def prepare(tokenizer, texts: dict[str, np.ndarray], lexicon=None, facts=None) -> Corpus:
    stores = {"texts": {"train": {language: make_store(tokens, language) for language, tokens in texts.items()}}}
    return Corpus(tokenizer, stores, lexicon, facts)


def checksum(batch: dict[str, np.ndarray]) -> int:
    """A number that any other value, dtype or shape of a batch's arrays changes."""
    parts = [f"{name} {array.dtype} {array.shape} {array.tolist()}" for name, array in sorted(batch.items())]
    return zlib.crc32("\n".join(parts).encode())


def write(path, text):
    """Write a text file, compressed if its name ends with .gz; returns the path as a string."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)
