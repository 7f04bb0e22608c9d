"""Tokens per core-second of the feeds, from memory-mapped stores on disk.

    python benchmarks/feed.py [--million=20] [--json=FILE]

The first table has windows, plain and with 5 % of the words switched. Words have 1 to 4 tokens, as have the dictionary's
translations, so most switches change a row's length. The second table has the packed feeds: texts, pairs, documents of
lines, interleaved documents and whole groups. Their text is the same, cut into documents that stand for translations in
eight languages. Time is process time of one thread; each figure is the median of several runs over fresh rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
from rows import Row, add_json, write
from synthetic import SyntheticTokenizer, synthetic

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.packing import PackedRows
from xalign_jax.data.feeds.windows import (
    ContrastFeed,
    GroupFeed,
    InterleavedFeed,
    Switch,
    TextFeed,
    TranslationFeed,
    WindowFeed,
)
from xalign_jax.data.sampling.mixture import Mixture

TOKENS = 1 << 18  # of one call
CALLS, REPEATS = 4, 7
EOS = SyntheticTokenizer.eos
UNIT = "M tokens a core-second"
LANGUAGES = ("cs", "de", "en", "es", "fr", "hu", "it", "ru")
# Packed feeds at rows of 512 tokens, with texts of about 40 tokens and documents of about 1,500.
SHORT, LONG = 40, 1500
PACKED = {
    "texts": (SHORT, TextFeed(512, 64)),
    "pairs": (SHORT, TranslationFeed(512, 32, 100)),
    "contrast": (SHORT, ContrastFeed(512, 64, 100)),
    "pairs, English first": (SHORT, TranslationFeed(512, 32, 100, "en", reverse=0.05)),
    "documents of 2 lines": (SHORT, GroupFeed(512, 32, 2, 58)),
    "documents of 8 lines": (SHORT, GroupFeed(512, 32, 8, 58)),
    "the same, shuffled": (SHORT, GroupFeed(512, 32, 8, 58, shuffled=True)),
    "interleaved, short": (SHORT, InterleavedFeed(512, 32, 16)),
    "interleaved, long": (LONG, InterleavedFeed(512, 32, 64)),
    "texts of whole groups": (SHORT, TextFeed(512, 64, whole_groups=True, side=100)),
    "pairs of whole groups": (SHORT, TranslationFeed(512, 32, 100, whole_groups=True)),
}


def rate_of(feed, rows: int) -> float:
    """Tokens per second of process time, in millions: the median of REPEATS runs of CALLS calls."""
    # The first batch is not timed: it opens what later ones find open.
    feed.batch(0, slice(0, rows))
    rates = []
    for repeat in range(REPEATS):
        start = time.process_time()
        for call in range(CALLS):
            feed.batch((repeat * CALLS + call) * rows, slice(0, rows))
        rates.append(CALLS * rows * feed.length / (time.process_time() - start) / 1e6)
    return statistics.median(rates)


def parallel(corpus: Corpus, most: int) -> Corpus:
    """A corpus whose text is cut into groups of eight documents of `most` / 2 to 3 / 2 `most` tokens, one a language."""
    rng, text = np.random.default_rng(0), corpus.stores["text"]["train"]["en"].tokens
    part, stores = len(text) // len(LANGUAGES), {}
    count = part // (2 * most)
    for number, language in enumerate(LANGUAGES):
        tokens = np.array(text[number * part : (number + 1) * part])
        tokens[tokens == EOS] = EOS + 1
        ends = np.cumsum(rng.integers(most // 2, most + most // 2, count))
        tokens[ends - 1] = EOS
        hashes = rng.integers(0, 2**32, count, dtype=np.uint32)
        stores[language] = dataclasses.replace(
            corpus.stores["text"]["train"]["en"],
            tokens=tokens[: ends[-1]],
            offsets=np.append(0, ends),
            group=np.arange(count, dtype=np.int32),
            text_hash=hashes,
            language=language,
        )
    return dataclasses.replace(corpus, stores={"text": {"train": stores}}, lexicon=None)


def packed_rates(corpus: Corpus) -> list[Row]:
    """Print a line for each packed feed: tokens that are not padding, of queries and keys together. Returns rows."""
    print(f"{'T = 512':<24} {'rate':>6} {'filled':>7} {'build s':>8}  million tokens a core-second")
    mixture, rows = Mixture(tasks=("text",)), 64
    texts = {most: parallel(corpus, most) for most in (SHORT, LONG)}
    found = []
    for name, (most, config) in PACKED.items():
        start = time.process_time()
        feed = cast(PackedRows, config.build(texts[most], mixture, rows, 0))
        built = time.process_time() - start
        # Blocks are made as a whole, so whole blocks are timed: the rows of several, one batch after another.
        batches = max(1, 2 * feed.block_rows // rows)
        filled = 0
        start = time.process_time()
        for batch in range(batches):
            made = feed.batch((batch + batches) * rows, slice(0, rows))
            filled += sum(int(np.count_nonzero(made[k])) for k in ("segment_ids", "key_segment_ids") if k in made)
        spent = time.process_time() - start
        room = batches * rows * 512 * (2 if "key_tokens" in made else 1)
        print(f"{name:<24} {filled / spent / 1e6:>6.2f} {filled / room:>7.1%} {built:>8.2f}")
        notes = f"{filled / room:.1%} filled; built in {built:.2f} s"
        found.append(Row(f"packed: {name}", filled / spent / 1e6, UNIT, notes=notes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=int, default=20, help="tokens of the store")
    add_json(parser)
    options = parser.parse_args()
    million, found = options.million, []
    mixture = Mixture(tasks=("text",), rates={"en": 0.9, "en_clone": 0.1})
    print(f"{'T':>5} {'plain':>8} {'switching':>10}  million tokens a core-second")
    with tempfile.TemporaryDirectory() as folder:
        corpus = synthetic(million * 1_000_000, Path(folder))
        for length in (64, 512, 2048):
            rows = TOKENS // length
            plain, switching = (
                rate_of(WindowFeed(length, switch).build(corpus, mixture, rows, 0), rows)
                for switch in (None, Switch(rate=0.05))
            )
            # What was switched, to show that the figures are of real work.
            batch = WindowFeed(length, Switch(rate=0.05)).build(corpus, mixture, rows, 0).batch(0, slice(0, rows))
            english = batch["language"] == 0
            share = batch["count_switched"][english].sum() / batch["count_words"][english].sum()
            filled = batch["count_filled"].sum() / batch["tokens"].size
            print(f"{length:>5} {plain:>8.1f} {switching:>10.1f}  ({share:.2%} of words switched, {filled:.4%} filled)")
            for name, rate in (("windows", plain), ("windows with switching", switching)):
                found.append(Row(f"{name}, T = {length}", rate, UNIT))
        write(options.json, found + packed_rates(corpus))


if __name__ == "__main__":
    main()
