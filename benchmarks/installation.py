"""The table of docs/install.md: what an installation costs, by Python and by way to install.

    python benchmarks/installation.py python3.11 python3.12 python3.13 --ways=core,pinned --model=e5-small/

Each installation goes into a fresh environment with a fresh HOME, and is removed afterwards. pip keeps no cache. Ways:

    core     `requirements-core.txt`, then `--no-deps .`: without TensorFlow
    newest   `.`: the newest versions that setup.py allows
    pinned   `-c constraints.txt '.[demo]'`

Seconds are of CPU time. Those of the wall stand in brackets: other work and the network decide them.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import children

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "core": (("-r", "requirements-core.txt"), ("--no-deps", ".")),
    "newest": ((".",),),
    "pinned": (("-c", "constraints.txt", ".[demo]"),),
}
VECTOR = "import sys, xalign_jax as xa; print(xa.load(sys.argv[1]).encode(['The cat sleeps.']).shape)"


def timed(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> str:
    """Run a command in a folder; "CPU seconds (wall seconds)".

    Raises:
      SystemExit: it failed; its last lines are the message.
    """
    child = children.run(command, folder, environment)
    if child.code:
        raise SystemExit("\n".join([" ".join(map(str, command)), *(child.printed + child.said).splitlines()[-5:]]))
    return f"{child.cpu:.1f} s ({child.wall:.0f} s)"


def measure(python: str, way: str, model: Path | None) -> dict[str, str]:
    """The figures of one installation, by the row of the table."""
    with tempfile.TemporaryDirectory(prefix="installation-") as folder:
        home = Path(folder, "home")
        home.mkdir()
        environment = children.fresh_environment(home) | {"PIP_NO_CACHE_DIR": "1"}
        programs = Path(folder, "environment", "bin")
        clone = Path(folder, "clone")  # building leaves files there
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        timed([python, "-m", "venv", programs.parent], environment, clone)
        steps = [timed([programs / "pip", "install", "--quiet", *step], environment, clone) for step in WAYS[way]]
        size = sum(file.lstat().st_size for file in programs.parent.rglob("*")) / 1e6
        rows = {
            "install": " + ".join(steps),
            "size": f"{size:,.0f} MB",
            "`xalign --version`": timed([programs / "xalign", "--version"], environment, home),
            "`xalign list recipes`": timed([programs / "xalign", "list", "recipes"], environment, home),
        }
        if model:
            rows["first vector"] = timed([programs / "python", "-c", VECTOR, model.resolve()], environment, home)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", help="interpreters, such as python3.12")
    parser.add_argument("--ways", default="core", help=f"of {', '.join(WAYS)}, joined by commas")
    parser.add_argument("--model", type=Path, help="a folder of Hugging Face, for the first vector")
    options = parser.parse_args()
    for way in options.ways.split(","):
        if way not in WAYS:
            parser.error(f"--ways: {way!r} is none of {', '.join(WAYS)}")
    for way in options.ways.split(","):
        columns = {python: measure(python, way, options.model) for python in options.pythons}
        print(f"| {way} | {' | '.join(Path(python).name for python in columns)} |\n|---{'|---' * len(columns)}|")
        for row in next(iter(columns.values())):
            print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |", flush=True)


if __name__ == "__main__":
    main()
