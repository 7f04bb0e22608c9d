"""How many pieces a vocabulary needs: grow it until its text hardly becomes more probable (UniBridge, VoCap).

    ALP = mean over lines of sum over a line's tokens of log p(token),   p = the token's share of all tokens

Zheng et al. 2021 (VoCap, arXiv 2109.07306) measure vocabularies by it. UniBridge (Pham et al. 2024, arXiv 2406.09717)
trains larger and larger vocabularies, and keeps the first one that gains less than a threshold over the one before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.store.store import Stores, training_stores
from xalign_jax.data.tokens.segmenter import mark_borders
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary

SAMPLE_BYTES = 4_000_000  # of text, in equal shares of the languages
LEAST_GAIN = 5.0  # nats a line, UniBridge's default


class Size(NamedTuple):
    """A vocabulary that was tried.

    Attributes:
      pieces: its size.
      log_probability: ALP, in nats a line.
      tokens: a line, in the mean.
    """

    pieces: int
    log_probability: float
    tokens: float


def average_log_probability(lines: Sequence[np.ndarray]) -> float:
    """ALP in nats, from the ids (n,) int32 of each line; at least one line has a token."""
    counts = np.bincount(np.concatenate(lines))
    counts = counts[counts > 0].astype(np.float64)
    return float(np.sum(counts * np.log(counts / counts.sum()))) / len(lines)


def tried(texts: Sequence[str], vocabulary: Vocabulary, sizes: Sequence[int], least_gain: float) -> Iterator[Size]:
    """Train vocabularies of rising sizes on texts of a line each, up to the first one that gains less than `least_gain`.

    Args:
      vocabulary: says how; its size does not count.

    Raises:
      UserError: the text is too small for a size.
    """
    before = None
    marked = [mark_borders(text) for text in texts] if vocabulary.words else texts
    for size in sizes:
        model = train_sentencepiece(marked, size, vocabulary.model_type, vocabulary.lowercase, bool(vocabulary.words))
        own = dataclasses.replace(vocabulary, size=size, clones=0, rows=None)
        found = Tokenizer(SentencePieces(model), own).encode(texts)
        now = Size(size, average_log_probability(found), sum(map(len, found)) / len(found))
        yield now
        if before is not None and abs(now.log_probability - before.log_probability) < least_gain:
            return
        before = now


def sample(stores: Stores, tokenizer: Tokenizer) -> list[str]:
    """Training texts as lines, in equal shares of the languages: the first ones of each store, which are shuffled."""
    languages = sorted({language for splits in stores.values() for language in splits.get("train", {})})
    texts = []
    for language in languages:
        own = training_stores(stores, language)
        for store in own:
            # Documents up to the store's share of the bytes.
            last = int(np.searchsorted(np.cumsum(store.utf8_bytes), SAMPLE_BYTES // (len(languages) * len(own)))) + 1
            for begin, end in zip(store.offsets[:last], store.offsets[1 : last + 1], strict=False):
                texts.append(tokenizer.decode(np.asarray(store.tokens[int(begin) : int(end)])))
    return [text for text in texts if text.strip()]


def lines(found: Iterable[Size], least_gain: float) -> Iterator[str]:
    """A line for each size as soon as it is tried, and what the last gain says."""
    yield "pieces  nats a line     gain  tokens a line"
    before, gain, one = None, math.inf, None
    for one in found:
        gain = math.inf if before is None else one.log_probability - before
        shown = "" if before is None else f"{gain:.2f}"
        yield f"{one.pieces:6,} {one.log_probability:12.2f} {shown:>8} {one.tokens:14.2f}"
        before = one.log_probability
    if one is not None and abs(gain) < least_gain:
        yield f"Vocabulary.size = {one.pieces}: the first that gains less than {least_gain:g} nats a line"
    else:
        yield f"every size gains {least_gain:g} nats a line or more: try larger ones, or raise --least_gain"
