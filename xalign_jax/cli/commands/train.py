"""`xalign train`: train a recipe, or continue it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xalign_jax.api import read_recipe, start_jax
from xalign_jax.cli.arguments import Commands, add_command, add_gin, named, positive
from xalign_jax.cli.exits import DONE, INTERRUPTED, INTERRUPTED_LINE

if TYPE_CHECKING:
    from xalign_jax.training.tracing import Profile


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "train", run, "Train a recipe, or continue it.")
    # The recipe comes from gin files and bindings; the other options say where and on how many processes.
    add_gin(parser)
    folder = "the run's folder, made if need be"
    # A plain string, because it may be gs://...
    parser.add_argument("--model_dir", type=named, required=True, metavar="DIR", help=folder)
    extend = "allow more steps of the last stage, if its learning rate stays continuous"
    parser.add_argument("--extend", action="store_true", help=extend)
    about = "trace N steps of each stage into DIR/profile, and print what takes their time"
    parser.add_argument("--profile", type=positive, metavar="N", help=about)
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="process 0's address, where nothing else says it")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes there are; 1 = run alone")
    parser.add_argument("--process_id", type=int, metavar="I", help="this process's number")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Train until the end or until the run is told to stop, then write its report and print the headlines."""
    from xalign_jax.cli import terminal
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.cluster import distributed, failures
    from xalign_jax.training.train import Interrupted, train

    # Processes find each other before anything uses JAX. From then on, an error in one of them ends all.
    distributed.initialize(options.coordinator, options.processes, options.process_id)
    with failures.together():
        # Every process reads the recipe for itself; training checks that all read the same.
        recipe, runtime = read_recipe(options.gin_file, bindings)
        start_jax(runtime.matmul_precision)
        profile = None if options.profile is None else _profile(options.profile)
        model_dir = storage.model_directory(options.model_dir)
        try:
            train(recipe, runtime, model_dir, Path(options.gin_file[-1]).stem, options.extend, profile)
        # Another exit code, so that a script can start the command again.
        except Interrupted:
            print(INTERRUPTED_LINE, file=sys.stderr)
            return INTERRUPTED
        # The report reads the directory from disk; one in an object store is copied first, and its report goes back.
        if distributed.is_main():
            with storage.as_local(model_dir) as folder:
                terminal.finish(folder, str(model_dir))
    return DONE


def _profile(steps: int) -> Profile:
    """A trace of so many steps, and its report. A cached program may lack the names of its parts: look for one that has."""
    import jax

    from xalign_jax.scale import profile
    from xalign_jax.training.tracing import Profile

    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    return Profile(steps, profile.report)
