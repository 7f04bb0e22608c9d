"""The training loop: a recipe, a runtime and a model directory in; checkpoints, metrics and results out."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from xalign_jax import target
from xalign_jax.data.tokens.vocabulary import Tokenizer
from xalign_jax.errors import RunError, UserError
from xalign_jax.models.model import Model, build
from xalign_jax.recipe import Recipe, Runtime, Stage, as_json, located
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import Checkpoints, abstract
from xalign_jax.runtime.cluster import distributed, failures, lock
from xalign_jax.runtime.cluster.preemption import StopNotice
from xalign_jax.runtime.cluster.watchdog import Watchdog
from xalign_jax.runtime.logs import MetricsLog
from xalign_jax.training import inputs, run_directory, stages, state
from xalign_jax.training.meter import Meter, NotFinite
from xalign_jax.training.state import TrainState
from xalign_jax.training.step import jit_step, make_step, stream_key
from xalign_jax.training.warm_start import initial_params

MEMORY_ADVICE = "bind Runtime.accumulate = 2 or more, Runtime.remat = True, a Runtime.mesh with more fsdp, or fewer Stream.batch_size"


class Interrupted(Exception):
    """The run was told to stop, saved its state and can be resumed."""


class Run:
    """One recipe on one mesh writing one model directory.

    Raises:
      UserError: before anything is trained or written, for whatever the recipe, the data or the directory has wrong, and
        for whatever the processes of the run do not agree on.
    """

    def __init__(
        self, recipe: Recipe, runtime: Runtime, model_dir: Path | epath.Path, name: str, extend: bool = False
    ) -> None:
        stages.check(recipe)
        self.recipe, self.runtime, self.model_dir, self.name = recipe, runtime, epath.Path(model_dir), name
        distributed.agree(
            {"Recipe": as_json(recipe), "Runtime": as_json(runtime), "--model_dir": str(model_dir), "--extend": extend}
            | {"versions": run_directory.versions(), "source": run_directory.source(), "git": run_directory.git()}
        )
        run_directory.claim(self.model_dir, recipe, extend)
        self.inputs = run_directory.claim_inputs(self.model_dir, inputs.of_start(recipe))
        self.mesh = sharding.make_mesh(runtime.mesh)
        stages.check_rows(recipe, sharding.batch_ways(self.mesh), runtime.accumulate)
        states = self._check_states(build_model(recipe, runtime, stages.blank_data(recipe).tokenizer))
        if distributed.is_main():
            stages.prepare_data(recipe)
        distributed.wait_for_all("data")
        if not distributed.is_main():  # a host with a cache of its own
            stages.prepare_data(recipe)
        self.corpus = stages.load_data(recipe)
        if distributed.is_main() and self.corpus.lexicon is not None:
            print(*self.corpus.lexicon.summary, sep="\n", file=sys.stderr, flush=True)
        run_directory.claim_data(self.model_dir, self.corpus)
        self.inputs |= run_directory.claim_inputs(self.model_dir, inputs.of_data(recipe, self.corpus))
        self.model = build_model(recipe, runtime, self.corpus.tokenizer)
        self.stages = stages.plan(recipe, self.corpus)
        self.coordinates = {stage.name: stage.parametrization.bind(self.model, self.corpus) for stage in recipe.stages}
        stages.check_batches(self.stages, self.model, states)
        stages.check_types(self.stages, self.model)
        stages.check_probes((p for stage in recipe.stages for p in stage.probes), self.model, self.corpus)
        if jax.process_count() > 1:
            own = {"texts": run_directory.texts(self.corpus), "inputs": inputs.fingerprints(self.inputs)}
            own |= {"first rows": first_rows(self.stages)}
            bound = {f"{name}/Stage.parametrization": found.fingerprint for name, found in self.coordinates.items()}
            distributed.agree(own | bound)

    def _check_states(self, model: Model) -> list[state.Layout]:
        """Objectives say what they cannot work with; an optimiser's state is kept where the next one has the same.

        Returns:
          the shapes and places of each stage's state.
        """
        before, found = None, []
        for stage in self.recipe.stages:
            coordinates = stage.parametrization.bind(model, None)
            known = state.layout(stage, coordinates, model, self.recipe.seed, self.mesh)
            found.append(known)
            own = jax.tree.flatten(known.abstract.opt_state)
            if stage.keep_optimizer and own != before:
                raise UserError(
                    f"{stage.name}/Stage.keep_optimizer: the stage before has another optimiser or other heads, or there is none"
                )
            before = own
        return found

    def train(self) -> None:
        """Train to the recipe's end, from the newest checkpoint if there is one.

        Raises:
          Interrupted: SIGTERM, SIGINT or a maintenance event came; the state is saved.
          UserError: another run is writing the model directory, or not every process sees it.
          RunError: a loss or gradient was not finite (`failure.json` says where), memory ran out, or storage failed.
        """
        with (
            StopNotice() as self.notice,
            lock.hold(self.model_dir, lambda cause: failures.fail(cause, 1)),
            failures.advise(MEMORY_ADVICE),
        ):
            if distributed.is_main():
                about = (self.name, self.mesh, self.corpus, self.inputs)
                run_directory.describe(self.model_dir, self.recipe, self.runtime, *about)
            distributed.wait_for_all("model directory")
            self.checkpoints = Checkpoints(self.model_dir / "checkpoints", keep=self.runtime.keep_checkpoints)
            current, first = self._start()
            at = int(current.step)
            if distributed.is_main():
                run_directory.drop_results_past(self.model_dir, at)
            log = MetricsLog(self.model_dir, at) if distributed.is_main() else None
            try:
                self._run_stages(current, first, log)
            finally:
                if log is not None:
                    log.close()
            self.checkpoints.close()
            if distributed.is_main():
                run_directory.forget_failure(self.model_dir)

    def _layout(self, stage: Stage) -> state.Layout:
        return state.layout(stage, self.coordinates[stage.name], self.model, self.recipe.seed, self.mesh)

    def _parameters(self, stage: Stage, current: TrainState) -> Any:
        """The parameters {"model", "heads"} that a state stands for."""
        return state.parameters(self.coordinates[stage.name], current, self._layout(stage).where_params)

    def _run_stages(self, current: TrainState, first: int, log: MetricsLog | None) -> None:
        for number, planned in enumerate(self.stages[first:], first):
            if number > first:
                current = self._enter(number, current)
            with jax.set_mesh(self.mesh):
                current = self._run_stage(planned, current, log)

    def _start(self) -> tuple[TrainState, int]:
        """The state to continue from and the number of the stage it belongs to."""
        newest = self.checkpoints.newest(self._restored)
        return (self._enter(0), 0) if newest is None else newest[1]

    def _restored(self, at: int) -> tuple[TrainState, int]:
        """The state at a checkpoint and the number of its stage."""
        names = [planned.stage.name for planned in self.stages]
        number = names.index(self.checkpoints.about(at)["stage"])
        stage = self.stages[number].stage
        known, coordinates = self._layout(stage), self.coordinates[stage.name]
        shapes, where = (
            {
                "opt_state": own.opt_state,
                "memory": own.memory,
                **_only_if_any(hidden=coordinates.hidden(own.free, own.fixed)),
            }
            for own in (known.abstract, known.where)
        )
        params = abstract(known.abstract_params, known.where_params)
        params, rest = self.checkpoints.restore(at, params, abstract(shapes, where))
        free, fixed = coordinates.resume(params, rest.get("hidden", {}))
        step = jax.device_put(np.int32(at), known.where.step)
        return TrainState(step, free, fixed, rest["opt_state"], rest["memory"]), number

    def _enter(self, number: int, previous: TrainState | None = None) -> TrainState:
        """The state before the first step of stage `number`; `previous` is the end of the stage before."""
        planned, opt_state, memory = self.stages[number], None, {}
        stage = planned.stage
        if previous is None:
            params = None
            if self.recipe.init_from is not None:
                params = {"model": initial_params(self.recipe, self.model, self.corpus, self.mesh)}
        else:
            before = self.stages[number - 1].stage
            params, memory = self._parameters(before, previous), previous.memory
            opt_state = previous.opt_state if stage.keep_optimizer else None
        current = state.begin(
            stage,
            self.coordinates[stage.name],
            self.model,
            self.recipe.seed,
            self.mesh,
            step=planned.first_step,
            params=params,
            memory=memory,
            opt_state=opt_state,
        )
        return self._prefilled(planned, current, known=set(memory))

    def _prefilled(self, planned: stages.PlannedStage, current: TrainState, known: set[str]) -> TrainState:
        """New memories (not those `known`) are filled from the parameters and the streams' first batches."""
        memory = dict(current.memory)
        for stream in planned.stage.streams:
            if stream.name in memory and stream.name not in known and hasattr(stream.objective, "prefill"):
                batches = (
                    batch[stream.name]
                    for batch in self._batches(planned, planned.first_step, sys.maxsize, (stream.name,))
                )
                key = stream_key(self.recipe.seed, current.step, f"{stream.name} prefill")
                params = self._parameters(planned.stage, current)
                with jax.set_mesh(self.mesh):
                    filled = stream.objective.prefill(self.model, params, memory[stream.name], batches, key)
                memory[stream.name] = jax.device_put(filled, self._layout(planned.stage).where.memory[stream.name])
        return current._replace(memory=memory)

    def _run_stage(self, planned: stages.PlannedStage, current: TrainState, log: MetricsLog | None) -> TrainState:
        """The stage's remaining steps, then its probes unless they have already run."""
        meter = Meter(planned, self.model, log)
        try:
            current = self._steps(planned, current, meter, log)
        except NotFinite as found:
            self.checkpoints.wait()
            batch = {name: feed.batch(found.step - 1, slice(0, feed.count)) for name, feed in planned.feeds.items()}
            reason = f"stage {planned.stage.name}, step {found.step}: {found.what} is not finite"
            if distributed.is_main():
                run_directory.record_failure(
                    self.model_dir, planned.stage.name, found.step, found.stream, reason, batch
                )
            # The first process to exit would end the others before it is written.
            distributed.wait_for_all("failure.json")
            hint = f"see {self.model_dir}/failure.json; a lower learning rate (the stage's schedule) may help"
            raise RunError(f"{reason}; {hint}") from None
        if not self._has_probed(planned.stage, planned.last_step):
            self._probe(current, planned.last_step, planned)
        return current

    def _steps(
        self, planned: stages.PlannedStage, current: TrainState, meter: Meter, log: MetricsLog | None
    ) -> TrainState:
        stage, first, every = planned.stage, int(current.step), self.runtime
        languages = {name: feed.feed.languages for name, feed in planned.feeds.items()}
        coordinates = self.coordinates[stage.name]
        step = make_step(stage, coordinates, self.model, planned.first_step, self.recipe.seed, languages)
        update = jit_step(step, self._layout(stage).where)
        if self._probes_at(first, planned) and not self._has_probed(stage, first):
            with meter.paused():
                self._probe(current, first, planned)  # the run was stopped between saving and probing
        watchdog = Watchdog(every.watchdog_seconds)
        with self._bar(planned, first) as bar, watchdog:
            last = planned.last_step
            for at, batch in zip(
                range(first + 1, last + 1), self._batches(planned, first, last, planned.feeds), strict=True
            ):
                current, metrics = update(current, batch)
                meter.add(at, metrics)
                bar.update()
                watchdog.beat()
                stop = self.notice.reached()
                save = stop or at % every.checkpoint_every == 0 or at == planned.last_step
                if save or at % every.log_every == 0:
                    bar.set_postfix(meter.flush(), refresh=False)
                if save:
                    if log is not None:
                        log.sync()
                    self._save(current, at, stage)
                if stop:
                    self.checkpoints.close()
                    raise Interrupted
                if self._probes_at(at, planned):
                    watchdog.pause()
                    with meter.paused():
                        self._probe(current, at, planned)
        return current

    def _has_probed(self, stage: Stage, step: int) -> bool:
        """Whether the stage's probes have run at a step. Process 0 decides: another may see an older file."""
        probed = "yes" if distributed.is_main() and run_directory.has_results(self.model_dir, stage, step) else "no"
        return distributed.exchange("probed", probed)[0] == "yes"

    def _probes_at(self, step: int, planned: stages.PlannedStage) -> bool:
        """Whether the stage's probes run at a step besides its last."""
        every = self.runtime.probe_every
        return every > 0 and step % every == 0 and planned.first_step < step < planned.last_step

    def _bar(self, planned: stages.PlannedStage, first: int) -> tqdm:
        return tqdm(
            total=planned.stage.steps,
            initial=first - planned.first_step,
            desc=planned.stage.name,
            unit="step",
            disable=not distributed.is_main(),
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )

    def _batches(self, planned: stages.PlannedStage, first: int, last: int, names: Iterable[str]) -> Any:
        """Global batches of updates [first, last) (counted from 0) by stream name, made ahead by Grain's threads."""
        feeds = {name: planned.feeds[name] for name in names}

        def batches(at: int) -> dict[str, dict[str, jax.Array]]:
            return {
                name: sharding.global_batch(functools.partial(feed.batch, at), feed.count, self.mesh)
                for name, feed in feeds.items()
            }

        steps = grain.MapDataset.range(first, last).map(batches)
        return iter(steps.to_iter_dataset(grain.ReadOptions(1, self.runtime.prefetch)))

    def _save(self, current: TrainState, at: int, stage: Stage) -> None:
        rest = {"opt_state": current.opt_state, "memory": current.memory}
        rest |= _only_if_any(hidden=self.coordinates[stage.name].hidden(current.free, current.fixed))
        about = {"stage": stage.name, "recipe": as_json(self.recipe), "located": as_json(located(self.recipe))}
        self.checkpoints.save(at, self._parameters(stage, current), rest, about)

    def _probe(self, current: TrainState, at: int, planned: stages.PlannedStage) -> None:
        params = self._parameters(planned.stage, current)
        rows = run_probes(planned.stage.probes, self.model, params["model"], self.corpus, self.recipe.seed)
        if distributed.is_main():
            run_directory.add_results(self.model_dir, rows, planned.stage.name, at, self.recipe.seed)


def _only_if_any(**trees: Any) -> dict[str, Any]:
    """The trees that hold anything: Orbax restores no empty ones."""
    return {name: tree for name, tree in trees.items() if tree}


def run_probes(probes: tuple, model: Model, params: Any, corpus: Any, seed: int) -> list[dict[str, Any]]:
    """The rows of all probes, in their order, each with its probe's settings."""
    rows: list[dict[str, Any]] = []
    for probe in tqdm(probes, desc="probes", unit="probe", disable=not (probes and distributed.is_main())):
        settings = as_json(probe)
        rows += [{**row, "settings": settings} for row in probe.rows(model, params, corpus, seed)]
    return rows


def first_rows(stages: list[stages.PlannedStage]) -> dict[str, str]:
    """A hash of each stream's first two rows: what the recipe's texts, lexicon and modules come to on this host."""
    return {
        f"{planned.stage.name}/{name}": hashlib.sha256(
            b"".join(
                rows[key].tobytes() for rows in (feed.batch(feed.first_step, slice(0, 2)),) for key in sorted(rows)
            )
        ).hexdigest()[:16]
        for planned in stages
        for name, feed in planned.feeds.items()
    }


def build_model(recipe: Recipe, runtime: Runtime, tokenizer: Tokenizer) -> Model:
    """The recipe's model for this runtime; dtype "auto" is bfloat16 on accelerators and float32 on CPUs."""
    dtype = runtime.dtype
    if dtype == "auto":
        dtype = "float32" if target.platform() == "cpu" else "bfloat16"
    return build(
        recipe.model,
        tokenizer.size,
        row_map=tokenizer.row_map,
        special=tokenizer.special,
        mask_id=tokenizer.mask,
        dtype=jax.numpy.dtype(dtype),
        remat=runtime.remat,
        chunks=runtime.accumulate,
    )
