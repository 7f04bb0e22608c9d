"""The study as one command, from the repository's root. Recorded runs are not repeated; interrupted ones continue.

    python -m study run [WORD...] [--seeds 1 2] [--jobs 2] [--force] [--data DIR]     or `make study ONLY="WORD..."`
    python -m study list [WORD...]        which runs are recorded, which are missing, and how long these take
    python -m study dictionaries --data DIR --model DIR        dictionaries from parallel text, for the question loop
    python -m study tables                docs/study/tables.md, plots, and the tables in docs/study.md and appendices

A WORD is a question (clone, clone-50-50, clone-4m, baselines, search, dictionary, ...) or an experiment's name.
Patterns such as "K-*" are allowed. Exit codes: 0 everything asked for is recorded, 1 something failed or was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study import record
from study.experiments import select
from xalign_jax.errors import RunError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    parser = argparse.ArgumentParser("study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "list", "dictionaries", "tables"))
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--seeds", type=int, nargs="+", default=(), help="only these of each experiment's seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument(
        "--force", action="store_true", help="also recorded runs, unless they lie finished in runs/study"
    )
    parser.add_argument("--data", type=Path, help="folder of texts and dictionaries, for experiments on real languages")
    parser.add_argument("--model", type=Path, help="folder of multilingual-e5-small, which makes dictionaries")
    options = parser.parse_args(argv)
    from study import run

    # Only rows of today's recipes are compared, and `others` says which rows are left out.
    if options.action == "tables":
        from study import tables

        every = run.jobs(select(()))
        (results, others), (curves, _) = (
            run.comparable(record.read(p), every) for p in (record.RESULTS, record.CURVES)
        )
        print(*others, sep="\n", end="\n" if others else "")
        tables.write(results, curves, record.FOLDER)
        return 0
    if options.action == "dictionaries":
        return _make_dictionaries(parser, options)
    # Bad usage is found before any recipe is loaded for long.
    if unknown := [word for word in options.words if not select([word])]:
        parser.error(f"no experiment is called {' or '.join(unknown)}")
    wanted = run.jobs(select(options.words), options.seeds)
    if not wanted:
        parser.error(f"--seeds: none of these experiments has seed {' or '.join(map(str, options.seeds))}")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: 1 or more")
    results = record.read(record.RESULTS)
    left = run.missing(wanted, results, record.read(record.CURVES))
    if options.action == "list":
        print(run.listing(wanted, left, results))
        return 0
    asked = wanted if options.force else left
    try:
        able = run.with_data(asked, options.data)
    except UserError as error:
        parser.error(str(error))
    # A study without names runs what it can. Named experiments were asked for, so leaving one out is a failure.
    whole = len(able) == len(asked) or not options.words
    return 0 if run.run(able, options.jobs) and whole else 1


def _make_dictionaries(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Make the dictionaries of the question `loop`, and say how good they are."""
    from study import dictionaries, run

    try:
        if not run.link(options.data):
            parser.error("dictionaries: give the folder of texts as --data")
        for line in dictionaries.make(options.model):
            print(line, flush=True)
    except UserError as error:
        parser.error(str(error))
    except RunError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
