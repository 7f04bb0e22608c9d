"""CPU seconds to import the command line: at most 2, and without any of the heavy packages.

python benchmarks/import_time.py [--json=FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys

import children
from rows import Row, add_json, write

LIMIT = 2.0
HEAVY = ("jax", "tensorflow", "torch", "seqio", "numpy")
PROGRAM = f"import sys, xalign_jax.cli; print(*[name for name in {HEAVY!r} if name in sys.modules])"


def cpu_seconds(program: str) -> tuple[float, str]:
    """User plus system seconds of a fresh interpreter that runs `program`, and what it printed."""
    child = children.run([sys.executable, "-c", program])
    if child.code:
        raise SystemExit(child.said)
    return child.cpu, child.printed.strip()


def main() -> None:
    """Print the medians of five runs, after one that fills the bytecode cache. Exit 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_json(parser)
    options = parser.parse_args()
    cpu_seconds(PROGRAM)
    runs = [cpu_seconds(PROGRAM) for _ in range(5)]
    bare = statistics.median(cpu_seconds("pass")[0] for _ in range(5))
    seconds, loaded = statistics.median(run[0] for run in runs), runs[0][1]
    print(f"import xalign_jax.cli: {seconds:.2f} CPU s (limit {LIMIT}; a bare interpreter: {bare:.2f})")
    print(f"heavy packages loaded by it: {loaded or 'none'}")
    notes = f"CPU; a bare interpreter takes {bare:.2f}; limit {LIMIT}; heavy packages loaded: {loaded or 'none'}"
    write(options.json, [Row("import xalign_jax.cli", seconds, "s", notes=notes)])
    sys.exit(seconds > LIMIT or bool(loaded))


if __name__ == "__main__":
    main()
