"""The package from Python.

    import xalign_jax as xa
    model = xa.load("e5-small/")                      # a Hugging Face folder, or a model directory
    model.encode(["Hello", "Hallo"], level=8)         # (2, width) numpy

This module imports nothing heavy by itself, so that `import xalign_jax` stays quick.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.evaluation.loaded import LoadedModel
    from xalign_jax.recipe import Recipe, Runtime

DTYPES = ("float32", "bfloat16")


def load(folder: str | os.PathLike, step: int | None = None, dtype: str = "float32") -> LoadedModel:
    """A model from a model directory (of a run or an import) or from a Hugging Face folder. Nothing is written there.

    A Hugging Face folder has config.json, safetensors and tokenizer.json. Programs that JAX compiles are kept in
    `$XALIGN_CACHE`, unless JAX has a cache already.

    Args:
      step: the checkpoint of a model directory; None = the newest.
      dtype: of parameters and computation, "float32" or "bfloat16".

    Raises:
      UserError: in one line, what is missing, unknown or damaged, or that the model does not fit into the memory.
    """
    import jax

    from xalign_jax.evaluation.loaded import LoadedModel
    from xalign_jax.interop.opening import open_model
    from xalign_jax.runtime.sharding import make_mesh

    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r}: one of {', '.join(DTYPES)}")
    path = Path(folder).expanduser()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        keep_programs()
    # The directory may name a module that registers an architecture of the user's own.
    import_modules(path)
    mesh = make_mesh((1, -1, 1))
    opened = open_model(path, mesh, step, dtype)
    return LoadedModel(opened.model, opened.tokenizer, opened.frame, mesh, path, opened.step)


def train(gin_file: str, model_dir: str | os.PathLike, bindings: Mapping[str, Any] | None = None) -> None:
    """Train a recipe, or continue it, on this process's devices, as `xalign train` does.

    Args:
      gin_file: a file here or a packaged one, such as "recipes/prealign_clone_tiny.gin".
      model_dir: the run's folder, made if need be.
      bindings: values by gin name, such as {"Recipe.seed": 1, "STEPS": 100}.

    Raises:
      UserError: a mistake in the recipe or its data.
      RunError: the run began and failed.
      training.train.Interrupted: it was told to stop; the same call continues it.
    """
    from xalign_jax.runtime import storage
    from xalign_jax.training.train import train as run

    recipe, runtime = read_recipe([gin_file], [f"{name} = {value!r}" for name, value in (bindings or {}).items()])
    start_jax(runtime.matmul_precision)
    run(recipe, runtime, storage.model_directory(os.fspath(model_dir)), Path(gin_file).stem)


def read_recipe(gin_files: Sequence[str], bindings: Sequence[str]) -> tuple[Recipe, Runtime]:
    """The recipe and the runtime of gin files and bindings `NAME=VALUE`."""
    from xalign_jax import config
    from xalign_jax.recipe import Recipe, Runtime

    # gin resolves only names that have been registered.
    register()
    recipe, runtime = config.load(gin_files, bindings, (Recipe, Runtime))
    from xalign_jax.data.store.seqio_rates import with_seqio_rates

    return with_seqio_rates(recipe), runtime


def register() -> None:
    """Import every module that registers classes with gin."""
    # A module registers its classes when it is imported.
    import xalign_jax.data.feeds.marked
    import xalign_jax.data.feeds.windows
    import xalign_jax.data.lexicon.facts
    import xalign_jax.data.lexicon.lexicon
    import xalign_jax.data.sampling.mixture
    import xalign_jax.data.tokens.vocabulary
    import xalign_jax.evaluation.probes
    import xalign_jax.models.bert
    import xalign_jax.models.gpt_neox
    import xalign_jax.models.llama
    import xalign_jax.models.xlm_roberta
    import xalign_jax.objectives.aligned_words
    import xalign_jax.objectives.btmlm
    import xalign_jax.objectives.camlm
    import xalign_jax.objectives.causal_lm
    import xalign_jax.objectives.denoising_alignment
    import xalign_jax.objectives.distillation
    import xalign_jax.objectives.light_aligner
    import xalign_jax.objectives.linear_words
    import xalign_jax.objectives.marked_spans
    import xalign_jax.objectives.marked_words
    import xalign_jax.objectives.masked_lm
    import xalign_jax.objectives.parallel_sentences
    import xalign_jax.objectives.representation_translation
    import xalign_jax.objectives.token_distillation
    import xalign_jax.objectives.towards_static
    import xalign_jax.objectives.translation_ranking
    import xalign_jax.objectives.transport_divergence
    import xalign_jax.objectives.word_alignment
    import xalign_jax.objectives.word_contrast
    import xalign_jax.objectives.word_distance
    import xalign_jax.objectives.xlco
    import xalign_jax.parametrizations.low_rank
    import xalign_jax.parametrizations.orthogonal
    import xalign_jax.parametrizations.selection
    import xalign_jax.parametrizations.tied_rows
    import xalign_jax.runtime.trackers
    import xalign_jax.training.optimizers  # noqa: F401


def import_modules(model_dir: Path) -> None:
    """Import the modules that a model directory's gin file names. One of them may register the model's architecture.

    A file that cannot be read, or a module that cannot be imported, is no error here: not every command needs it.
    """
    from xalign_jax import gin_files

    register()
    for file in (model_dir / "config.gin", model_dir / "model.gin"):
        if file.is_file():
            with contextlib.suppress(UserError):
                list(gin_files.read(str(file)))


def start_jax(precision: str) -> None:
    """Set JAX's cache of compiled programs and the precision of its matrix products."""
    import logging

    import jax

    # The error that Orbax logs is also raised, and becomes one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the errors that it also raises
    keep_programs()
    jax.config.update("jax_default_matmul_precision", precision)


def keep_programs() -> None:
    """Let JAX keep compiled programs beside the cached stores: the next run of the same recipe compiles nothing."""
    import jax

    from xalign_jax.data.store.store import cache_dir

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
