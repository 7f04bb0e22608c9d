"""`xalign list`: the names that gin files may use, one line each."""

from __future__ import annotations

import argparse

from xalign_jax.api import register
from xalign_jax.cli.arguments import Commands, add_command, show
from xalign_jax.cli.exits import DONE


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "list", run, "What gin files may name, one line each.")
    parser.add_argument(
        "kind", choices=("recipes", "tasks", "probes", "objectives", "parametrizations"), help="what to list"
    )


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Print each name with the first sentence about it."""
    from xalign_jax import catalogue

    register()
    show(catalogue.lines(options.kind))
    return DONE
