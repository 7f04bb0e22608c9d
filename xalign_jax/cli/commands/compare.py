"""`xalign compare`: one table and plots from several runs."""

from __future__ import annotations

import argparse

from xalign_jax.cli.arguments import Commands, add_command, add_folder, path
from xalign_jax.cli.exits import DONE


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "compare", run, "One table and plots from several runs.")
    parser.add_argument("model_dirs", type=path, nargs="+", metavar="DIR", help="the folder of a run")
    add_folder(parser, "--output", "where tables and plots go")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Write the tables and plots, and print the summary."""
    from xalign_jax.cli import terminal
    from xalign_jax.reports import report
    from xalign_jax.runtime import storage

    # Before any table is computed.
    storage.check_writable("--output", options.output)
    report.compare(options.model_dirs, options.output)
    notes, grid = report.summary(options.model_dirs)
    print(*notes, sep="\n\n", end="\n\n")
    terminal.show(grid)
    print(f"All tables and plots: {options.output}/table.md")
    return DONE
