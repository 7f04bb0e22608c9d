"""Seconds of a training step on CPU, with and without huge pages. Both sides alternate; losses must agree.

    python benchmarks/huge_pages.py [--recipe=recipes/joint_clone_tiny.gin] [--steps=60] [--rounds=3] [--json=FILE]

XLA takes its buffers from malloc and gives them back at every step. glibc's malloc (Linux, 2.35 or newer) asks for huge
pages if GLIBC_TUNABLES says so before the process starts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import Row, add_json, write

SIDES = {"plain": "", "huge pages": "glibc.malloc.hugetlb=1"}


def rows(recipe: str, steps: int, tunables: str) -> list[dict[str, float]]:
    """metrics.jsonl of a fresh run of this many steps in one stage, with one probe."""
    short = [f"PRETRAIN_STEPS={steps}", "PROBES=[@Perplexity()]", "Runtime.log_every=10"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "xalign_jax.cli", "train", f"--gin_file={recipe}", f"--model_dir={folder}/run"]
        command += [f"--gin.{binding}" for binding in short]
        environment = os.environ | {"GLIBC_TUNABLES": tunables}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    """Print each side's median of the steps after the first ten, and the ratio. Exit 1 if a loss differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/joint_clone_tiny.gin")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    add_json(parser)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    losses = set()
    for _ in range(options.rounds):
        for side, tunables in SIDES.items():
            found = rows(options.recipe, options.steps, tunables)
            # The first row's steps include compilation.
            seconds[side].append(statistics.median(row["perf/step_seconds"] for row in found[1:]))
            losses.add(tuple(row["loss"] for row in found))
    plain, huge = (statistics.median(values) for values in seconds.values())
    for side, values in seconds.items():
        print(f"{side}: {', '.join(f'{value:.3f}' for value in values)} s a step")
    print(f"plain / huge pages: {plain / huge:.2f}; losses {'differ' if len(losses) > 1 else 'are the same bits'}")
    notes = f"other: without huge pages; losses {'differ' if len(losses) > 1 else 'are the same bits'}"
    write(options.json, [Row(f"a step of {options.recipe}", huge * 1e3, "ms", plain * 1e3, plain / huge, notes)])
    sys.exit(len(losses) > 1)


if __name__ == "__main__":
    main()
