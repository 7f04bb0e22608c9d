"""Runs benchmarks one after another and writes one table: `make bench`.

    python benchmarks/run.py [--only="decoder contrast"] [--full] [--output=report/bench]

Without --full each benchmark runs in a shorter form, so that all of them take less than about 25 minutes on two quiet
cores. The table has the machine's facts and a row for each figure; `bench.json` has the same. A benchmark that cannot run,
for example because a package is missing, has a row that says so, and the others go on. Exit code 1 if one failed.

These are not run, because they need more than the repository: compile_table (libtpu, and hours), formats (a folder of
corpora), harnesses, maps and word_alignment (models and test sets), preparing (texts and a SentencePiece model). The
script for an accelerator is accelerator.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rows import Row, facts, machine, table

HERE = Path(__file__).parent


class Bench(NamedTuple):
    """Options of a benchmark, in its short form and in full."""

    short: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


# In this order, the most important ones first.
BENCHES = {
    "decoder": Bench(("--shapes=4x128,4x256", "--rounds=4")),
    "masked_lm": Bench(("--rounds=6",)),
    "contrast": Bench(("--rounds=4",)),
    # Without a file, words have drawn lengths: no file of a machine decides what is measured.
    "dictionary_stage": Bench(("--dictionary=drawn", "--rounds=6"), ("--dictionary=drawn",)),
    "start": Bench(("--rounds=2",)),
    "parametrizations": Bench(("--rounds=6",)),
    "huge_pages": Bench(("--rounds=1", "--steps=40"), ("--rounds=2", "--steps=50")),
    "feed": Bench(("--million=8",)),
    "codeswitch": Bench(("--lengths=64,512",)),
    "neighbours": Bench(("--queries=5000", "--candidates=5000")),
    "import_time": Bench(),
    "import_memory": Bench(("--scale=0.25",)),
    "sentence_pairs": Bench(("--rounds=4",)),
    "contrast_sharded": Bench(("--batch=2048", "--queue=16384")),
}


def run(name: str, options: tuple[str, ...]) -> tuple[list[Row], bool]:
    """The rows of a benchmark, and whether it ran without an error. Its output goes to the terminal as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / f"{name}.py"), *options, f"--json={file}"]
        errors: list[str] = []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
            assert process.stderr is not None
            for text in process.stderr:
                errors.append(text)
                sys.stderr.write(text)
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if found is None:
        return [Row("did not run", None, "", notes=cause("".join(errors)))], False
    rows = decoder_rows(found) if isinstance(found, dict) else [Row(**row) for row in found]
    return rows, process.returncode == 0


def cause(errors: str) -> str:
    """Why a benchmark did not run, from what it wrote to stderr: in a line for the table."""
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", errors)
    last = next(reversed([text for text in errors.splitlines() if text.strip()]), "no message")
    return f"the package {missing[1]} is missing" if missing else " ".join(last.replace("|", "/").split())[:200]


def decoder_rows(found: dict[str, Any]) -> list[Row]:
    """The rows of decoder.py's own JSON: each side against ours, in wall time."""
    rows = []
    for result in found["results"]:
        own = result["ours"]
        case = f"{result['shape']}, {result['dtype']}"
        notes = f"{own['peak']:.0%} of the matrix products' peak; {own['memory_mb']:,.0f} MB"
        rows.append(Row(case, own["wall_ms"], "ms", notes=notes))
        for side, other in result.items():
            if isinstance(other, dict) and side != "ours":
                notes = f"other: {side}, {other['memory_mb']:,.0f} MB; process time {other['process_ratio']:.2f}"
                rows.append(Row(case, own["wall_ms"], "ms", other["wall_ms"], other["wall_ratio"], notes))
    return rows


def main() -> None:
    """Run them, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of: {' '.join(BENCHES)}")
    parser.add_argument("--full", action="store_true", help="not in the shorter form")
    parser.add_argument("--output", type=Path, default=Path("report/bench"), metavar="DIR")
    options = parser.parse_args()
    names = options.only.split() or list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"--only: no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    options.output.mkdir(parents=True, exist_ok=True)
    known, loads, failed = machine(), [os.getloadavg()[0]], []
    found: list[tuple[str, Row]] = []
    for name in names:
        bench, begun = BENCHES[name], time.monotonic()
        print(f"\n{name}:", flush=True)
        rows, fine = run(name, bench.full if options.full else bench.short)
        failed += [] if fine else [name]
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        found += [(name, row) for row in rows]
        # After each, so that an interruption loses one benchmark and not all.
        loads.append(os.getloadavg()[0])
        text = f"{facts(known, loads)}\n\n{table(found)}\n"
        (options.output / "bench.md").write_text(text, encoding="utf-8")
        everything = {"machine": known | {"load_after": loads[-1]}, "full": options.full}
        everything["rows"] = [{"benchmark": benchmark, **row._asdict()} for benchmark, row in found]
        (options.output / "bench.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten to {options.output}/bench.md and bench.json")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
