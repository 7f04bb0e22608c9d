"""Metrics to `metrics.jsonl` and TensorBoard, and rows to `results.json`; one writer, safe to restart."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.records.files import metrics_rows, read_shown
from xalign_jax.runtime.storage import is_remote, upload, write_atomically


def _summary_writer() -> Any:
    """tensorboardX's writer, imported without PyTorch, which it loads for seconds wherever it is installed."""
    loaded = sys.modules.get("torch")
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if loaded is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = loaded
    return SummaryWriter


class MetricsLog:
    """Appends rows to `metrics.jsonl` and to TensorBoard event files of one model directory.

    Opening it at a restored step drops the rows past that step, so that no step is ever logged twice. Objects cannot be
    appended to: for a directory in an object store both are kept in a local folder and copied there by `sync`.
    TensorBoard is written by tensorboardX: clu's writer would load TensorFlow.
    """

    def __init__(self, directory: epath.Path, restored_step: int) -> None:
        self._directory = directory
        self._remote = is_remote(directory)
        self._folder = Path(tempfile.mkdtemp(prefix="xalign-logs-")) if self._remote else Path(directory)
        path = self._folder / "metrics.jsonl"
        if self._remote and (directory / path.name).exists():
            path.write_bytes((directory / path.name).read_bytes())
        keep_rows(path, lambda row: row["step"] <= restored_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _summary_writer()(str(self._folder), purge_step=restored_step + 1)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One row of plain numbers."""
        self._file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Make what was written visible in the object store; before a checkpoint, lest a restart miss rows."""
        if self._remote:
            self._board.flush()
            upload(self._folder, self._directory)

    def close(self) -> None:
        """Flush everything to its place."""
        self._file.close()
        self._board.close()
        self.sync()
        if self._remote:
            shutil.rmtree(self._folder)


def keep_rows(path: Path, wanted: Callable[[dict], bool]) -> None:
    """Rewrite a `metrics.jsonl` with the wanted rows; a half-written last line goes too, and damaged ones with a word."""
    if not path.exists():
        return
    rows, damaged = [], []
    for number, row in metrics_rows(path):
        if isinstance(row, UserError):
            damaged.append(number)
        elif wanted(row):
            rows.append(json.dumps(row))
    if damaged:
        print(f"xalign: {path}:{damaged[0]}: {len(damaged)} damaged lines from there on were dropped", file=sys.stderr)
    write_atomically(path, "".join(line + "\n" for line in rows))


RESULT_KEYS = (
    "stage",
    "step",
    "probe",
    "metric",
    "value",
    "n",
    "language",
    "level",
    "split",
    "seed",
    "control",
    "settings",
    "data",
    "reason",
)


def write_results(directory: Path | epath.Path, rows: list[dict[str, Any]]) -> None:
    """Write `results.json` as strict JSON: every row has every key, unused ones null.

    A value that is not finite becomes null too; `reason` then says what it was.
    """
    full = [{key: row.get(key) for key in RESULT_KEYS} | _not_finite(row["value"]) for row in rows]
    lines = [json.dumps(row, allow_nan=False) for row in full]
    write_atomically(directory / "results.json", "[\n" + ",\n".join(lines) + "\n]\n")


def write_shown(directory: Path | epath.Path, shown: dict[str, Any]) -> None:
    """Add to `probes.json` how reports show some probes, by name; what it says of other probes stays."""
    merged = read_shown(directory) | shown
    write_atomically(directory / "probes.json", json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def _not_finite(value: float | None) -> dict[str, Any]:
    """What replaces a value that JSON has no number for."""
    return {} if value is None or math.isfinite(value) else {"value": None, "reason": f"not finite: {value}"}
