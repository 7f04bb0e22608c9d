"""Counts of a recipe's data, as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.codeswitch import build_table
from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.store.store import training_stores
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.data.tokens.words import split_words

COVERAGE_TOKENS = 1_000_000  # running tokens in which the dictionary's words are counted


def texts(corpus: Corpus) -> list[str]:
    """Lines: the vocabulary's size, and the documents and tokens of every text."""
    width = max([len(task) for task in corpus.stores] + [4])
    lines = [f"vocabulary: {corpus.tokenizer.base_size} pieces, {corpus.tokenizer.size} rows"]
    lines.append(
        f"{'task':<{width}} {'split':<11} {'language':<9} {'documents':>10} {'tokens':>12} {'bytes/token':>11}"
    )
    for task, splits in corpus.stores.items():
        for split, languages in splits.items():
            for language, store in languages.items():
                size = store.utf8_bytes.sum() / max(1, len(store.tokens))
                lines.append(
                    f"{task:<{width}} {split:<11} {language:<9} {len(store.offsets) - 1:>10,} {len(store.tokens):>12,} "
                    f"{size:>11.2f}"
                )
    return lines


def words(corpus: Corpus) -> list[str]:
    """Lines about the use of the dictionary, if there is one."""
    return [] if corpus.lexicon is None else corpus.lexicon.summary


def facts(corpus: Corpus) -> list[str]:
    """A line with the number of facts, if there are any."""
    table = corpus.facts
    if table is None:
        return []
    return [f"facts: {len(table.triples):,}, {len(table.tokens):,} tokens with repetitions"]


def packing(feeds: Mapping[str, Any]) -> list[str]:
    """A line for each stream that packs texts: counts of its documents, and how full its rows are."""
    return [
        f"stream {name}: " + ", ".join(f"{what} {count:,}" for what, count in feed.report.items())
        for name, feed in feeds.items()
        if feed.report
    ]


def rates(name: str, feed: Any, steps: Sequence[int]) -> list[str]:
    """A line for each of these steps of a run with the shares of a stream's languages, if they change.

    Args:
      feed: the stream's `training.stages.StepFeed`.
    """
    shares = {step: feed.feed.rates(feed.first_row + (step - feed.first_step) * feed.stride) for step in steps}
    return [
        f"stream {name}, step {step:,}: " + ", ".join(f"{member} {rate:.1%}" for member, rate in found.items())
        for step, found in shares.items()
        if found
    ]


def coverage(corpus: Corpus) -> list[str]:
    """A line: the share of the source language's running words that the dictionary can switch."""
    if corpus.lexicon is None:
        return []
    concepts = corpus.lexicon.train
    language = clone_index(concepts.languages[0])[0]
    table, stores = build_table(concepts, corpus.tokenizer), training_stores(corpus.stores, language)
    if table is None or not stores:
        return [f"coverage of running words (training text of {language}): none"]
    # One row (1, N) of text -> the keys in it -> (N,) bool: tokens that lie in a key.
    base = np.asarray(stores[0].tokens[:COVERAGE_TOKENS])[None].astype(np.int32)
    begins, ordinary = split_words(table.flags.take(base))
    at, n, _ = table.read(base, begins, np.flatnonzero(ordinary), np.zeros(1, np.int64))
    # A key of several words covers all of them.
    covered = np.zeros(base.size, bool)
    covered[ranges(at, n)] = True
    share = int(np.count_nonzero(covered & ordinary[0])) / max(1, int(np.count_nonzero(ordinary)))
    return [f"coverage of running words (training text of {language}): {share:.1%}"]
