"""A corpus of five languages, whose groups have texts in two to five of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from fakes import FakeTokenizer, make_store

from xalign_jax.data.corpus import Corpus

EOS = 1
LANGUAGES = ("cs", "de", "en", "fr", "hu")


def store_of(language: str, groups: np.ndarray, seed: int, most: int = 9):
    """Texts of word tokens: w = words of the language with a final stop."""
    rng = np.random.default_rng(seed)
    texts = [np.append(rng.integers(20, 240, rng.integers(4, most)), 5) for _ in groups]
    tokens = np.concatenate([np.append(text, EOS) for text in texts]).astype(np.uint16)
    hashes = rng.integers(1, 2**32, len(groups), dtype=np.uint32)
    return dataclasses.replace(make_store(tokens, language), group=groups.astype(np.int32), text_hash=hashes, task="a")


def make_corpus(most: int = 9) -> Corpus:
    """600 groups: all in English and German, 1/2 in French, 1/3 in Czech, 1/6 in Hungarian."""
    tokenizer = FakeTokenizer([f"▁w{i}" for i in range(240)] + [f"▁{name}:" for name in LANGUAGES])
    groups = np.arange(600)
    part = {"en": groups, "de": groups, "fr": groups[::2], "cs": groups[::3], "hu": groups[::6]}
    stores = {name: store_of(name, part[name], i, most) for i, name in enumerate(LANGUAGES)}
    return Corpus(tokenizer, {"a": {"train": stores}}, None, None)
