"""What a recipe's data looks like: rows as text, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xalign_jax.data.codeswitch import build_table, read_words, split_words
from xalign_jax.data.lexicon import Concepts
from xalign_jax.data.packing import PackedRows
from xalign_jax.data.prepared import Prepared
from xalign_jax.data.store import training_stores
from xalign_jax.data.vocabulary import clone_index

PREVIEW_ROWS = 4
COVERAGE_TOKENS = 1_000_000


def preview(stream: str, batch: dict[str, np.ndarray], languages: tuple[str, ...], prepared: Prepared) -> str:
    """The first rows of a stream's batch as text; a target that is not the next input is shown as <input→target>."""
    lines = [f"stream {stream}: " + ", ".join(f"{name} {array.shape}" for name, array in batch.items())]
    for row in range(min(PREVIEW_ROWS, len(batch["tokens"]))):
        if "concept" in batch:
            lines.append(f"  {row}: {_words(batch, row, languages, prepared)}")
        elif "token_language" in batch:
            lines += [f"  {row}.{slot}: {text}" for slot, text in _packed(batch, row, languages, prepared)]
        else:
            lines.append(f"  {row} [{languages[batch['language'][row]]}] {_window(batch, row, prepared)}")
    return "\n".join(lines)


def _words(batch: dict[str, np.ndarray], row: int, languages: tuple[str, ...], prepared: Prepared) -> str:
    shown = []
    for slot, concept in enumerate(batch["concept"][row]):
        if concept >= 0:
            text = prepared.tokenizer.decode(batch["tokens"][row][batch["segment_ids"][row] == slot + 1])
            shown.append(f"{text} ({languages[batch['language'][row][slot]]}, concept {concept})")
    return "; ".join(shown)


def _packed(
    batch: dict[str, np.ndarray], row: int, languages: tuple[str, ...], prepared: Prepared
) -> list[tuple[int, str]]:
    """The slots of a row: its texts with their languages; a key after its query."""
    shown = []
    for slot in range(int(batch["segment_ids"][row].max(initial=0))):
        views = []
        for view in ("", "key_") if "group" in batch else ("",):
            mine = batch[f"{view}segment_ids"][row] == slot + 1
            tokens, language = batch[f"{view}tokens"][row][mine], batch[f"{view}token_language"][row][mine]
            ends = np.flatnonzero(prepared.tokenizer.unclone(tokens) == prepared.tokenizer.eos) + 1
            parts = zip(np.split(tokens, ends)[:-1], language[ends - 1], strict=True)
            views.append(" / ".join(f"[{languages[k]}] {prepared.tokenizer.decode(ids)}" for ids, k in parts))
        group = f" (group {', '.join(map(str, batch['group'][row][slot]))})" if "group" in batch else ""
        shown.append((slot, "  ||  ".join(views) + group))
    return shown


def _window(batch: dict[str, np.ndarray], row: int, prepared: Prepared) -> str:
    tokenizer = prepared.tokenizer
    tokens, targets, weights = (batch[name][row] for name in ("tokens", "targets", "weights"))
    differs = (tokens[1:] != targets[:-1]) & (batch["segment_ids"][row][1:] == batch["segment_ids"][row][:-1])
    pieces, start = [], 0
    for at in np.flatnonzero(differs):
        pieces.append(tokenizer.decode(tokens[start : at + 1]))
        target = tokenizer.decode(targets[at : at + 1]) if weights[at] else "-"
        pieces.append(f"<{tokenizer.decode(tokens[at + 1 : at + 2])}→{target}>")
        start = int(at) + 2
    return " ".join([*pieces, tokenizer.decode(tokens[start:])])


def stats(prepared: Prepared, feeds: Mapping[str, Any]) -> str:
    """Documents and tokens of every text, what became of the dictionary, and how many running words it covers.

    feeds: by stream; of those that pack texts, what became of the documents and how full the rows are.
    """
    lines = [f"vocabulary: {prepared.tokenizer.base_size} pieces, {prepared.tokenizer.size} rows"]
    lines.append(f"{'task':<24} {'split':<11} {'language':<9} {'documents':>10} {'tokens':>12} {'bytes/token':>11}")
    for task, splits in prepared.stores.items():
        for split, languages in splits.items():
            for language, store in languages.items():
                size = store.utf8_bytes.sum() / max(1, len(store.tokens))
                lines.append(
                    f"{task[:24]:<24} {split:<11} {language:<9} {len(store.offsets) - 1:>10,} {len(store.tokens):>12,} {size:>11.2f}"
                )
    if prepared.lexicon is not None:
        lines.append("dictionary: " + ", ".join(f"{name} {count:,}" for name, count in prepared.lexicon.report.items()))
        lines.append(f"coverage of running words (training text): {coverage(prepared.lexicon.train, prepared):.1%}")
    if prepared.facts is not None:
        lines.append(f"facts: {len(prepared.facts.triples):,}, {len(prepared.facts.tokens):,} tokens with repetitions")
    for name, feed in feeds.items():
        if isinstance(feed, PackedRows):
            lines.append(f"stream {name}: " + ", ".join(f"{what} {count:,}" for what, count in feed.report.items()))
    return "\n".join(lines)


def coverage(concepts: Concepts, prepared: Prepared) -> float:
    """Share of the source language's running words that the dictionary can switch, over its first million tokens."""
    table = build_table(concepts, prepared.tokenizer)
    texts = training_stores(prepared.stores, clone_index(concepts.languages[0])[0])
    if table is None or not texts:
        return 0.0
    base = np.asarray(texts[0].tokens[:COVERAGE_TOKENS])[None].astype(np.int32)
    begins, ordinary = split_words(table.flags.take(base))
    row, column = np.nonzero(ordinary)
    _, words = read_words(base, begins, row, column, table.keys.shape[1])
    _, found = table.find(words, np.zeros(len(row), np.int32))
    return float(found.mean())
