"""Seconds from the command `xalign train` to its first step, and seconds to compile the steps of recipes.

    python benchmarks/start.py [--recipe=recipes/joint_clone_tiny.gin] [--rounds=3] [--compile=tiny,150m] [--json=FILE]

The text is prepared beforehand, in a cache of this benchmark's own. "cold" has no compiled program in the cache, "warm"
has those of a run before. A run's clock starts with its process and stops when `metrics.jsonl` has the first step, whose
loss the device has computed by then. Compiling is measured without any cache, for one CPU, from shapes alone: the step of
each stage, lowered and compiled as `xalign compile` does it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, add_json, write

# Recipes that read the user's text get names of files. Nothing is read, because shapes do not depend on text.
PAIR = ('TEXT="x"', 'LANGUAGES=("en","de")', 'RATES={"en":0.9,"de":0.1}', 'DICTIONARY=("x",)')
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny": ("recipes/prealign_clone_tiny.gin", ()),
    "150m": ("recipes/prealign_150m.gin", PAIR),
}
XALIGN = [sys.executable, "-m", "xalign_jax.cli"]
LONGEST = 600  # seconds until a run without a first step is given up


def first_step(recipe: str, cache: Path) -> float:
    """Seconds from the start of a process that trains until its first step is done. The process is ended then."""
    with tempfile.TemporaryDirectory() as folder:
        log, errors = Path(folder, "run", "metrics.jsonl"), Path(folder, "errors")
        command = [*XALIGN, "train", f"--gin_file={recipe}", f"--model_dir={folder}/run", "--gin.Runtime.log_every=1"]
        environment = os.environ | {"XALIGN_CACHE": str(cache)}
        with errors.open("w") as output:
            started = time.perf_counter()
            run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=output)
            try:
                while not (log.exists() and log.stat().st_size):
                    if run.poll() is not None or time.perf_counter() - started > LONGEST:
                        sys.exit(f"{recipe}: no first step: {errors.read_text()[-500:]}")
                    time.sleep(0.005)
                taken = time.perf_counter() - started
            finally:
                run.kill()
                run.wait()
    return taken


def starts(recipe: str, rounds: int) -> list[Row]:
    """Rows for a cold and a warm cache of programs."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        environment = os.environ | {"XALIGN_CACHE": str(cache)}
        subprocess.run([*XALIGN, "data", "prepare", f"--gin_file={recipe}"], env=environment, check=True)
        cold, warm = [], []
        for _ in range(rounds):
            shutil.rmtree(cache / "xla", ignore_errors=True)
            cold.append(first_step(recipe, cache))
            # The second run is warm: the first one has kept every program that it compiled up to here.
            warm.append(first_step(recipe, cache))
    name, notes = Path(recipe).stem, f"median of {rounds}; command to first step, text prepared"
    rows = [Row(f"{name}, cold cache", statistics.median(cold), "s", notes=notes)]
    return [*rows, Row(f"{name}, warm cache", statistics.median(warm), "s", notes=notes)]


def compilations(name: str) -> list[Row]:
    """A row for each stage of a recipe."""
    from xalign_jax.api import read_recipe
    from xalign_jax.scale import compile, topology

    file, bindings = RECIPES[name]
    recipe, runtime = read_recipe([file], bindings)
    rows, begun = [], time.perf_counter()
    for program in compile.programs(recipe, runtime, topology.find("cpu:1", 1)):
        lowered = time.perf_counter()
        program.lowered.compile()
        done = time.perf_counter()
        notes = f"{program.parameters / 1e6:.1f} M parameters; {lowered - begun:.1f} s to trace and lower, the rest XLA"
        rows.append(Row(f"compile {Path(file).stem}, stage {program.stage.name}", done - begun, "s", notes=notes))
        begun = time.perf_counter()
    return rows


def main() -> None:
    """Measure, print and write. The runs come first, so that this process holds no memory meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/joint_clone_tiny.gin", help='"" = measure no start')
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", default="tiny,150m", help='"" = compile nothing')
    add_json(parser)
    options = parser.parse_args()
    rows = starts(options.recipe, options.rounds) if options.recipe else []
    for name in filter(None, options.compile.split(",")):
        rows += compilations(name)
    for row in rows:
        print(f"{row.case:48} {row.value:7.1f} s   {row.notes}")
    write(options.json, rows)


if __name__ == "__main__":
    main()
