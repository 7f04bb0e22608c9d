"""Vectorised code-switching against the published rule as a Python loop over tokens, with equal draws and equal output.

    python benchmarks/codeswitch.py [--lengths=64,512,2048] [--json=FILE]

The peer is `tests/data/switch_reference.py`. It implements the rule of PreAlign's input-only module in the same way:
row by row, splitting words token by token and looking id tuples up in a dict. Its draws are made beforehand and its
rows are lists already, which favours it. Time is process time of one thread, the median of several runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, add_json, write
from synthetic import synthetic

from xalign_jax.data.feeds.codeswitch import Switch, build_table, switch
from xalign_jax.data.sampling.hashing import hash64

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
from switch_reference import dictionary, draws_of, switch_loop

TOKENS, REPEATS = 1 << 16, 5


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of process time, and the last result."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), result


def compare(corpus, table, config: Switch, length: int) -> Row:
    """Print one line; returns it as a row, in million tokens a core-second. Asserts equal arrays and counts."""
    # Rows read more tokens than they keep, because a switch may shorten them.
    size, rows = length + table.slack(length, config.rate), TOKENS // length
    text = np.asarray(corpus.stores["text"]["train"]["en"].tokens)
    base = np.stack([text[row * length : row * length + size] for row in range(rows)])
    keys, language, whole = hash64("rows", np.arange(rows)), np.zeros(rows, np.int64), np.full(rows, size)

    def vectorised():
        return switch(
            base, base.astype(np.int32), whole, keys, language, table=table, config=config, length=length, pad=0
        )

    # What the loop reads is prepared outside of the time.
    (draws, picks), keyed, flags, lists = draws_of(keys, size), dictionary(table), table.flags.tolist(), base.tolist()

    def loop():
        return [switch_loop(lists[r], draws[r], picks[r], 0, keyed, flags, config, length) for r in range(rows)]

    # Equal output, row by row: the loop's lists end where the arrays are filled up.
    (fast, found), (slow, wanted) = timed(vectorised), timed(loop)
    for row, (tokens, labels, weights, counts) in enumerate(wanted):
        there = len(tokens)
        assert found.length[row] == there
        for array, expected in ((found.tokens, tokens), (found.labels, labels), (found.weights, weights)):
            assert np.array_equal(array[row, :there], expected) and not array[row, there:].any()
        assert {name: getattr(found, name)[row] for name in counts} == counts
    print(
        f"T {length:>5}  rate {config.rate:.2f}  loop {TOKENS / slow / 1e6:6.2f}  "
        f"vectorised {TOKENS / fast / 1e6:6.2f} million tokens a core-second  ratio {slow / fast:.1f}"
    )
    own, other = TOKENS / fast / 1e6, TOKENS / slow / 1e6
    case = f"T = {length}, rate {config.rate:.2f}"
    return Row(case, own, "M tokens a core-second", other, slow / fast, "other: a Python loop over tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="64,512,2048")
    add_json(parser)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = synthetic(200_000, Path(folder))
        assert corpus.lexicon is not None
        table = build_table(corpus.lexicon.train, corpus.tokenizer)
        for length in map(int, options.lengths.split(",")):
            for rate in (0.05, 0.3):
                found.append(compare(corpus, table, Switch(rate=rate), length))
    write(options.json, found)


if __name__ == "__main__":
    main()
