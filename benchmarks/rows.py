"""Rows of benchmarks: one form for all, written as JSON and printed as one table, with facts of the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("jax", "numpy", "flax", "torch", "transformers", "faiss-cpu")
HEAD = "| benchmark | case | value | other side | ratio | notes |\n|---|---|---:|---:|---:|---|"


class Row(NamedTuple):
    """One figure.

    Attributes:
      case: what was measured.
      value: ours; None = there is none, and `notes` say why.
      unit: of `value` and `other`.
      other: of the other side, if there is one.
      ratio: how many times better ours is, as the benchmark defines it: a median over rounds need not be other / value.
      notes: what else a reader wants to know, such as who the other side is.
    """

    case: str
    value: float | None
    unit: str
    other: float | None = None
    ratio: float | None = None
    notes: str = ""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json=FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")


def write(file: Path | None, rows: Iterable[Row]) -> None:
    """Write the rows as a JSON list of objects, if a file is given."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", encoding="utf-8")


def table(found: Iterable[tuple[str, Row]]) -> str:
    """A Markdown table of (benchmark, row)."""
    return "\n".join([HEAD, *(line(benchmark, row) for benchmark, row in found)])


def line(benchmark: str, row: Row) -> str:
    """A line of the table."""
    cells = (benchmark, row.case, *(_number(value, row.unit) for value in (row.value, row.other)))
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return f"| {' | '.join(cells)} | {ratio} | {row.notes} |"


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.4g} {unit}" if abs(value) < 1e4 else f"{value:,.0f} {unit}"


def machine() -> dict[str, Any]:
    """Facts that figures depend on, on Linux. Those that the system does not tell are "unknown"."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        # Linux may lend a process fewer cores than there are.
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "malloc": os.environ.get("GLIBC_TUNABLES", "") or "no huge pages asked for (GLIBC_TUNABLES)",
        "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load": os.getloadavg()[0],
    }


def _field(file: str, name: str) -> str:
    """The value of the first line "name: value" of a file of Linux; "" where there is none."""
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((text.partition(":")[2].strip() for text in lines if text.startswith(name)), "")


def _chosen(file: str) -> str:
    """The word in brackets: "always [madvise] never" is "madvise"."""
    path = Path(file)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.partition("[")[2].partition("]")[0] or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts(found: dict[str, Any], loads: Sequence[float]) -> str:
    """`machine()` in words, with the load before and after."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join(
        [
            f"{found['cpu']}; {found['usable_cores']} of {found['cores']} cores; {found['memory_gib']} GiB of memory",
            f"{found['system']}; Python {found['python']}; {versions}",
            f"malloc: {found['malloc']}; transparent huge pages: {found['transparent_huge_pages']}",
            f"load of the machine: {loads[0]:.1f} before, {loads[-1]:.1f} after",
        ]
    )
