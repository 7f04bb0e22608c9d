"""From a recipe to what runs: data opened, model built, stages planned. Nothing here changes while the run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import sys

import jax
from etils import epath
from jax.sharding import Mesh

from xalign_jax import target
from xalign_jax.data.corpus import Corpus
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.interfaces import Coordinates, ProbedRun
from xalign_jax.models.model import Model, build
from xalign_jax.recipe import Recipe, Runtime, Stage, as_json
from xalign_jax.runtime.cluster import distributed
from xalign_jax.training import carried, checks, inputs, leaks, run_directory, stages, state, teachers
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import Layout, TrainState


@dataclasses.dataclass(frozen=True)
class Built:
    """A recipe made runnable on a mesh.

    Attributes:
      stages: with their feeds, in order.
      coordinates: each stage's parametrization bound to the model, by the stage's name.
    """

    recipe: Recipe
    runtime: Runtime
    mesh: Mesh
    corpus: Corpus
    model: Model
    stages: tuple[PlannedStage, ...]
    coordinates: dict[str, Coordinates]

    def layout(self, stage: Stage) -> Layout:
        """Shapes and places of the stage's state and parameters."""
        return state.layout(stage, self.coordinates[stage.name], self.model, self.recipe.seed, self.mesh)

    def bound(self, stage: Stage, current: TrainState) -> Model:
        """The model with the parameters and heads of a state of the stage."""
        params = state.parameters(self.coordinates[stage.name], current, self.layout(stage).where_params)
        return self.model.bind(params["model"], params["heads"])


def prepare(recipe: Recipe, here: Recipe, model_dir: epath.Path) -> Corpus:
    """Tokenise what no cache holds yet, and open everything that the recipe reads.

    Process 0 prepares first. Other hosts find everything done if they share its cache, and else prepare their own.

    Args:
      here: the recipe with which data is opened on this machine (`carried.here`).
    """
    if distributed.is_main():
        stages.prepare_data(here)
    distributed.wait_for_all("data")
    if not distributed.is_main():
        stages.prepare_data(here)
    return carried.complete(recipe, stages.load_data(here), model_dir)


def build_run(recipe: Recipe, runtime: Runtime, mesh: Mesh, corpus: Corpus, read: inputs.Inputs) -> Built:
    """Build the model and plan the stages.

    Args:
      read: all that the run reads beside its texts, which hosts compare.

    Raises:
      UserError: the data lacks something that a feed, a parametrization or a probe needs, or hosts have different data.
    """
    # `planned` has a built feed for each stream: from here on, what every step reads is fixed.
    model = build_model(recipe, runtime, corpus.tokenizer)
    planned = stages.plan(recipe, corpus)
    if distributed.is_main():
        for line in stages.lowered(planned):
            print(line, file=sys.stderr, flush=True)
    coordinates = {stage.name: stage.parametrization.bind(model, corpus) for stage in recipe.stages}
    # Checks that need real data. Probes are asked now, because a stage's probes run hours later.
    checks.check_types(planned, model)
    checks.check_data(planned, model)
    for stream in stages.streams(recipe):
        teachers.check_vocabulary(stream, corpus.tokenizer)
    probes = [probe for stage in recipe.stages for probe in stage.probes]
    checks.check_probes(probes, ProbedRun(model, corpus, recipe.seed))
    if distributed.is_main():
        leaks.check(recipe, corpus, runtime.leaks)
    # Hosts read their own copies of texts, dictionaries and modules. A difference would give each host other rows of
    # one batch, without any error.
    if jax.process_count() > 1:
        own = {"texts": run_directory.texts(corpus), "inputs": inputs.fingerprints(read)}
        own |= {f"{name}/Stage.parametrization": found.fingerprint for name, found in coordinates.items()}
        distributed.agree(own | {"first rows": first_rows(planned)})
    return Built(recipe, runtime, mesh, corpus, model, tuple(planned), coordinates)


def first_rows(planned: list[PlannedStage]) -> dict[str, str]:
    """A hash of each stream's first two rows: the result of a host's texts, lexicon and modules together."""
    found = {}
    for stage in planned:
        for name, feed in stage.feeds.items():
            rows = feed.batch(feed.first_step, slice(0, 2))
            content = b"".join(rows[key].tobytes() for key in sorted(rows))
            found[f"{stage.stage.name}/{name}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def build_model(recipe: Recipe, runtime: Runtime, tokenizer: Tokenizer) -> Model:
    """The recipe's model for this runtime."""
    return build(
        recipe.model,
        tokenizer.size,
        row_map=tokenizer.row_map,
        special=tokenizer.special,
        mask_id=tokenizer.mask,
        dtype=jax.numpy.dtype(dtype_of(runtime)),
        remat=runtime.remat,
        chunks=runtime.accumulate,
    )


def dtype_of(runtime: Runtime) -> str:
    """The dtype of matrix products; "auto" is bfloat16 on accelerators and float32 on CPUs."""
    if runtime.dtype != "auto":
        return runtime.dtype
    return "float32" if target.platform() == "cpu" else "bfloat16"


def claim(model_dir: epath.Path, recipe: Recipe, runtime: Runtime, extend: bool) -> inputs.Inputs:
    """Check that the directory holds no other run, and that all processes were started alike.

    Returns:
      the inputs that are known without data: parameters to start from, and the user's own modules.

    Raises:
      UserError: the message names the difference.
    """
    # Processes agree first: each of them is about to judge the directory by its own recipe.
    distributed.agree(
        {"Recipe": as_json(recipe), "Runtime": as_json(runtime)}
        | {"--model_dir": str(model_dir), "--extend": extend}
        | {"versions": run_directory.versions(), "source": run_directory.source(), "git": run_directory.git()}
    )
    run_directory.claim(model_dir, recipe, extend)
    return run_directory.claim_inputs(model_dir, inputs.of_start(recipe))
