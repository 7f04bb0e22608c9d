"""`xalign show`: a recipe with every value resolved, as one gin file."""

from __future__ import annotations

import argparse

from xalign_jax.api import read_recipe
from xalign_jax.cli.arguments import Commands, add_command, add_gin
from xalign_jax.cli.exits import DONE


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    add_gin(add_command(commands, "show", run, "A recipe with every value resolved, as one gin file."))


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Print the resolved recipe and runtime."""
    from xalign_jax.records.gin_text import as_gin

    print(as_gin(*read_recipe(options.gin_file, bindings)).strip())
    return DONE
