"""Writes metrics (`metrics.jsonl`, trackers) and results (`results.json`). One process writes; restarts are safe."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Row, TrackedRun, Tracker
from xalign_jax.records.files import metrics_rows, read_environment, read_shown
from xalign_jax.records.pictures import Drawn
from xalign_jax.runtime.storage import is_remote, upload, write_atomically
from xalign_jax.runtime.trackers import DEFAULT, Trackings, of_rows


class MetricsLog:
    """Appends rows to `metrics.jsonl` of one model directory, and passes them on to trackers.

    Opening the log at a restored step drops the rows beyond that step, so that no step is logged twice. Objects in an
    object store cannot be appended to: for a directory there, the files are kept in a local folder, and `sync` copies
    them.
    """

    def __init__(
        self, directory: epath.Path, restored_step: int, trackers: Sequence[Tracker] = DEFAULT, name: str = "run"
    ) -> None:
        """
        Args:
          name: of the run, for trackers.

        Raises:
          RunError: a tracker does not start.
        """
        self._directory = directory
        self._remote = is_remote(directory)
        self._folder = Path(tempfile.mkdtemp(prefix="xalign-logs-")) if self._remote else Path(directory)
        # Continue the rows of the object store, then drop what a crash left beyond the restored step.
        path = self._folder / "metrics.jsonl"
        if self._remote and (directory / path.name).exists():
            path.write_bytes((directory / path.name).read_bytes())
        keep_rows(path, lambda row: row["step"] <= restored_step)
        self._file = path.open("a", encoding="utf-8")
        environment = read_environment(directory)
        about = TrackedRun(
            name, environment.get("run_id", ""), self._folder, restored_step, environment.get("recipe", {})
        )
        self._trackings = Trackings(trackers, about)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row of plain numbers."""
        self._file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        self._file.flush()
        self._trackings.log(step, values)

    def results(self, step: int, rows: Sequence[Row]) -> None:
        """Pass the rows of probes on to trackers."""
        self._trackings.log(step, of_rows(rows))

    def sync(self) -> None:
        """Copy new rows to the object store. Call it before a checkpoint, so that a restart misses no rows."""
        if self._remote:
            self._trackings.flush()
            upload(self._folder, self._directory)

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        self._trackings.finish()
        self.sync()
        if self._remote:
            shutil.rmtree(self._folder)


def keep_rows(path: Path, wanted: Callable[[dict], bool]) -> None:
    """Rewrite a `metrics.jsonl` with the wanted rows.

    A half-written last line is dropped. Damaged lines are dropped, and a line on stderr counts them.
    """
    if not path.exists():
        return
    rows, damaged = [], []
    for number, row in metrics_rows(path):
        # `metrics_rows` leaves out half a last line and gives a UserError for a damaged one.
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
    "low",
    "high",
)


def write_results(directory: Path | epath.Path, rows: list[dict[str, Any]]) -> None:
    """Write `results.json` as strict JSON. Every row has every key; unused ones are null.

    A value that is not finite becomes null, and `reason` says what it was.

    Raises:
      RunError: the file could not be written.
    """
    # JSON has no NaN and no infinity; `allow_nan=False` would refuse one that is left.
    full = [{key: row.get(key) for key in RESULT_KEYS} | _not_finite(row["value"]) for row in rows]
    lines = [json.dumps(row, allow_nan=False) for row in full]
    write_atomically(directory / "results.json", "[\n" + ",\n".join(lines) + "\n]\n")


def write_shown(directory: Path | epath.Path, shown: dict[str, Any]) -> None:
    """Add to `probes.json` how reports show some probes, by name; what it says of other probes stays."""
    merged = read_shown(directory) | shown
    write_atomically(directory / "probes.json", json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def write_pictures(directory: Path | epath.Path, pictures: Sequence[Drawn]) -> None:
    """Write `pictures.json` as strict JSON, a picture a line.

    Raises:
      RunError: the file could not be written.
    """
    lines = [json.dumps(drawn.plain(), allow_nan=False) for drawn in pictures]
    write_atomically(directory / "pictures.json", "[\n" + ",\n".join(lines) + "\n]\n")


def _not_finite(value: float | None) -> dict[str, Any]:
    """The keys that replace a value for which JSON has no number; {} for other values."""
    return {} if value is None or math.isfinite(value) else {"value": None, "reason": f"not finite: {value}"}
