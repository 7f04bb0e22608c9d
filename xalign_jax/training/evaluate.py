"""Probes on a checkpoint that exists already."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import jax
from jax.sharding import Mesh

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.lexicon.facts import FactTable
from xalign_jax.data.lexicon.lexicon import LexiconTable
from xalign_jax.data.store.store import Stores
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import ProbedRun
from xalign_jax.models.model import Model
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.records.files import read_pictures, read_results
from xalign_jax.runtime import sharding
from xalign_jax.runtime.restore import restore_heads, restore_model
from xalign_jax.training import carried, checks, inputs, run_directory, stages
from xalign_jax.training.build import build_model
from xalign_jax.training.probing import run_probes


class RunData:
    """A run's data for probes (`data.corpus.CorpusView`): the vocabulary that the run wrote, and the rest on demand.

    The run's texts and dictionaries are opened when a probe first asks for them, so that a probe of other text needs
    none of them. A directory that was moved without its texts still has its words.

    Raises:
      UserError: on opening them, if they have changed since the run was trained.
    """

    def __init__(self, recipe: Recipe, model_dir: Path) -> None:
        self._recipe, self._model_dir = recipe, model_dir
        self.tokenizer = Tokenizer.load(model_dir / "vocabulary")

    @functools.cached_property
    def _opened(self) -> Corpus:
        # As a restart of training would do: prepare, open, and refuse data that has changed.
        here = carried.here(self._recipe, self._model_dir, probes=False)
        stages.prepare_data(here)
        corpus = carried.complete(self._recipe, stages.load_data(here), self._model_dir)
        run_directory.claim_data(self._model_dir, corpus)
        run_directory.claim_inputs(self._model_dir, inputs.of_data(self._recipe, corpus))
        return corpus

    @functools.cached_property
    def _words(self) -> Corpus:
        """The corpus; where its texts are gone, only the words and facts that the directory carries."""
        if not carried.lost_texts(self._recipe):
            return self._opened
        corpus = carried.words_alone(self._recipe, self.tokenizer, self._model_dir)
        run_directory.claim_inputs(self._model_dir, inputs.of_data(self._recipe, corpus))
        return corpus

    @property
    def stores(self) -> Stores:
        """As in `Corpus`, like `lexicon` and `facts`."""
        return self._opened.stores

    @property
    def lexicon(self) -> LexiconTable | None:
        """The recipe's dictionary."""
        # Without opening any text where the recipe has none. Likewise below.
        return None if self._recipe.lexicon is None else self._words.lexicon

    @property
    def facts(self) -> FactTable | None:
        """The recipe's facts."""
        return None if self._recipe.facts is None else self._words.facts


def restored(
    recipe: Recipe, runtime: Runtime, model_dir: Path, step: int | None = None
) -> tuple[RunData, Mesh, Model, int]:
    """(data, mesh, model, step) of a run's checkpoint (`step` None: the newest). The model has parameters and heads.

    Raises:
      UserError: there is no such checkpoint.
    """
    data = RunData(recipe, model_dir)
    mesh = sharding.make_mesh(runtime.mesh)
    model = build_model(recipe, runtime, data.tokenizer)
    step, params = restore_model(model_dir, step, model, mesh)
    return data, mesh, model.bind(params, restore_heads(model_dir, step, mesh)), step


def configuration(model_dir: Path) -> tuple[str, list[str]]:
    """The gin file of a run or of an imported model, and the bindings that make a `Recipe` of it.

    An imported model has a vocabulary and no stages, so it has no text of its own to probe.

    Raises:
      UserError: the directory holds neither.
    """
    if (model_dir / "config.gin").is_file():
        return str(model_dir / "config.gin"), []
    if (model_dir / "model.gin").is_file():
        vocabulary = str(model_dir / "vocabulary")
        return str(model_dir / "model.gin"), [f"Vocabulary.path = {vocabulary!r}", "Recipe.stages = ()"]
    raise UserError(f"--model_dir={model_dir}: neither config.gin nor model.gin there; is it a model directory?")


def evaluate(recipe: Recipe, runtime: Runtime, model_dir: Path, probes: tuple, step: int | None) -> None:
    """Run probes on a run's checkpoint (`step` None: the newest) and add their rows to its `results.json`.

    Raises:
      UserError: there is no such checkpoint, or a probe reads texts or dictionaries that the run was not trained on.
    """
    data, mesh, model, step = restored(recipe, runtime, model_dir, step)
    # The stage that the step belongs to. Stages end at the running sums of their steps; an import has none.
    ends = itertools.accumulate(stage.steps for stage in recipe.stages)
    stage = next((stage.name for stage, end in zip(recipe.stages, ends, strict=True) if step <= end), "import")
    # An import is read as its source is, and a run as its feeds write texts.
    frame = None if recipe.stages else data.tokenizer.frame
    measure(ProbedRun(model, data, recipe.seed, stage, step, frame), mesh, probes, model_dir)


def measure(probed: ProbedRun, mesh: Mesh, probes: tuple, output: Path) -> None:
    """Run probes on a model and add their rows to `results.json` in `output`, and their pictures to `pictures.json`.

    Raises:
      UserError: a probe does not suit the model or its data, none of them measures anything, or a record in `output` is
        damaged.
    """
    # Find damage, and ask all probes, before the first of them computes for long.
    read_results(output)
    read_pictures(output)
    checks.check_probes(probes, probed)
    with jax.set_mesh(mesh):
        rows, drawn = run_probes(probes, probed)
    if not rows:
        raise UserError(f"--model_dir={output}: the probes measure nothing that this run has")
    # Rows and pictures of other conditions stay; equal ones are replaced.
    run_directory.add_pictures(output, drawn)
    run_directory.add_results(output, probes, rows, probed.stage, probed.step, probed.seed)
