"""Probes during training and after it: when they run, and where their rows go."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from tqdm import tqdm

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Probe, ProbedRun, Row
from xalign_jax.recipe import as_json
from xalign_jax.records.pictures import Drawn, Picture, wrong
from xalign_jax.runtime.cluster import distributed
from xalign_jax.runtime.logs import MetricsLog
from xalign_jax.training import run_directory
from xalign_jax.training.build import Built
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState


def run_probes(probes: Sequence[Probe], run: ProbedRun) -> tuple[list[Row], list[Drawn]]:
    """The rows of all probes, in order, each with its probe's settings; and the pictures that they drew.

    Raises:
      UserError: a picture contradicts itself.
    """
    rows: list[Row] = []
    drawn: list[Drawn] = []
    for probe in tqdm(probes, desc="probes", unit="probe", disable=not (probes and distributed.is_main())):
        # Settings tell rows of one metric apart when probes are bound in different ways.
        settings = as_json(probe.settings()[0])
        pictures: list[Picture] = []
        rows += [{"settings": settings, **row} for row in probe.rows(run._replace(show=pictures.append))]
        for picture in pictures:
            if found := wrong(picture):
                raise UserError(f"{type(probe).__name__} shows a picture {picture.title[:60]!r}, but {found}")
        drawn += [Drawn(run.stage, run.step, probe.name, as_json(probe), picture) for picture in pictures]
    return rows, drawn


def due(run: Built, planned: PlannedStage, step: int) -> bool:
    """Whether an intermediate probe is due after this step. At a stage's end probes run in any case."""
    every = run.runtime.probe_every
    return every > 0 and step % every == 0 and planned.first_step < step < planned.last_step


def probe(
    run: Built, planned: PlannedStage, current: TrainState, step: int, model_dir: epath.Path, log: MetricsLog | None
) -> None:
    """Run the stage's probes, and add their rows and pictures to the model directory and to the log of the run."""
    stage, seed = planned.stage, run.recipe.seed
    rows, drawn = run_probes(stage.probes, ProbedRun(run.bound(stage, current), run.corpus, seed, stage.name, step))
    if distributed.is_main():
        run_directory.add_pictures(model_dir, drawn)
        run_directory.add_results(model_dir, stage.probes, rows, stage.name, step, seed)
    if log is not None:
        log.results(step, rows)


def probed(planned: PlannedStage, step: int, model_dir: epath.Path) -> bool:
    """Whether the stage's probes have run at a step. Process 0 decides, since another may see an older file."""
    found = distributed.is_main() and run_directory.has_results(model_dir, planned.stage, step)
    return distributed.exchange("probed", "yes" if found else "no")[0] == "yes"
