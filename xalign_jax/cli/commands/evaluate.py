"""`xalign evaluate`: run probes on a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from xalign_jax.api import register, start_jax
from xalign_jax.cli.arguments import Commands, add_command, add_gin, add_model, path
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError

DEFAULT = "probes/files.gin"


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "evaluate", run, "Run probes on a checkpoint.")
    add_model(parser)
    add_gin(parser, DEFAULT)
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    about = "where results of a Hugging Face folder go; default: the folder itself"
    parser.add_argument("--output", type=path, metavar="DIR", help=about)


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Run the probes on either kind of folder, write the report, and print the headlines."""
    from xalign_jax.cli import terminal
    from xalign_jax.interop.opening import is_model_directory
    from xalign_jax.runtime import storage

    # Classes must be registered before gin reads any configuration.
    register()
    ours = is_model_directory(options.model)
    if ours and options.output:
        raise UserError(f"--output={options.output}: a model directory keeps its own results; leave the option out")
    if not ours and options.step is not None:
        raise UserError(f"--step={options.step}: {options.model} is a Hugging Face folder, which has no steps")
    output = options.output or options.model
    storage.check_writable("--output" if options.output else "--model", output)
    files = options.gin_file or [DEFAULT]
    if ours:
        _directory(options.model, files, bindings, options.step)
    else:
        _folder(options.model, files, bindings, output)
    terminal.finish(output, str(output))
    return DONE


def _directory(model_dir: Path, files: list[str], bindings: list[str], step: int | None) -> None:
    """Load the run's own configuration, then that of the command line on top, and run its probes."""
    from xalign_jax import config
    from xalign_jax.recipe import Evaluation, Recipe, Runtime
    from xalign_jax.training import evaluate, run_directory

    # `fixed` are the bindings that turn an imported model, which has no recipe, into one; a run of ours needs none.
    own, fixed = evaluate.configuration(model_dir)
    (recipe,) = config.load([own], fixed, (Recipe,))
    # The recipe of a run must still be that of its checkpoints.
    if not fixed:
        run_directory.check_config(model_dir, recipe)
    # The command line may change the run's Runtime, as this may be another machine, but not its Recipe.
    # The run's configuration is the base, and the command line's files and bindings come on top.
    evaluation, runtime, bound = config.load(files, [*fixed, *bindings], (Evaluation, Runtime, Recipe), base=[own])
    if shown := run_directory.differences(recipe, bound):
        raise UserError(f"--model_dir={model_dir}: a run's recipe stays what it is, but {shown}")
    start_jax(runtime.matmul_precision)
    evaluate.evaluate(bound, runtime, model_dir, evaluation.probes, step)


def _folder(folder: Path, files: list[str], bindings: list[str], output: Path) -> None:
    """Run the probes on a Hugging Face folder, which has neither a recipe nor texts of its own."""
    import json

    from xalign_jax import config
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.interfaces import ProbedRun
    from xalign_jax.interop.importing import described
    from xalign_jax.interop.opening import open_model
    from xalign_jax.recipe import Evaluation, Runtime
    from xalign_jax.records.files import read_environment
    from xalign_jax.runtime import sharding
    from xalign_jax.runtime.logs import write_atomically
    from xalign_jax.training import build, evaluate

    evaluation, runtime = config.load(files, bindings, (Evaluation, Runtime))
    start_jax(runtime.matmul_precision)
    # Results of two models must not be mixed, so the place is asked before anything is computed.
    there = read_environment(output)
    if there and there.get("source") != str(folder.absolute()) and output != folder:
        raise UserError(f"--output={output} holds the results of {there.get('source', 'a run')}; name another folder")
    mesh = sharding.make_mesh(runtime.mesh)
    opened = open_model(folder, mesh)
    model = opened.model.in_dtype(build.dtype_of(runtime)).bind(opened.model.params)
    probed = ProbedRun(model, Corpus(opened.tokenizer, {}, None, None), stage="import", frame=opened.frame)
    output.mkdir(parents=True, exist_ok=True)
    evaluate.measure(probed, mesh, evaluation.probes, output)
    about = described(folder, model.config, opened.tokenizer)
    write_atomically(output / "environment.json", json.dumps(about, indent=1) + "\n")
