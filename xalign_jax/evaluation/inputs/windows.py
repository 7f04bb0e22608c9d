"""Evaluation windows: consecutive, without code-switching, the same for a language and its clones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.store.store import Store
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_name
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import Batch, fingerprint


def consecutive(store: Store, tokenizer: Tokenizer, length: int, count: int, first: int = 0) -> Batch:
    """Windows first .. first+count-1 of a store: window w predicts the stored tokens w*length .. (w+1)*length - 1.

    Returns:
      tokens, targets, positions, segment_ids: (N, length) int32. N <= count where the text ends.
      weights: (N, length) float32; 0 where nothing is predicted. The input of a document's first target is bos. Without
        bos that target has weight 0.
      bytes: (N,) float64, the UTF-8 bytes of the text that the weights count. Part of a document counts in part.
    Attention stays within documents.
    """
    # (N, 1) + (length,) -> (N, length): the place of each target in the store. Places past the end become the last
    # token, and their weight is 0.
    total = len(store.tokens)
    starts = np.arange(first, min(first + count, -(-total // length)), dtype=np.int64) * length
    at = starts[:, None] + np.arange(length)
    real = at < total
    at = np.minimum(at, total - 1)
    # (N, length): the document of each target, and whether the target is its document's first token.
    document = np.searchsorted(store.offsets, at, side="right") - 1
    begins = at == store.offsets[document]
    bos = 0 if tokenizer.bos is None else tokenizer.bos
    weights = real & ~begins if tokenizer.bos is None else real
    # A document's bytes are shared out evenly over its tokens.
    size = np.diff(store.offsets)[document]
    share = np.asarray(store.utf8_bytes, np.float64)[document] / np.maximum(size, 1)
    # Positions count from the document's start, or from the window's start if the document begins before the window.
    # Segments number the documents of a window from 1.
    since = np.maximum(store.offsets[document], at[:, :1])
    return {
        "tokens": np.where(real, np.where(begins, bos, store.tokens[np.maximum(at - 1, 0)]), 0).astype(np.int32),
        "targets": np.where(real, store.tokens[at], 0).astype(np.int32),
        "positions": np.where(real, at - since, 0).astype(np.int32),
        "segment_ids": np.where(real, document - document[:, :1] + 1, 0).astype(np.int32),
        "weights": weights.astype(np.float32),
        "bytes": (share * weights).sum(1),
    }


def in_language(windows: Batch, tokenizer: Tokenizer, clone: int) -> Batch:
    """The same windows written in clone number `clone` of their language."""
    written = {key: tokenizer.clone(windows[key], clone).astype(np.int32) for key in ("tokens", "targets")}
    return windows | written


@dataclasses.dataclass(frozen=True)
class Text:
    """One language's text in a split: the stores of its base language, and the clone it is written as."""

    language: str
    base: str
    clone: int
    stores: tuple[Store, ...]

    @property
    def fingerprint(self) -> str:
        """Identifies the texts, however they are tokenised; a clone's are its base language's."""
        return fingerprint(*(store.text_hash for store in self.stores))


def run_texts(corpus: CorpusView, split: str, tasks: Sequence[str] = ()) -> list[Text]:
    """`known_texts`, of which there must be some.

    Raises:
      UserError: there is none, or a task is not the run's.
    """
    found = known_texts(corpus, split, tasks)
    if not found:
        where = ", ".join(tasks or corpus.stores) or "the run, which has no texts: bind probes that read files"
        raise UserError(f"probes: no text in the {split} split of {where}")
    return found


def known_texts(corpus: CorpusView, split: str, tasks: Sequence[str] = ()) -> list[Text]:
    """Every language with text in a split of the run's tasks (all of them, or the named ones), clones after their base.

    The dictionary's source language comes first.

    Raises:
      UserError: a task is not the run's.
    """
    for task in tasks:
        if task not in corpus.stores:
            raise UserError(f"probes: the run has no task {task!r}; its tasks are {', '.join(corpus.stores)}")
    # base language -> its stores, one for each task, where there is any text.
    found: dict[str, list[Store]] = {}
    for task in tasks or corpus.stores:
        for language, store in corpus.stores[task].get(split, {}).items():
            if len(store.tokens):
                found.setdefault(language, []).append(store)
    # The order of languages is the order of rows. Clones follow their base.
    first = None if corpus.lexicon is None else corpus.lexicon.languages[0]
    bases = sorted(found, key=lambda language: language != first)
    clones = range(corpus.tokenizer.clones + 1)
    return [Text(clone_name(base, k), base, k, tuple(found[base])) for base in bases for k in clones]


def _shares(text: Text, count: int) -> list[tuple[Store, int]]:
    """(store, its share of `count`) for each store of a text, as even as whole numbers allow."""
    each, more = divmod(count, len(text.stores))
    return [(store, each + (number < more)) for number, store in enumerate(text.stores)]


def documents(text: Text, tokenizer: Tokenizer, count: int, end: bool = False) -> list[np.ndarray]:
    """Up to `count` documents of a text in its own language, shared evenly over its stores. `end` as in `of_text`."""
    found = []
    for store, share in _shares(text, count):
        total = len(store.offsets) - 1
        first = max(0, total - share) if end else 0
        for d in range(first, min(first + share, total)):
            tokens = np.asarray(store.tokens[store.offsets[d] : store.offsets[d + 1]], np.int32)
            found.append(tokenizer.clone(tokens, text.clone))
    return found


def of_text(text: Text, tokenizer: Tokenizer, length: int, count: int, end: bool = False) -> Batch:
    """Up to `count` windows of a text in its own language, shared evenly over its stores.

    `end`: take the last windows of each store and not its first, for fitting means on other text than is scored.
    """
    parts = []
    for store, share in _shares(text, count):
        # The number of windows, rounded up, less this store's share.
        first = max(0, -(-len(store.tokens) // length) - share) if end else 0
        parts.append(consecutive(store, tokenizer, length, share, first))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return in_language(joined, tokenizer, text.clone)


def clone_pairs(found: list[Text]) -> list[tuple[Text, Text]]:
    """(base language, its clone) for every clone."""
    bases = {text.base: text for text in found if text.clone == 0}
    return [(bases[text.base], text) for text in found if text.clone]
