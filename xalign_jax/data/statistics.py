"""Counts of a recipe's data: as numbers, and as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.codeswitch import build_table
from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.lexicon.entries import REASONS
from xalign_jax.data.lexicon.lexicon import LexiconTable
from xalign_jax.data.store.store import BORDERS, Store, training_stores
from xalign_jax.data.text.fields import RANGES
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.data.tokens.words import split_words, word_flags
from xalign_jax.interfaces import Batches

SAMPLE_TOKENS = 1_000_000  # running tokens of a text in which words are counted
_NAMES = 8  # labels or names of ranges that are shown


class TextCount(NamedTuple):
    """One language of one task in one split.

    Attributes:
      tokens: with an eos for each document.
      words, word_tokens: words in a sample of the tokens, and the tokens that they take. Words of scripts without
        spaces are pieces, as in `tokens.words`.
    """

    task: str
    split: str
    language: str
    documents: int
    tokens: int
    utf8_bytes: int
    words: int
    word_tokens: int


def counts(corpus: Corpus) -> list[TextCount]:
    """The counts of every text."""
    flags = word_flags(corpus.tokenizer)
    return [
        TextCount(
            task,
            split,
            language,
            len(store.offsets) - 1,
            len(store.tokens),
            int(store.utf8_bytes.sum(dtype=np.int64)),
            *_words(store, flags),
        )
        for task, splits in corpus.stores.items()
        for split, languages in splits.items()
        for language, store in languages.items()
    ]


def _sample(store: Store) -> tuple[np.ndarray, np.ndarray | None]:
    """(1, N) first tokens of a text, and which of them begin a word where the store knows it: (1, N) bool."""
    starts = None if store.word_start is None else np.asarray(store.word_start[:SAMPLE_TOKENS])[None]
    return np.asarray(store.tokens[:SAMPLE_TOKENS])[None], starts


def _words(store: Store, flags: np.ndarray) -> tuple[int, int]:
    """How many words a text's first tokens hold, and how many tokens these words take. `flags`: of `word_flags`."""
    tokens, starts = _sample(store)
    begins, ordinary = split_words(flags.take(tokens), starts)
    if not ordinary.any():
        return 0, 0
    # A word goes to where the next one, or a token that is no word, begins.
    ends = np.append(np.flatnonzero(begins[0]), tokens.size)
    first = np.flatnonzero(ordinary[0])
    return len(first), int((ends[np.searchsorted(ends, first, side="right")] - first).sum())


def texts(corpus: Corpus, found: Sequence[TextCount]) -> list[str]:
    """Lines: the vocabulary's size, and the documents and tokens of every text."""
    width = max([len(task) for task in corpus.stores] + [4])
    lines = [f"vocabulary: {corpus.tokenizer.base_size} pieces, {corpus.tokenizer.size} rows"]
    head = f"{'task':<{width}} {'split':<11} {'language':<9} {'documents':>10} {'tokens':>12} {'bytes/token':>11}"
    return [*lines, f"{head} {'tokens/word':>11}"] + [
        f"{one.task:<{width}} {one.split:<11} {one.language:<9} {one.documents:>10,} {one.tokens:>12,} "
        f"{one.utf8_bytes / max(1, one.tokens):>11.2f} {one.word_tokens / max(1, one.words):>11.2f}"
        for one in found
    ]


def parallelism(corpus: Corpus) -> dict[str, dict[int, int]]:
    """Task -> {n: how many groups of its training text are in n languages}; {} without groups."""
    found = {}
    for task, splits in corpus.stores.items():
        stores = list(splits.get("train", {}).values())
        # (P,) pairs of group and language, each once -> (G,) languages of each group.
        group = np.concatenate(
            [np.unique(store.group[store.group >= 0]) for store in stores] or [np.zeros(0, np.int32)]
        )
        languages = np.unique(group, return_counts=True)[1]
        sizes, times = np.unique(languages, return_counts=True)
        found[task] = dict(zip(sizes.tolist(), times.tolist(), strict=True))
    return found


def groups(found: Mapping[str, Mapping[int, int]]) -> list[str]:
    """A line for each task whose texts translate each other: how many groups are in how many languages."""
    return [
        f"groups of {task} by number of languages: " + ", ".join(f"{n}: {times:,}" for n, times in sizes.items())
        for task, sizes in found.items()
        if set(sizes) - {1}
    ]


def fields(corpus: Corpus) -> list[str]:
    """A line for each language and field: documents of each label and provenance, ranges of each name."""
    lines = []
    for task, splits in corpus.stores.items():
        for split, languages in splits.items():
            for language, store in languages.items():
                for field, known in store.tables.items():
                    column = store.fields[field][:]
                    # Ranges begin at tokens with an odd tag: 1, 3, 5, ... stand for names 0, 1, 2, ...
                    numbers = column[column % 2 == 1] // 2 if field in RANGES else column[column >= 0]
                    times = np.bincount(numbers, minlength=len(known)).tolist()
                    shown = {name: count for name, count in zip(known, times, strict=True) if count}
                    if field not in RANGES and (without := len(column) - len(numbers)):
                        shown["none"] = without
                    most = sorted(shown.items(), key=lambda item: -item[1])
                    counts = ", ".join(f"{name} {count:,}" for name, count in most[:_NAMES]) or "none"
                    more = f" and {len(most) - _NAMES} more" if len(most) > _NAMES else ""
                    lines.append(f"{field} ({task}, {split}, {language}): {counts}{more}")
    return lines


def borders(corpus: Corpus) -> list[str]:
    """A line for each language with words that no spaces divide: how many borders between its words are found."""
    every, found = BORDERS
    return [
        f"words ({task}, {language}): of {count[every]:,} borders between words that no space divides, "
        f"{count[found] / count[every]:.1%} lie between two tokens"
        for task, splits in corpus.stores.items()
        for language, store in splits["train"].items()
        if every in (count := store.counts)
    ]


def entries(lexicon: LexiconTable) -> dict[str, int]:
    """What became of the dictionary's entries: {"trained on", "held out", reason: how many}."""
    names = {"source": lexicon.languages[0], "others": ", ".join(lexicon.languages[1:])}
    used = {"are trained on": "dictionary_concepts", "are held out": "heldout_concepts"}
    found = {what: lexicon.report.get(name, 0) for what, name in used.items()}
    return found | {
        why.format(**names): lexicon.report[name] for name, why in REASONS.items() if lexicon.report.get(name)
    }


def words(corpus: Corpus) -> list[str]:
    """Lines about the use of the dictionary, if there is one."""
    return [] if corpus.lexicon is None else corpus.lexicon.summary


def facts(corpus: Corpus) -> list[str]:
    """A line with the number of facts, if there are any."""
    table = corpus.facts
    if table is None:
        return []
    return [f"facts: {len(table.triples):,}, {len(table.tokens):,} tokens with repetitions"]


def packing(feeds: Mapping[str, Batches]) -> list[str]:
    """A line for each stream that packs texts: counts of its documents, and how full its rows are."""
    return [
        f"stream {name}: " + ", ".join(f"{what} {_count(count)}" for what, count in feed.report.items())
        for name, feed in feeds.items()
        if feed.report
    ]


def _count(count: int | Mapping[int, int]) -> str:
    """A count, or several counts by a number that each of them has: "2: 1,000; 3: 70"."""
    return f"{count:,}" if isinstance(count, int) else "; ".join(f"{n}: {times:,}" for n, times in count.items())


def coverage(corpus: Corpus) -> float | None:
    """The share of the source language's running words that the dictionary can switch; None = there is none."""
    if corpus.lexicon is None:
        return None
    concepts = corpus.lexicon.train
    language = clone_index(concepts.languages[0])[0]
    table, stores = build_table(concepts, corpus.tokenizer), training_stores(corpus.stores, language)
    if table is None or not stores:
        return None
    # One row (1, N) of text -> the keys in it -> (N,) bool: tokens that lie in a key.
    tokens, starts = _sample(stores[0])
    base = tokens.astype(np.int32)
    begins, ordinary = split_words(table.flags.take(base), starts)
    at, n, _ = table.read(base, begins, np.flatnonzero(ordinary), np.zeros(1, np.int64))
    # A key of several words covers all of them.
    inside = np.zeros(base.size, bool)
    inside[ranges(at, n)] = True
    return int(np.count_nonzero(inside & ordinary[0])) / max(1, int(np.count_nonzero(ordinary)))


def covered(corpus: Corpus, share: float | None) -> list[str]:
    """A line about `coverage`, if there is a dictionary."""
    if corpus.lexicon is None:
        return []
    language = clone_index(corpus.lexicon.languages[0])[0]
    found = "none" if share is None else f"{share:.1%}"
    return [f"coverage of running words (training text of {language}): {found}"]
