"""Metrics of the steps between two log rows: fetched late and together, averaged or summed, with speeds added."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from xalign_jax.models.model import Model
from xalign_jax.runtime import hardware
from xalign_jax.runtime.logs import MetricsLog
from xalign_jax.training.stages import PlannedStage, step_flops


class NotFinite(Exception):
    """A loss or gradient is not finite: at which step, in which stream (None: in the gradient only)."""

    def __init__(self, step: int, stream: str | None, what: str) -> None:
        super().__init__(what)
        self.step, self.stream, self.what = step, stream, what


class Meter:
    """Collects the metrics of steps on the device and writes one row per `flush`.

    Fetching a number makes the host wait for the device. The meter therefore keeps metrics on the device and fetches
    them when a row is due, so that the host can queue further steps meanwhile.
    """

    def __init__(self, planned: PlannedStage, model: Model, log: MetricsLog | None) -> None:
        self._planned, self._log = planned, log
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        # Start of the time that the next row's steps share.
        self._since = time.monotonic()
        # Tokens of a step, padding included, and its FLOPs: both follow from shapes.
        self._tokens = sum(feed.count * feed.feed.length for feed in planned.feeds.values())
        self._flops = step_flops(planned.stage, model)
        self._peak = hardware.peak_flops()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Note a step's metrics. Waits for those of two steps ago, so the host never runs further ahead.

        Raises:
          NotFinite: as `flush`.
        """
        self._pending.append((step, metrics))
        # Reading `finite` is what waits. A step that was not finite ends the run here, not only when a row is due.
        if len(self._pending) > 2 and not self._pending[-3][1]["finite"]:
            self.flush()

    def flush(self) -> dict[str, str]:
        """Write the row of the steps since the last flush; returns what the progress bar shows.

        Raises:
          NotFinite: at the first step whose loss or gradient was not finite; nothing is written.
        """
        if not self._pending:
            return {}
        steps = [step for step, _ in self._pending]
        # One transfer for all steps of the row.
        fetched = jax.device_get([metrics for _, metrics in self._pending])
        for step, metrics in zip(steps, fetched, strict=True):
            if not metrics["finite"]:
                raise self._not_finite(step, metrics)
        self._pending.clear()
        row = self._row(fetched)
        # By source too, where a stream reads several. Steps are counted from 1 here and from 0 in feeds.
        if self._log is not None:
            for stream, feed in self._planned.feeds.items():
                drawn = feed.drawn([step - 1 for step in steps])
                row |= {f"{stream}/source/{name}": count for name, count in drawn.items()}
        now = time.monotonic()
        # The mean time of a step, by the clock between two flushes; `paused` moves the start.
        seconds, self._since = (now - self._since) / len(steps), now
        row |= {"perf/step_seconds": seconds, "perf/tokens_per_second": self._tokens / seconds}
        row["perf/model_flops_per_second"] = self._flops / seconds
        # Model FLOPs utilisation, where the chip's peak is known.
        if self._peak is not None:
            row["perf/mfu"] = row["perf/model_flops_per_second"] / self._peak
        if self._log is not None:
            self._log.write(self._planned.stage.name, steps[-1], row)
        return {"loss": f"{row['loss']:.3f}", "tok/s": f"{row['perf/tokens_per_second']:,.0f}"}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the enclosed work from the time of steps."""
        # First let the steps that are still running finish, which are part of that time.
        jax.block_until_ready([metrics for _, metrics in self._pending])
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def _not_finite(self, step: int, metrics: dict[str, Any]) -> NotFinite:
        """The cause: the first stream whose loss is not finite, else the gradient."""
        for stream in self._planned.stage.streams:
            if not np.isfinite(metrics[f"loss/{stream.name}"]):
                return NotFinite(step, stream.name, f"the loss of stream {stream.name}")
        return NotFinite(step, None, "the gradient")

    def _row(self, fetched: list[dict[str, Any]]) -> dict[str, float]:
        """Means of losses and metrics; sums of counters, and of tokens by language.

        A stream that takes turns has means over its own steps, and no means where it had no step.
        """
        row: dict[str, float] = {}
        for name in fetched[0]:
            if name in ("finite", "counts"):
                continue
            on = np.array([_is_on(metrics, name) for metrics in fetched])
            if on.any():
                row[name] = float(np.stack([metrics[name] for metrics in fetched])[on].mean())
        # Counters: (steps, ...) summed over the steps. `tokens` is a histogram over the stream's languages; streams add
        # up.
        for stream, counts in fetched[0]["counts"].items():
            for key in counts:
                total = np.stack([metrics["counts"][stream][key] for metrics in fetched]).sum(0)
                if key == "tokens":
                    for language, count in zip(self._planned.feeds[stream].feed.languages, total, strict=True):
                        row[f"tokens/{language}"] = row.get(f"tokens/{language}", 0) + int(count)
                else:
                    row[f"{stream}/{key.removeprefix('count_')}"] = int(total.sum())
        return row | self._switching(row)

    def _switching(self, row: dict[str, float]) -> dict[str, float]:
        """The effective switching rate (of words) and the dictionary's coverage (of the words drawn)."""
        found = {}
        for stream in self._planned.feeds:
            drawn, words = row.get(f"{stream}/drawn", 0), row.get(f"{stream}/words", 0)
            if drawn and words:
                found[f"{stream}/switch_rate"] = row[f"{stream}/switched"] / words
                found[f"{stream}/switch_coverage"] = row[f"{stream}/switched"] / drawn
        return found


def _is_on(metrics: dict[str, Any], name: str) -> bool:
    """Whether the stream of a metric, "loss/<stream>" or "<stream>/...", was computed at a step."""
    first, _, rest = name.partition("/")
    counts = metrics["counts"].get(rest if first == "loss" else first, {})
    return not rest or bool(counts.get("steps", 1))
