"""Traces some steps of a stage with JAX's profiler, after the step that compiles and two more.

The trace is for TensorBoard. What it says in words is made by a function of the caller (`Profile.report`).
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from xalign_jax.errors import UserError
from xalign_jax.runtime import storage
from xalign_jax.runtime.cluster import distributed
from xalign_jax.training.meter import Meter
from xalign_jax.training.stages import PlannedStage

WARM = 3  # steps before the trace: one that compiles, and two whose time is compared with that of traced steps
DATA, STEP = "wait for a batch", "train"  # names of the host's events in a trace
FOLDER = "profile"  # of a model directory; it has a folder for each traced stage
RESULT = "profile.json"  # the file that a stage's folder has once its trace is finished


@dataclasses.dataclass(frozen=True)
class Traced:
    """A finished trace.

    Attributes:
      folder: of the stage; the trace lies in plugins/profile/TIME/HOST.xplane.pb, as TensorBoard expects it.
      stage: its name.
      first_step, steps: the first traced step, counted from 1 over all stages, and how many there are.
      seconds, seconds_before: of a step within the trace, and of a step just before it.
      program: text of the compiled step.
    """

    folder: Path
    stage: str
    first_step: int
    steps: int
    seconds: float
    seconds_before: float
    program: str


@dataclasses.dataclass(frozen=True)
class Profile:
    """What `xalign train --profile` asks for.

    Attributes:
      steps: how many steps of each stage are traced.
      report: writes `RESULT` and whatever else it likes into the folder of a trace; returns text to print.
    """

    steps: int
    report: Callable[[Traced], str]


def check(profile: Profile, planned: Sequence[PlannedStage], done: int, model_dir: epath.Path) -> None:
    """Check that a stage has enough steps, and name the stages that will not be traced.

    A directory with a trace is never refused, because an interrupted run repeats its command.

    Args:
      done: steps done over all stages.

    Raises:
      UserError: no stage has enough steps left for a trace of this many, and there is no trace yet.
    """
    remaining = [one for one in planned if one.last_step > done] or planned[-1:]
    left = {one.stage.name: max(0, one.last_step - max(done, one.first_step)) for one in remaining}
    short = {name: steps for name, steps in left.items() if steps < profile.steps + WARM}
    words = ", ".join(f"{name} has {steps}" for name, steps in short.items())
    if len(short) == len(left) and not any(_finished(place) for place in _places(model_dir)):
        most = max(left.values()) - WARM
        advice = f"at most --profile={most}" if most > 0 else "leave out --profile"
        raise UserError(f"--profile={profile.steps}: too few steps are left, for {WARM} go before: {words}; {advice}")
    if short:
        print(f"--profile={profile.steps}: too few steps, not traced: {words}", file=sys.stderr, flush=True)


def _places(model_dir: epath.Path) -> list[epath.Path]:
    """The folders of traces in a model directory."""
    folder = model_dir / FOLDER
    return list(folder.iterdir()) if folder.exists() else []


def _finished(place: epath.Path) -> bool:
    """Whether a stage's folder has a finished trace."""
    return (place / RESULT).exists()


class Tracer:
    """Starts and stops the trace of a stage; `after` is called after every step. A context that ends a broken trace.

    The first process alone traces. A stage is traced once: an interrupted run repeats its command, `--profile` included.
    """

    def __init__(
        self, profile: Profile | None, planned: PlannedStage, done: int, model_dir: epath.Path, meter: Meter
    ) -> None:
        self._profile, self._stage, self._meter = profile, planned.stage.name, meter
        self._target = model_dir / FOLDER / self._stage
        # Steps are counted from 1 here: `first` is the first traced one. 0 = none.
        first = max(done, planned.first_step) + WARM + 1
        self._first = self._last = 0
        # When the steps began that are being timed; seconds of a step before the trace, and within it.
        self._since = self._before = self._seconds = 0.0
        self._folder: Path | None = None  # where the trace is written
        self._running = False
        if profile is None or not distributed.is_main():
            return
        if _finished(self._target):
            again = f"{self._target} has a trace of this stage, which stays; move it away to trace again"
            print(f"--profile: {again}", file=sys.stderr, flush=True)
        elif first + profile.steps - 1 <= planned.last_step:
            self._first, self._last = first, first + profile.steps - 1

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # The run stops within the trace: end it, so that the process can.
        if self._running:
            self._stop()

    def after(self, at: int, metrics: Any, program: Callable[[], str]) -> None:
        """Note that step `at` was called. After the last step of the trace, write and print the report.

        Args:
          metrics: of the step. Where a trace begins or ends, this waits for them.
          program: gives the text of the compiled step.
        """
        if not self._first or at not in (self._first - WARM, self._first - 1, self._last):
            return
        jax.block_until_ready(metrics)
        now = time.perf_counter()
        if at == self._first - 1:
            self._before = (now - self._since) / (WARM - 1)
            self._start()
        elif at == self._last:
            self._seconds = (now - self._since) / (self._last - self._first + 1)
            self._stop()
            # The report's time is no time of steps.
            with self._meter.paused():
                tqdm.write(self._report(program()))
        self._since = time.perf_counter()

    def _start(self) -> None:
        # JAX writes to local folders only.
        remote = storage.is_remote(self._target)
        self._folder = Path(tempfile.mkdtemp(prefix="xalign-profile-") if remote else self._target)
        # The tracer of Python calls would slow the steps and hide them among thousands of lines.
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._running = True

    def _stop(self) -> None:
        self._running = False
        with storage.writing(str(self._target)):
            jax.profiler.stop_trace()

    def _report(self, program: str) -> str:
        """Write the report of the trace into the model directory; returns the text to print.

        Args:
          program: the text of the compiled step.
        """
        assert self._folder is not None and self._profile is not None
        folder = self._folder
        steps = self._last - self._first + 1
        traced = Traced(folder, self._stage, self._first, steps, self._seconds, self._before, program)
        text = self._profile.report(traced)
        if storage.is_remote(self._target):
            storage.upload(folder, self._target)
            shutil.rmtree(folder)
        return f"{text}\nThe trace: tensorboard --logdir={self._target}"


def waits(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, with an event in a trace wherever the caller waits for one."""
    source, end = iter(batches), object()
    while True:
        with jax.profiler.TraceAnnotation(DATA):
            batch: Any = next(source, end)
        if batch is end:
            return
        yield batch
