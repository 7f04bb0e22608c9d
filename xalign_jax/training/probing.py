"""Probes during training and after it: when they run, and where their rows go."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from tqdm import tqdm

from xalign_jax.interfaces import Probe, ProbedRun, Row
from xalign_jax.recipe import as_json
from xalign_jax.runtime.cluster import distributed
from xalign_jax.training import run_directory
from xalign_jax.training.build import Built
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState


def run_probes(probes: Sequence[Probe], run: ProbedRun) -> list[Row]:
    """The rows of all probes, in order, each with its probe's settings."""
    rows: list[Row] = []
    for probe in tqdm(probes, desc="probes", unit="probe", disable=not (probes and distributed.is_main())):
        # Settings tell rows of one metric apart when probes are bound in different ways.
        settings = as_json(probe.settings()[0])
        rows += [{"settings": settings, **row} for row in probe.rows(run)]
    return rows


def due(run: Built, planned: PlannedStage, step: int) -> bool:
    """Whether an intermediate probe is due after this step. At a stage's end probes run in any case."""
    every = run.runtime.probe_every
    return every > 0 and step % every == 0 and planned.first_step < step < planned.last_step


def probe(run: Built, planned: PlannedStage, current: TrainState, step: int, model_dir: epath.Path) -> None:
    """Run the stage's probes and add their rows to the model directory."""
    stage, seed = planned.stage, run.recipe.seed
    rows = run_probes(stage.probes, ProbedRun(run.bound(stage, current), run.corpus, seed, stage.name, step))
    if distributed.is_main():
        run_directory.add_results(model_dir, stage.probes, rows, stage.name, step, seed)


def probed(planned: PlannedStage, step: int, model_dir: epath.Path) -> bool:
    """Whether the stage's probes have run at a step. Process 0 decides, since another may see an older file."""
    found = distributed.is_main() and run_directory.has_results(model_dir, planned.stage, step)
    return distributed.exchange("probed", "yes" if found else "no")[0] == "yes"
