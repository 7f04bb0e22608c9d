"""Options that several commands share, and the parser that reads them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from xalign_jax.cli.exits import EPILOG, USAGE
from xalign_jax.errors import UserError

FLOATS = ("float32", "bfloat16", "float16")

# What `add_subparsers` returns: a command adds itself to it.
Commands = argparse._SubParsersAction


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with the code of bad usage. Long choices are cut, so that the line stays one."""
        # A message may hold the user's own text, with line breaks.
        shown = " ".join(message.split())
        self.exit(USAGE, f"{self.prog}: {shown[:400]} (see {self.prog} --help)\n")


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace, list[str]], int], about: str
) -> argparse.ArgumentParser:
    """Add a command to the parser; returns the command's own parser, for its options.

    Args:
      run: called with the parsed options and the bindings `NAME=VALUE` of `--gin.NAME=VALUE`; returns the exit code.
      about: one sentence for `--help`.
    """
    # Abbreviations would change their meaning when an option is added.
    parser = commands.add_parser(name, help=about, description=about, epilog=EPILOG, allow_abbrev=False)
    # `cli.main` calls the function of the command that was given.
    parser.set_defaults(run=run)
    return parser


def add_gin(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add `--gin_file` and, for the help text only, `--gin.NAME=VALUE`. `cli.main` parses bindings itself.

    Args:
      default: the gin file if none is given, which the command reads itself; None = one must be given.
    """
    help = "a gin file, here or packaged; repeatable" + (f"; default: {default}" if default else "")
    parser.add_argument("--gin_file", action="append", required=default is None, metavar="FILE", help=help)
    parser.add_argument("--gin.NAME=VALUE", action="store_true", help="a gin binding or macro; repeatable")


def add_folder(parser: argparse.ArgumentParser, option: str, about: str) -> None:
    """Add a required option for a folder on this machine."""
    parser.add_argument(option, type=path, required=True, metavar="DIR", help=about)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the required `--model`, a model directory or a Hugging Face folder; `--model_dir` is its older name."""
    about = "a run's folder, an imported model, or a Hugging Face folder"
    parser.add_argument("--model", "--model_dir", dest="model", type=path, required=True, metavar="DIR", help=about)


def path(text: str) -> Path:
    """The value of an option that names a file or a folder."""
    return Path(named(text))


def named(text: str) -> str:
    """The value of an option, which must not be empty. An unset variable of the shell gives an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names nothing")
    return text


def positive(text: str) -> int:
    """The value of an option that counts something."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def two_languages(names: str) -> tuple[str, str]:
    """The two languages of `--languages=en,de`.

    Raises:
      UserError: there are not two different ones.
    """
    found = tuple(name.strip() for name in names.split(","))
    if len(found) != 2 or not all(found) or found[0] == found[1]:
        raise UserError(f"--languages={names}: two languages are needed, such as en,de")
    return found[0], found[1]


def files_by_language(option: str, text: str) -> list[tuple[str, str]]:
    """(language, path) of each file of an option such as `--texts={"en": "en.txt", "de": "de.txt"}`.

    Raises:
      UserError: it is no such JSON, or names no file.
    """
    try:
        # A list of pairs shows a language that stands there twice.
        found = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise UserError(f"{option}={text[:60]}: not JSON ({error})") from None
    if not isinstance(found, list) or not found or not all(_names_file(item) for item in found):
        raise UserError(f'{option}={text[:60]}: expected {{"en": "en.txt", "de": "de.txt"}}')
    return found


def _names_file(item: object) -> bool:
    return isinstance(item, tuple) and isinstance(item[1], str)


def show(lines: Sequence[str]) -> None:
    """Print each line at once, so that lines before an error are seen."""
    for line in lines:
        print(line, flush=True)
