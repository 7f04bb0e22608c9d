"""A synthetic text, vocabulary and dictionary with the shapes of real ones. The store is the only file."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.lexicon.lexicon import LexiconTable, Word, concept_table
from xalign_jax.data.store.store import Store
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary

# Ids in this order: specials, punctuation, pieces that start a word, and pieces inside words.
PIECES, STARTS, SPECIALS, PUNCTUATION = 8192, 4000, 5, 40
TYPES = 20_000


class SyntheticTokenizer:
    """Ids only: specials, punctuation, word starts, then pieces that continue a word. Texts are ids as digits."""

    pad, eos, unk, bos, mask = range(SPECIALS)
    base_size, clones, size = PIECES, 1, 2 * PIECES
    vocabulary = Vocabulary(clones=1)
    standalone = np.arange(PIECES) < SPECIALS + PUNCTUATION
    texts = ("",) * PIECES
    word_start = np.arange(PIECES) < SPECIALS + PUNCTUATION + STARTS

    @property
    def clone_table(self) -> np.ndarray:
        return np.stack([self.clone(np.arange(PIECES), k) for k in range(self.clones + 1)])

    def encode(self, texts) -> list[np.ndarray]:
        return [np.full(min(2, len(text)), SPECIALS + PUNCTUATION, np.int32) for text in texts]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))

    def encode_words(self, words, spaced=False) -> list[np.ndarray]:
        return [np.array(word.split(), np.int32) for word in words]

    def clone(self, ids, k):
        ids = np.asarray(ids, np.int32)
        return np.where(ids < SPECIALS, ids, ids + np.int32(PIECES) * np.asarray(k, np.int32))

    def unclone(self, ids):
        return (np.asarray(ids) % PIECES).astype(np.int32)


def word_types(rng: np.random.Generator) -> np.ndarray:
    """(TYPES, 4) ids, padded with -1: 60 % of the types have 1 token, the others 2 to 4."""
    first = rng.integers(SPECIALS + PUNCTUATION, SPECIALS + PUNCTUATION + STARTS, TYPES)
    rest = rng.integers(SPECIALS + PUNCTUATION + STARTS, PIECES, (TYPES, 3))
    size = rng.choice(4, TYPES, p=(0.6, 0.2, 0.1, 0.1))
    types = np.concatenate([first[:, None], np.where(np.arange(3) < size[:, None], rest, -1)], axis=1)
    return np.unique(types, axis=0)


def text_of(types: np.ndarray, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Roughly Zipfian words, punctuation after one in eight, a document's end after one in 300; `tokens` uint16 ids."""
    weights = 1 / (np.arange(len(types)) + 10)
    words = rng.choice(len(types), tokens // 2, p=weights / weights.sum())
    # (words, 5): up to four tokens, and a place for what follows the word; -1 is nothing.
    rows = np.concatenate([types[words], np.full((len(words), 1), -1)], axis=1)
    chance = rng.random(len(words))
    rows[chance < 0.125, -1] = SPECIALS + 1
    rows[chance < 1 / 300, -1] = SyntheticTokenizer.eos
    text = rows.ravel()
    return np.append(text[text >= 0][: tokens - 1], SyntheticTokenizer.eos).astype(np.uint16)


def synthetic(tokens: int, folder: Path) -> Corpus:
    """Data of one language, "en", with its text memory-mapped from `folder`. Each type translates to another type."""
    rng, tokenizer = np.random.default_rng(0), SyntheticTokenizer()
    # Types in random order, so that frequency does not go with the number of tokens.
    types = rng.permutation(word_types(rng))
    np.save(folder / "tokens.npy", text_of(types, tokens, rng))
    text = np.load(folder / "tokens.npy", mmap_mode="r")
    words = []
    for concept, target in enumerate(rng.permutation(len(types)).tolist()):
        for language, ids in ((0, types[concept]), (1, tokenizer.clone(types[target][types[target] >= 0], 1))):
            plain = tuple(ids[ids >= 0].tolist())
            words.append(Word(concept, language, plain, " ".join(map(str, plain))))
    table = concept_table(words, ("en", "en_clone"))
    none = np.zeros(0, np.int64)
    store = Store(text, none, none, none, none, language="en", task="text", split="train", fingerprint="")
    lexicon = LexiconTable(table, table, concept_table([], table.languages), {})
    return Corpus(cast(Tokenizer, tokenizer), {"text": {"train": {"en": store}}}, lexicon, None)
