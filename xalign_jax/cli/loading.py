"""Steps that commands take before their work: register classes with gin, load the recipe, set up JAX."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.recipe import Recipe, Runtime


def load_recipe(options: argparse.Namespace, bindings: list[str]) -> tuple[Recipe, Runtime]:
    """The recipe and the runtime of the command line."""
    from xalign_jax import config
    from xalign_jax.recipe import Recipe, Runtime

    # gin resolves only names that have been registered.
    register()
    recipe, runtime = config.load(options.gin_file, bindings, (Recipe, Runtime))
    from xalign_jax.data.store.seqio_rates import with_seqio_rates

    return with_seqio_rates(recipe), runtime


def register() -> None:
    """Import every module that registers classes with gin."""
    # A module registers its classes when it is imported.
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
    import xalign_jax.objectives.causal_lm
    import xalign_jax.objectives.masked_lm
    import xalign_jax.objectives.translation_ranking
    import xalign_jax.objectives.word_contrast
    import xalign_jax.objectives.word_distance
    import xalign_jax.objectives.xlco
    import xalign_jax.parametrizations.low_rank
    import xalign_jax.parametrizations.selection
    import xalign_jax.parametrizations.tied_rows
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

    from xalign_jax.data.store.store import cache_dir

    # The error that Orbax logs is also raised, and becomes one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the errors that it also raises
    # Beside the cached stores: the next run of the same recipe compiles nothing.
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_default_matmul_precision", precision)
