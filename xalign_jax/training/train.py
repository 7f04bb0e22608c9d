"""Training, from top to bottom: a recipe, a runtime and a model directory in; checkpoints, metrics and results out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath
from tqdm import tqdm

from xalign_jax.errors import RunError
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.cluster import distributed, failures, lock
from xalign_jax.runtime.cluster.preemption import StopNotice
from xalign_jax.runtime.cluster.watchdog import Watchdog
from xalign_jax.runtime.logs import MetricsLog
from xalign_jax.training import checks, inputs, probing, run_directory, stages
from xalign_jax.training.build import Built, build_model, build_run, claim, prepare
from xalign_jax.training.enter import batches, enter, save, start
from xalign_jax.training.meter import Meter, NotFinite
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState
from xalign_jax.training.step import jit_step, make_step

MEMORY_ADVICE = "bind Runtime.accumulate = 2 or more, Runtime.remat = True, a Runtime.mesh with more fsdp, or fewer Stream.batch_size"


class Interrupted(Exception):
    """The run was told to stop, saved its state and can be resumed."""


def train(
    recipe: Recipe, runtime: Runtime, model_dir: Path | epath.Path, name: str = "recipe", extend: bool = False
) -> None:
    """Train a recipe to its end, from the newest checkpoint in the model directory if there is one.

    Args:
      name: the recipe's, for reports.
      extend: the last stage may have more steps than the run in the directory had.

    Raises:
      UserError: before anything is trained or written, for whatever is wrong with the recipe, the data or the directory,
        and where the processes of the run do not agree. Or another run is writing the directory.
      Interrupted: SIGTERM, SIGINT or a maintenance event came; the state is saved.
      RunError: a loss or gradient was not finite (`failure.json` says where), memory ran out, or storage failed.
    """
    # Claim: the recipe makes sense, and the directory is free or holds this very run.
    model_dir = epath.Path(model_dir)
    checks.check(recipe)
    read = claim(model_dir, recipe, runtime, extend)

    # Prepare: shapes are checked before any text is read.
    mesh = sharding.make_mesh(runtime.mesh)
    blank = stages.blank_data(recipe).tokenizer
    checks.check_shapes(recipe, runtime, build_model(recipe, runtime, blank), mesh)
    corpus = prepare(recipe)
    run_directory.claim_data(model_dir, corpus)
    read |= run_directory.claim_inputs(model_dir, inputs.of_data(recipe, corpus))

    # Build: the model, and each stage's feeds.
    run = build_run(recipe, runtime, mesh, corpus)

    with (
        StopNotice() as notice,
        lock.hold(model_dir, lambda cause: failures.fail(cause, 1)),
        failures.advise(MEMORY_ADVICE),
    ):
        if distributed.is_main():
            run_directory.describe(model_dir, recipe, runtime, name, mesh, corpus, read)
        distributed.wait_for_all("model directory")

        # Restore or start.
        checkpoints = Checkpoints(model_dir / "checkpoints", keep=runtime.keep_checkpoints)
        current, first = start(run, checkpoints)
        with _log(model_dir, int(current.step)) as log:
            for number, planned in enumerate(run.stages[first:], first):
                if number > first:
                    current = enter(run, number, current)
                with jax.set_mesh(mesh):
                    current = _train_stage(run, planned, current, model_dir, checkpoints, log, notice)
        checkpoints.close()
        if distributed.is_main():
            run_directory.forget_failure(model_dir)


def _train_stage(
    run: Built,
    planned: PlannedStage,
    current: TrainState,
    model_dir: epath.Path,
    checkpoints: Checkpoints,
    log: MetricsLog | None,
    notice: StopNotice,
) -> TrainState:
    """The stage's remaining steps and its probes; returns the state after its last step."""
    stage, every, first, last = planned.stage, run.runtime, int(current.step), planned.last_step
    languages = {name: feed.feed.languages for name, feed in planned.feeds.items()}
    step = make_step(stage, run.coordinates[stage.name], run.model, planned.first_step, run.recipe.seed, languages)
    update = jit_step(step, run.layout(stage).where)
    meter, watchdog = Meter(planned, run.model, log), Watchdog(every.watchdog_seconds)

    if probing.due(run, planned, first) and not probing.probed(planned, first, model_dir):
        with meter.paused():  # the run was stopped between saving and probing
            probing.probe(run, planned, current, first, model_dir)
    try:
        with _bar(planned, first) as bar, watchdog:
            steps = zip(range(first + 1, last + 1), batches(run, planned, first, last, planned.feeds), strict=True)
            for at, batch in steps:
                # Update.
                current, metrics = update(current, batch)
                meter.add(at, metrics)
                bar.update()
                watchdog.beat()
                stop = notice.reached()
                saves = stop or at % every.checkpoint_every == 0 or at == last

                # Log.
                if saves or at % every.log_every == 0:
                    bar.set_postfix(meter.flush(), refresh=False)

                # Save: the metrics up to here first.
                if saves:
                    if log is not None:
                        log.sync()
                    save(run, planned, current, at, checkpoints)
                if stop:
                    checkpoints.close()
                    raise Interrupted

                # Probe.
                if probing.due(run, planned, at):
                    watchdog.pause()
                    with meter.paused():
                        probing.probe(run, planned, current, at, model_dir)
    except NotFinite as found:
        checkpoints.wait()
        raise _failed(planned, found, model_dir) from None
    if not probing.probed(planned, last, model_dir):
        probing.probe(run, planned, current, last, model_dir)
    return current


@contextlib.contextmanager
def _log(model_dir: epath.Path, at: int) -> Iterator[MetricsLog | None]:
    """The log of a run that goes on after step `at`; None on all processes but the first."""
    if not distributed.is_main():
        yield None
        return
    run_directory.drop_results_past(model_dir, at)
    log = MetricsLog(model_dir, at)
    try:
        yield log
    finally:
        log.close()


def _failed(planned: PlannedStage, found: NotFinite, model_dir: epath.Path) -> RunError:
    """Write `failure.json`, with the batch, and return the error to raise."""
    reason = f"stage {planned.stage.name}, step {found.step}: {found.what} is not finite"
    if distributed.is_main():
        batch = {name: feed.batch(found.step - 1, slice(0, feed.count)) for name, feed in planned.feeds.items()}
        run_directory.record_failure(model_dir, planned.stage.name, found.step, found.stream, reason, batch)
    # Wait here: the first process to exit kills the others, possibly before failure.json is written.
    distributed.wait_for_all("failure.json")
    return RunError(f"{reason}; see {model_dir}/failure.json; a lower learning rate (the stage's schedule) may help")


def _bar(planned: PlannedStage, first: int) -> tqdm:
    return tqdm(
        total=planned.stage.steps,
        initial=first - planned.first_step,
        desc=planned.stage.name,
        unit="step",
        disable=not distributed.is_main(),
        mininterval=0.5 if sys.stderr.isatty() else 15,
    )
