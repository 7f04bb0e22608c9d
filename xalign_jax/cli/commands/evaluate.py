"""`xalign evaluate`: run probes on a checkpoint."""

from __future__ import annotations

import argparse

from xalign_jax.api import register, start_jax
from xalign_jax.cli.arguments import Commands, add_command, add_folder, add_gin
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "evaluate", run, "Run probes on a checkpoint.")
    add_gin(parser)
    add_folder(parser, "--model_dir", "the run's folder")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Load the run's own configuration, then that of the command line on top, and run its probes."""
    from xalign_jax import config
    from xalign_jax.recipe import Evaluation, Recipe, Runtime, as_json, located
    from xalign_jax.reports import report
    from xalign_jax.runtime import storage
    from xalign_jax.training import evaluate, run_directory

    # Classes must be registered before gin reads the run's own configuration.
    register()
    storage.check_writable("--model_dir", options.model_dir)
    # `fixed` are the bindings that turn an imported model, which has no recipe, into one; a run of ours needs none.
    own, fixed = evaluate.configuration(options.model_dir)
    (recipe,) = config.load([own], fixed, (Recipe,))
    # The recipe of a run must still be that of its checkpoints.
    if not fixed:
        run_directory.check_config(options.model_dir, recipe)
    # The command line may change the run's Runtime, as this may be another machine, but not its Recipe.
    # The run's configuration is the base, and the command line's files and bindings come on top.
    evaluation, runtime, bound = config.load(
        options.gin_file, [*fixed, *bindings], (Evaluation, Runtime, Recipe), base=[own]
    )
    if located(bound) != located(recipe):
        shown = run_directory.differences(as_json(located(recipe)), as_json(located(bound)))
        raise UserError(f"--model_dir={options.model_dir}: a run's recipe stays what it is, but {shown}")
    start_jax(runtime.matmul_precision)
    evaluate.evaluate(recipe, runtime, options.model_dir, evaluation.probes, options.step)
    print(report.report(options.model_dir))
    return DONE
