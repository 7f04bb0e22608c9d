"""Training, from top to bottom: a recipe, a runtime and a model directory in; checkpoints, metrics and results out."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from xalign_jax.errors import RunError
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.runtime import sharding, trackers
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.cluster import distributed, failures, lock
from xalign_jax.runtime.cluster.preemption import StopNotice
from xalign_jax.runtime.cluster.watchdog import Watchdog
from xalign_jax.runtime.logs import MetricsLog
from xalign_jax.training import carried, checks, inputs, probing, run_directory, stages, summary, tracing, warm_start
from xalign_jax.training.build import Built, build_model, build_run, claim, prepare
from xalign_jax.training.enter import batches, enter, save, start
from xalign_jax.training.meter import Meter, NotFinite
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState
from xalign_jax.training.step import jit_step, make_step
from xalign_jax.training.tracing import Profile, Tracer

MEMORY_ADVICE = (
    "bind Runtime.accumulate = 2 or more, Runtime.remat = True, a Runtime.mesh with more fsdp, "
    "or fewer Stream.batch_size"
)


class Interrupted(Exception):
    """The run was told to stop, saved its state and can be resumed."""


def train(
    recipe: Recipe,
    runtime: Runtime,
    model_dir: Path | epath.Path,
    name: str = "recipe",
    extend: bool = False,
    profile: Profile | None = None,
) -> None:
    """Train a recipe to its end, from the newest checkpoint in the model directory if there is one.

    Every process of a run calls this with the same arguments. They stay in step at the barriers
    (`distributed.wait_for_all`); process 0 alone writes the records of the directory.

    Args:
      name: the recipe's, for reports.
      extend: the last stage may have more steps than the run in the directory had.
      profile: trace some steps of each stage; None = none.

    Raises:
      UserError: something is wrong with the recipe, the data or the directory, the processes of the run do not agree,
        or another run is writing the directory. Nothing has been trained or written then.
      Interrupted: SIGTERM, SIGINT or a maintenance event came; the state is saved.
      RunError: a loss or gradient was not finite (`failure.json` says where), memory ran out, or storage failed.
    """
    # Claim: the recipe makes sense, and the directory is free or holds this very run. Both are known before any data is
    # read. `read` lists what the run reads, with fingerprints, so that a restart notices changes.
    model_dir = epath.Path(model_dir)
    checks.check(recipe)
    for tracker in trackers.chosen(runtime):
        tracker.check()
    read = claim(model_dir, recipe, runtime, extend)
    # A run that goes on has read what it started from.
    if not run_directory.steps_done(model_dir):
        warm_start.check(recipe)

    # Check shapes before any text is read, since tokenising may take hours: a blank vocabulary has the right size.
    # A directory that was moved brings its vocabulary and its words with it.
    mesh = sharding.make_mesh(runtime.mesh)
    here = carried.here(recipe, model_dir, probes=True)
    blank = stages.blank_data(here).tokenizer
    checks.check_shapes(recipe, runtime, build_model(recipe, runtime, blank), mesh)

    # Prepare: tokenise and open the data, which must be the data that the directory's checkpoints were trained on.
    corpus = prepare(recipe, here, model_dir)
    run_directory.claim_data(model_dir, corpus)
    read |= run_directory.claim_inputs(model_dir, inputs.of_data(recipe, corpus))

    # Build: the model without parameters, the feeds and the parametrization of each stage.
    run = build_run(recipe, runtime, mesh, corpus, read)
    if profile is not None and distributed.is_main():
        tracing.check(profile, run.stages, run_directory.steps_done(model_dir), model_dir)

    with (
        StopNotice() as stop_notice,  # hears signals and maintenance events
        lock.hold(model_dir, lambda cause: failures.fail(cause, 1)),  # one run at a time; losing the lock ends the run
        failures.advise(MEMORY_ADVICE),
    ):
        # Process 0 describes the run in the directory. The others wait for it before they look for checkpoints there.
        if distributed.is_main():
            run_directory.describe(model_dir, recipe, runtime, name, mesh, corpus, read)
        distributed.wait_for_all("model directory")

        # Restore the newest checkpoint or start the first stage, then train what remains, stage by stage.
        checkpoints = Checkpoints(model_dir / "checkpoints", keep=runtime.keep_checkpoints)
        current, first_stage = start(run, checkpoints)
        if distributed.is_main():
            print(*summary.start(run, name, model_dir, int(current.step)), sep="\n", file=sys.stderr, flush=True)
        with _log(model_dir, int(current.step), runtime, f"{name}, seed {recipe.seed}") as log:
            for number, planned in enumerate(run.stages[first_stage:], first_stage):
                if number > first_stage:
                    current = enter(run, number, current)
                with jax.set_mesh(mesh):
                    current = _train_stage(run, planned, current, model_dir, checkpoints, log, stop_notice, profile)

        # The run has come to its end: the last save is finished, and a failure of an earlier try no longer counts.
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
    stop_notice: StopNotice,
    profile: Profile | None,
) -> TrainState:
    """Take the steps of a stage that remain and run its probes; returns the state after its last step.

    Steps are counted over all stages: "step n" is the state after n updates. `current` is at a step of this stage.
    """
    runtime, done, last = run.runtime, int(current.step), planned.last_step

    update = _update(run, planned)
    meter, forecast = Meter(planned, run.model, log), summary.Forecast(run, planned, done)
    watchdog = Watchdog(runtime.watchdog_seconds)

    # An earlier try may have been stopped after it saved this step and before it probed it.
    if probing.due(run, planned, done) and not probing.probed(planned, done, model_dir):
        with meter.paused():
            probing.probe(run, planned, current, done, model_dir, log)
    try:
        with _bar(planned, done) as bar, watchdog, Tracer(profile, planned, done, model_dir, meter) as tracer:
            read = batches(run, planned, done, last, planned.feeds)
            for at, batch in zip(range(done + 1, last + 1), read, strict=True):
                # Update. This returns before the device has finished; only `meter` waits, a few steps behind.
                with jax.profiler.StepTraceAnnotation(tracing.STEP, step_num=at):
                    current, metrics = update(current, batch)
                meter.add(at, metrics)
                forecast.add(at)
                bar.update()
                watchdog.beat()

                # Trace, if asked. The text of the program is known, since the step has been compiled.
                tracer.after(at, metrics, functools.partial(_program, update, current, batch))

                # Every process asks at every step whether to stop, and all hear yes at the same one.
                stops = stop_notice.reached()
                saves = stops or at % runtime.checkpoint_every == 0 or at == last

                # Log. A save logs first: `flush` raises NotFinite, so nothing is saved after a step that was not finite.
                if saves or at % runtime.log_every == 0:
                    bar.set_postfix(meter.flush(), refresh=False)

                # Save, once the metrics up to here are in storage: a restart continues them from this step.
                if saves:
                    if log is not None:
                        log.sync()
                    save(run, planned, current, at, checkpoints)
                if stops:
                    checkpoints.close()
                    raise Interrupted

                # Probe within the stage, without counting its time as time of steps.
                if probing.due(run, planned, at):
                    watchdog.pause()
                    with meter.paused():
                        probing.probe(run, planned, current, at, model_dir, log)
    except NotFinite as found:
        checkpoints.wait()
        raise _failed(planned, found, model_dir) from None

    # The end of the stage: a run that is restarted here with all its steps done may have its results already.
    if not probing.probed(planned, last, model_dir):
        probing.probe(run, planned, current, last, model_dir, log)
    return current


def _update(run: Built, planned: PlannedStage) -> Any:
    """The update of a stage, one compiled function: (state, batches by stream) -> (next state, metrics)."""
    stage, seed = planned.stage, run.recipe.seed
    languages = {name: feed.feed.languages for name, feed in planned.feeds.items()}
    step = make_step(stage, run.coordinates[stage.name], run.model, planned.first_step, seed, languages)
    return jit_step(step, run.layout(stage).where)


def _program(update: Any, current: TrainState, batch: Any) -> str:
    """The text of the compiled step, from arguments like those of the last call. Nothing is compiled again."""
    return update.lower(current, batch).compile().as_text()


@contextlib.contextmanager
def _log(model_dir: epath.Path, at: int, runtime: Runtime, name: str) -> Iterator[MetricsLog | None]:
    """The log of a run that continues after step `at`; None on every process but the first, which alone writes it."""
    if not distributed.is_main():
        yield None
        return
    run_directory.drop_results_past(model_dir, at)
    log = MetricsLog(model_dir, at, trackers.chosen(runtime), name)
    try:
        yield log
    finally:
        log.close()


def _failed(planned: PlannedStage, found: NotFinite, model_dir: epath.Path) -> RunError:
    """Write `failure.json`, with the batch, and return the error to raise."""
    reason = f"stage {planned.stage.name}, step {found.step}: {found.what} is not finite"
    if distributed.is_main():
        # The update that leads to step n is number n - 1, since updates are counted from 0.
        batch = {name: feed.batch(found.step - 1, slice(0, feed.count)) for name, feed in planned.feeds.items()}
        run_directory.record_failure(model_dir, planned.stage.name, found.step, found.stream, reason, batch)
    # Wait here: the first process to exit kills the others, possibly before failure.json is written.
    distributed.wait_for_all("failure.json")
    return RunError(f"{reason}; see {model_dir}/failure.json; a lower learning rate (the stage's schedule) may help")


def _bar(planned: PlannedStage, done: int) -> tqdm:
    """The progress bar of a stage, which begins at the steps that are done; none for a stage without steps left."""
    return tqdm(
        total=planned.stage.steps,
        initial=done - planned.first_step,
        desc=planned.stage.name,
        unit="step",
        disable=not distributed.is_main() or done == planned.last_step,
        mininterval=0.5 if sys.stderr.isatty() else 15,  # a log file gets a line, not a moving bar
    )
