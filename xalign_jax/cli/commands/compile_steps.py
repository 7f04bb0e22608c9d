"""`xalign compile`: what a recipe's steps need on a machine, which may be another one than this."""

from __future__ import annotations

import argparse

from xalign_jax.api import read_recipe
from xalign_jax.cli.arguments import Commands, add_command, add_gin, path
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import RunError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "compile", run, "What a recipe's steps need on a machine, here or not.")
    add_gin(parser)
    topology = '"v5e:16x16", "cpu:8" (simulated) or "gpu"'
    parser.add_argument("--topology", required=True, metavar="NAME", help=topology)
    parser.add_argument("--num_slices", type=int, default=1, metavar="K", help="slices of that topology; default 1")
    parser.add_argument("--output", type=path, metavar="FILE", help="also write what is found as JSON")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Compile each step, print its memory and traffic, and fail if one does not fit."""
    import json

    import jax

    from xalign_jax.runtime import storage
    from xalign_jax.scale import compile, report, topology

    # Compiling takes minutes, so the output's folder is checked first.
    if options.output is not None:
        storage.check_writable("--output", options.output.parent)
    recipe, runtime = read_recipe(options.gin_file, bindings)
    # As training would set it, because the precision changes the program.
    jax.config.update("jax_default_matmul_precision", runtime.matmul_precision)
    machine = topology.find(options.topology, options.num_slices)
    # One program per stage. Each is printed when it is known, because the next one may take long.
    found = []
    for program in compile.programs(recipe, runtime, machine):
        found.append(report.report(program, machine, runtime))
        print(report.table(found[-1]), flush=True)
    if (hours := report.estimate(found)) is not None:
        print(hours)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    # `fits` is None where the memory of the machine is not known.
    too_large = [report.advice(one) for one in found if one["memory"]["fits"] is False]
    if too_large:
        raise RunError("; ".join(too_large))
    return DONE
