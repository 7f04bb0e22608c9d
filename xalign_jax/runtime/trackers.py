"""Trackers of experiments: TensorBoard, which is the default, and Weights & Biases and Trackio, which are optional.

    Runtime.trackers = (@TensorBoard(), @Wandb())
    Wandb.project = "alignment"

A tracker of your own is a frozen dataclass that derives from `interfaces.Tracker` and is registered with gin.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from xalign_jax.errors import RunError, UserError, install, one_line
from xalign_jax.interfaces import Row, TrackedRun, Tracker, Tracking
from xalign_jax.recipe import Runtime, freeze, one_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the model directory."""

    def start(self, run: TrackedRun) -> Tracking:
        """Open a file. Steps beyond the restored one are dropped from what TensorBoard shows."""
        return _Events(_summary_writer()(str(run.folder), purge_step=run.step + 1))


class _Events(Tracking):
    """tensorboardX writes the files, because clu's writer would load TensorFlow."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        self._board.flush()

    def finish(self) -> None:
        self._board.close()


def _summary_writer() -> Any:
    """tensorboardX's writer. Its import of PyTorch, if that is installed, takes seconds and is prevented."""
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


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Wandb(Tracker):
    """Weights & Biases (extra `wandb`). A restart continues the same run there.

    Attributes:
      project: where the run is listed.
      entity: the user or team that owns it; None = yourself.
      mode: "online", or "offline" to write files that `wandb sync` uploads later.
    """

    project: str = "xalign_jax"
    entity: str | None = None
    mode: str = "online"

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "mode", ("online", "offline"))

    def check(self) -> None:
        """Raise UserError if the package is missing."""
        _require("Wandb", "wandb")

    def start(self, run: TrackedRun) -> Tracking:
        """Start or continue the run with the id of the model directory."""
        wandb: Any = importlib.import_module("wandb")
        settings = {"config": dict(run.config), "dir": str(run.folder), "name": run.name, "id": run.id}
        own = wandb.init(project=self.project, entity=self.entity, mode=self.mode, resume="allow", **settings)
        # Steps are values, since wandb's own may not go back, as they do after a restart.
        own.define_metric("*", step_metric="step")
        return _WandbRun(own)


class _WandbRun(Tracking):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def finish(self) -> None:
        self._run.finish()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Trackio(Tracker):
    """Trackio (extra `trackio`): a local dashboard, `trackio show`. A restart continues the same run there.

    Attributes:
      project: where the run is listed.
      space: a Space on the Hugging Face Hub ("user/name") that shows the runs; None = this machine.
    """

    project: str = "xalign_jax"
    space: str | None = None

    def __post_init__(self) -> None:
        freeze(self)

    def check(self) -> None:
        """Raise UserError if the package is missing."""
        _require("Trackio", "trackio")

    def start(self, run: TrackedRun) -> Tracking:
        """Start or continue the run of that name; the id of the model directory is a part of it."""
        trackio: Any = importlib.import_module("trackio")
        own = trackio.init(
            project=self.project,
            name=f"{run.name}-{run.id}",
            space_id=self.space,
            config=dict(run.config),
            resume="allow",
        )
        return _TrackioRun(own)


class _TrackioRun(Tracking):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._run.finish()


DEFAULT: tuple[Tracker, ...] = (TensorBoard(),)


def chosen(runtime: Runtime) -> tuple[Tracker, ...]:
    """The trackers of a runtime."""
    return DEFAULT if runtime.trackers is None else runtime.trackers


class Trackings(Tracking):
    """Several trackers as one. A tracker that fails during a run gets no more numbers, and the run goes on."""

    def __init__(self, trackers: Sequence[Tracker], run: TrackedRun) -> None:
        """
        Raises:
          RunError: a tracker does not start, for example for want of a login.
        """
        self._open: dict[str, Tracking] = {}
        for tracker in trackers:
            name = type(tracker).__name__
            try:
                self._open[name] = tracker.start(run)
            except Exception as error:  # each library raises exceptions of its own
                self.finish()
                without = "take it out of Runtime.trackers to train without it"
                raise RunError(f"{name} does not start ({one_line(error)}); {without}") from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._each("log", step, values)

    def flush(self) -> None:
        self._each("flush")

    def finish(self) -> None:
        self._each("finish")
        self._open.clear()

    def _each(self, method: str, *arguments: Any) -> None:
        for name, tracking in list(self._open.items()):
            try:
                getattr(tracking, method)(*arguments)
            except Exception as error:
                del self._open[name]
                print(f"xalign: {name} gets no more numbers of this run: {one_line(error)}", file=sys.stderr)


def of_rows(rows: Sequence[Row]) -> dict[str, float]:
    """The values of a probe's rows by name, such as "probes/perplexity/perplexity/en"; those that are null left out."""
    parts = ("probe", "metric", "language", "split", "level", "control")
    return {
        "/".join(["probes", *(str(row[part]) for part in parts if row.get(part) is not None)]): row["value"]
        for row in rows
        if row["value"] is not None
    }


def _require(tracker: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        how = f"pip install {package}, or {install(package)}"
        raise UserError(f"Runtime.trackers: {tracker} needs the package {package}: {how}")
