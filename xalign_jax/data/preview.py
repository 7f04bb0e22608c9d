"""Shows a recipe's data: rows as text, and counts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.codeswitch import build_table
from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.store.store import training_stores
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.data.tokens.words import split_words

PREVIEW_ROWS = 4  # rows of each stream that are shown
COVERAGE_TOKENS = 1_000_000  # running tokens in which the dictionary's words are counted


def preview(stream: str, batch: dict[str, np.ndarray], languages: tuple[str, ...], corpus: Corpus) -> str:
    """The first rows of a stream's batch as text, with their switched words, and the shapes of its arrays."""
    lines = [f"stream {stream}:"]
    # The arrays tell the kind of feed: only windows have one language for each row.
    if "language" in batch and "concept" not in batch:
        lines[0] += " a word in brackets replaces, in the input, a word that begins as shown behind the arrow"
    for row in range(min(PREVIEW_ROWS, len(batch["tokens"]))):
        if "concept" in batch:
            lines.append(f"  {row}: {_words(batch, row, languages, corpus)}")
        elif "token_language" in batch:
            lines += [f"  {row}.{slot}: {text}" for slot, text in _packed(batch, row, languages, corpus)]
        else:
            lines.append(f"  {row} [{languages[batch['language'][row]]}] {_window(batch, row, corpus)}")
    lines.append("  arrays: " + ", ".join(f"{name} {array.shape}" for name, array in batch.items()))
    return "\n".join(lines)


def _words(batch: dict[str, np.ndarray], row: int, languages: tuple[str, ...], corpus: Corpus) -> str:
    """A row of a word feed: its words with language and concept."""
    shown = []
    for slot, concept in enumerate(batch["concept"][row]):
        if concept >= 0:
            text = corpus.tokenizer.decode(batch["tokens"][row][batch["segment_ids"][row] == slot + 1])
            shown.append(f"{text} ({languages[batch['language'][row][slot]]}, concept {concept})")
    return "; ".join(shown)


def _packed(
    batch: dict[str, np.ndarray], row: int, languages: tuple[str, ...], corpus: Corpus
) -> list[tuple[int, str]]:
    """(slot, text) of the slots of a row: their texts with languages; a key stands behind its query."""
    shown = []
    for slot in range(int(batch["segment_ids"][row].max(initial=0))):
        views = []
        for view in ("", "key_") if "key_tokens" in batch else ("",):
            mine = batch[f"{view}segment_ids"][row] == slot + 1
            tokens, language = batch[f"{view}tokens"][row][mine], batch[f"{view}token_language"][row][mine]
            # (n,) tokens of the slot -> its texts, each of which ends with eos.
            ends = np.flatnonzero(corpus.tokenizer.unclone(tokens) == corpus.tokenizer.eos) + 1
            parts = zip(np.split(tokens, ends)[:-1], language[ends - 1], strict=True)
            views.append(" / ".join(f"[{languages[k]}] {corpus.tokenizer.decode(ids)}" for ids, k in parts))
        group = f" (group {', '.join(map(str, batch['group'][row][slot]))})" if "group" in batch else ""
        shown.append((slot, "  ||  ".join(views) + group))
    return shown


def _window(batch: dict[str, np.ndarray], row: int, corpus: Corpus) -> str:
    """A row's text, with each switched word as [translation ← first piece of the original word]."""
    tokenizer = corpus.tokenizer
    tokens, targets, weights, segments = (batch[name][row] for name in ("tokens", "targets", "weights", "segment_ids"))
    # (T,) bool, by input position. The original of the input at t + 1 is the target at t; a difference shows a switch.
    changed = np.append(False, (tokens[1:] != targets[:-1]) & (segments[1:] == segments[:-1]) & (segments[1:] > 0))
    # Later tokens of a switched word have weight 0: `goes_on`. A word of equal first tokens shows by them alone.
    weighs = np.append(True, weights[:-1] > 0)
    goes_on = changed & ~weighs
    begins = weighs & (changed | np.append(goes_on[1:], False))
    # Positions where a switched word or ordinary text begins -> the parts between them.
    cuts = np.flatnonzero(begins | ~goes_on & np.append(False, (begins | goes_on)[:-1]))
    shown = []
    for start, end in itertools.pairwise([0, *cuts[cuts > 0].tolist(), len(tokens)]):
        text = tokenizer.decode(tokens[start:end])
        shown.append(f"[{text} ← {tokenizer.decode(targets[start - 1 : start])}]" if begins[start] else text)
    return " ".join(shown)


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
        f"stream {name}: " + ", ".join(f"{what} {_count(count)}" for what, count in feed.report.items())
        for name, feed in feeds.items()
        if feed.report
    ]


def _count(count: Any) -> str:
    """A count, or several counts by a number that each of them has: "2: 1,000; 3: 70"."""
    return "; ".join(f"{n}: {_count(k)}" for n, k in count.items()) if isinstance(count, Mapping) else f"{count:,}"


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
