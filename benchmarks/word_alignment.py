"""Word alignment: error rates on gold links by level and method, equality with SimAlign, and speed.

python benchmarks/word_alignment.py aer MODEL GOLD_FOLDER [--limit=200] [--sets en-fr en-hi]
python benchmarks/word_alignment.py simalign MODEL GOLD_FOLDER [--level=7] [--set=en-fr] [--dtype=bfloat16]
    [--json=FILE]

`aer` prints a table for each set NAME with files NAME.XX.txt, NAME.YY.txt and NAME.gold.txt, which may end in .gz, and
a summary with controls. The level of the summary is the best one of the set `--chosen_on`, which is then no evidence.
`simalign` needs the package simalign. It compares the links of 200 pairs with those of SimAlign, and the time that both
take. SimAlign reads one pair at a time, as its users call it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rows import Row, add_json, write

from xalign_jax.alignment.methods import METHODS, Extraction
from xalign_jax.alignment.scores import counts, interval, scores
from xalign_jax.api import load, start_jax
from xalign_jax.data.lexicon.model1 import TENSION, estimate
from xalign_jax.data.text.linked import Gold, Pair, read_gold, read_pairs
from xalign_jax.evaluation.aligning.lexical import DiagonalAligner, LexicalAligner
from xalign_jax.evaluation.aligning.neural import NeuralAligner, Way
from xalign_jax.evaluation.aligning.pairs import Aligner, Alignment
from xalign_jax.evaluation.encode import untrained

SETS = ("en-fr", "en-hi", "ro-en", "ro-en.wpt248", "en-cs", "ja-en")
COLUMNS = [(method, False) for method in METHODS] + [("argmax", True), ("ot", True)]


def files(folder: Path, name: str) -> tuple[str, str, str]:
    """The source, target and gold files of a set."""
    first, second = name.partition(".")[0].split("-")
    return tuple(str(next(folder.glob(f"{name}.{part}.txt*"))) for part in (first, second, "gold"))  # type: ignore[return-value]


def read_set(folder: Path, name: str, limit: int) -> tuple[list[Pair], list[Gold]]:
    """The first sentence pairs of a set and their gold links."""
    source, target, gold = files(folder, name)
    rows = list(itertools.islice(read_gold(gold, read_pairs(source, target)), limit))
    return [pair for pair, _ in rows], [links for _, links in rows]


def judged(found: Sequence[Alignment], gold: Sequence[Gold]) -> np.ndarray:
    """(n, 4) counts of each sentence pair."""
    return np.stack([counts(a.links, g.sure, g.possible) for a, g in zip(found, gold, strict=True)])


def aer(found: np.ndarray) -> float:
    """The error rate of all sentence pairs."""
    return float(scores(found.sum(0)).aer)


def shown(found: np.ndarray) -> str:
    """The error rate in per cent, with its interval."""
    low, high = 100 * interval(found)[:, 3]
    return f"{100 * aer(found):.1f} [{low:.1f}, {high:.1f}]"


def measure(options: argparse.Namespace) -> None:
    """Print error rates."""
    loaded = load(options.model)
    model, tokenizer = loaded.model, loaded.tokenizer
    levels = range(model.num_layers + 1)
    ways = [Way(level, Extraction(method), centred) for level in levels for method, centred in COLUMNS]
    found: dict[str, dict[tuple, np.ndarray]] = {}
    for name in options.sets:
        pairs, gold = read_set(options.gold, name, options.limit)
        aligned = NeuralAligner(model, tokenizer, ways).align_ways(pairs)
        found[name] = {
            (way.level, way.extraction.method, way.centred): judged(links, gold)
            for way, links in zip(ways, aligned, strict=True)
        }
        print(f"\n{name}, {len(pairs)} sentence pairs, AER in per cent\n")
        print("| level | " + " | ".join(f"{m}{', centred' * c}" for m, c in COLUMNS) + " |")
        print("|---" * (len(COLUMNS) + 1) + "|")
        for level in levels:
            cells = [f"{100 * aer(found[name][level, *column]):.1f}" for column in COLUMNS]
            print(f"| {level} | " + " | ".join(cells) + " |", flush=True)
    # One way for all sets, chosen on one of them.
    best = min(found[options.chosen_on], key=lambda way: aer(found[options.chosen_on][way]))
    fresh = untrained(model, seed=0)
    print(f"\nChosen on {options.chosen_on}: level {best[0]}, {best[1]}{', centred' * best[2]}\n")
    print(
        "| set | pairs | chosen | argmax, same level | level 0 | untrained | IBM Model 1 | with diagonal | diagonal |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.sets:
        pairs, gold = read_set(options.gold, name, options.limit)
        words = [(pair.source, pair.target) for pair in pairs]
        random = NeuralAligner(fresh, tokenizer, [Way(best[0], Extraction(best[1]), best[2])])
        others: list[Aligner] = [
            random,
            LexicalAligner(estimate(lambda words=words: words), "grow-diag-final-and"),  # type: ignore[misc]
            LexicalAligner(estimate(lambda words=words: words, tension=TENSION), "grow-diag-final-and"),  # type: ignore[misc]
            DiagonalAligner(),
        ]
        neural = [best, (best[0], "argmax", False), (0, *best[1:])]
        cells = [shown(found[name][way]) for way in neural]
        cells += [shown(judged(aligner.align(pairs), gold)) for aligner in others]
        print(f"| {name} | {len(pairs)} | " + " | ".join(cells) + " |", flush=True)


def compare(options: argparse.Namespace) -> None:
    """Compare links and time with SimAlign's, with one method and with three."""
    from simalign import SentenceAligner

    loaded = load(options.model, dtype=options.dtype)
    model, tokenizer = loaded.model, loaded.tokenizer
    pairs, _ = read_set(options.gold, options.set, options.limit)
    sides = [(list(pair.source), list(pair.target)) for pair in pairs]
    names = {"argmax": "inter", "itermax": "itermax", "match": "mwmf"}
    rows = []
    for methods, letters in ((["argmax"], "a"), (list(names), "mai")):
        theirs = SentenceAligner(str(options.model), matching_methods=letters, layer=options.level)
        ours = NeuralAligner(model, tokenizer, [Way(options.level, Extraction(method)) for method in methods])
        # Compilation happens once for each length, whatever the size of the text: it is not timed.
        ours.align_ways(pairs)
        theirs.get_word_aligns(*sides[0])
        # Rounds of both alternate.
        rounds = [
            (
                timed(lambda ours=ours: ours.align_ways(pairs)),
                timed(lambda theirs=theirs: [theirs.get_word_aligns(*side) for side in sides]),
            )
            for _ in range(options.rounds)
        ]
        (mine, *_), (other, *_) = rounds[0]
        for method, found in zip(methods, mine, strict=True):
            apart = [set(a.links) ^ set(b[names[method]]) for a, b in zip(found, other, strict=True)]
            same, links = sum(not differ for differ in apart), sum(len(a.links) for a in found)
            print(f"{method}: equal in {same} of {len(pairs)} pairs; {sum(map(len, apart))} of {links} links differ")
        case = f"{options.set}, {len(pairs)} pairs, {' '.join(methods)}, {options.dtype}"
        for what, clock in ((1, "wall"), (2, "CPU")):
            seconds = [(ours[what], theirs[what]) for ours, theirs in rounds]
            mine_s, other_s = (statistics.median(side) for side in zip(*seconds, strict=True))
            ratio = statistics.median(theirs / ours for ours, theirs in seconds)
            print(
                f"  {clock}: {len(pairs) / mine_s:.1f} pairs/s ({mine_s:.2f} s), "
                f"SimAlign {len(pairs) / other_s:.1f} ({other_s:.2f} s), ratio {ratio:.1f}",
                flush=True,
            )
            rows.append(Row(f"{case}, {clock} time", mine_s, "s", other_s, ratio, "other: SimAlign, a pair at a time"))
    write(options.json, rows)


def timed(function):
    """A function's result, the seconds it took, and its CPU seconds over all threads."""
    start, before = time.perf_counter(), os.times()
    result = function()
    after = os.times()
    return result, time.perf_counter() - start, after.user + after.system - before.user - before.system


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("aer", "simalign"))
    parser.add_argument("model", type=Path)
    parser.add_argument("gold", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--set", default="en-fr")
    parser.add_argument("--level", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chosen_on", default="en-cs")
    add_json(parser)
    options = parser.parse_args()
    start_jax("highest")
    (measure if options.what == "aer" else compare)(options)


if __name__ == "__main__":
    main()
