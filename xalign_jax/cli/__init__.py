"""The `xalign` command: parse the command line, then call one of `commands`.

Parsing imports nothing heavy, so that `xalign --help` and a wrong option answer at once. Each command imports what it
needs when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from xalign_jax.api import register
from xalign_jax.cli.arguments import Parser
from xalign_jax.cli.commands import (
    align,
    compare,
    compile_steps,
    data,
    evaluate,
    export_model,
    import_model,
    list_names,
    map_languages,
    show_recipe,
    train,
    vectors,
)
from xalign_jax.cli.exits import (
    DONE,
    EPILOG,
    FAILED,
    INTERRUPTED,
    INTERRUPTED_LINE,
    USAGE,
    catch_interrupts,
    end_interrupted,
)
from xalign_jax.errors import RunError, UserError

__all__ = ["DONE", "FAILED", "INTERRUPTED", "INTERRUPTED_LINE", "USAGE", "main", "register"]

# One module of `commands` each, in the order of `xalign --help`.
COMMANDS = (
    train,
    evaluate,
    align,
    map_languages,
    vectors,
    compare,
    import_model,
    export_model,
    compile_steps,
    data,
    list_names,
    show_recipe,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    # Before anything else, so that Ctrl-C ends every command in the same way.
    interrupts = catch_interrupts()
    try:
        options, bindings = _parse(sys.argv[1:] if argv is None else list(argv))
        code = options.run(options, bindings)
    except BaseException as error:
        # A library may have turned KeyboardInterrupt into an exception of its own.
        if interrupts:
            end_interrupted()
        # Errors of these two kinds are one line for the user. Any other one is a bug and keeps its traceback.
        if not isinstance(error, UserError | RunError):
            raise
        print(f"xalign: {error}", file=sys.stderr)
        code = error.code
    sys.exit(code)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the gin bindings given as `--gin.NAME=VALUE`."""
    # argparse does not know the names after `--gin.`, so bindings are taken out first.
    bindings = [arg.removeprefix("--gin.") for arg in argv if arg.startswith("--gin.")]
    parser = _parser()
    for binding in bindings:
        if "=" not in binding:
            parser.error(f"--gin.{binding}: no value; write --gin.NAME=VALUE without spaces around =")
    return parser.parse_args([arg for arg in argv if not arg.startswith("--gin.")]), bindings


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    import xalign_jax

    parser = Parser("xalign", description="Cross-lingual alignment in pretraining.", epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"xalign {xalign_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
