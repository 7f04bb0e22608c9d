"""Tokens per core-second of the window feed with switching, from a memory-mapped store on disk.

    python benchmarks/feed.py [--million=20]

Words have 1 to 4 tokens, and 5 % of them are switched. The dictionary's translations have 1 to 4 tokens too, so most
switches change a row's length. Time is process time of one thread; each figure is the median of several runs over fresh
rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from synthetic import synthetic

from xalign_jax.data.feeds.windows import Switch, WindowFeed
from xalign_jax.data.store.store import Mixture

TOKENS = 1 << 18  # of one call
CALLS, REPEATS = 4, 7


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=int, default=20, help="tokens of the store")
    million = parser.parse_args().million
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
    assert np.isfinite(share)


if __name__ == "__main__":
    main()
