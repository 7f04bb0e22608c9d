"""Pages of the reference: what users import, the command line, and the classes that gin files name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import xalign_jax
from xalign_jax import cli, gin_files

# Page -> its title, its first sentence, and where the modules of its classes lie.
ROOMS = {
    "recipe": ("Recipe, stage, stream, runtime", "The classes that hold a run's settings.", ("recipe",)),
    "data": ("Data", "Classes that say what a recipe reads. `docs/data.md` explains them.", ("data.",)),
    "models": ("Models", "Shapes of networks, for `Recipe.model`.", ("models.",)),
    "objectives": ("Objectives", "Losses, for `Stream.objective`, and the parts that they share.", ("objectives.",)),
    "parametrizations": (
        "Parametrizations",
        "Which numbers the optimiser moves, for `Stage.parametrization`.",
        ("parametrizations.", "interfaces"),
    ),
    "training": (
        "Optimisers, schedules and trackers",
        "For `Stage.optimizer`, `Stage.schedule` and `Runtime.trackers`.",
        ("training.", "runtime."),
    ),
    "probes": (
        "Probes",
        "For `Stage.probes` and `xalign evaluate`. `docs/results.md` explains their rows.",
        ("evaluation.probes.",),
    ),
    "measures": (
        "Measures",
        "For `ParallelText.measures`. `docs/evaluation.md` compares them.",
        ("evaluation.parallel.",),
    ),
}
LOADED = ("LoadedModel", "TextStates", "Score")


def pages() -> dict[str, str]:
    """{path: Markdown} of all pages. Docstrings are left to mkdocstrings."""
    cli.register()
    registered = [cls for cls in gin_files.registered().values() if isinstance(cls, type)]
    made = {"reference/python.md": _python(), "reference/command_line.md": _command_line()}
    made["reference/seams.md"] = _page(
        "Seams",
        "Base classes for your own methods. `docs/extending.md` has an example of each kind.",
        ["xalign_jax.interfaces"],
    )
    for room, (title, about, modules) in ROOMS.items():
        inside = tuple(f"xalign_jax.{module}" for module in modules)
        own = [f"{cls.__module__}.{cls.__name__}" for cls in registered if cls.__module__.startswith(inside)]
        # A gin file sets the fields of a class. Its methods are those of the seam.
        made[f"reference/{room}.md"] = _page(title, about, sorted(own), "members: false")
    return made


def _python() -> str:
    names = [f"xalign_jax.api.{name}" for name in xalign_jax.__all__]
    names += [f"xalign_jax.evaluation.loaded.{name}" for name in LOADED]
    return _page("Python", "`import xalign_jax as xa` gives `xa.load` and `xa.train`.", names)


def _command_line() -> str:
    """The help texts of all commands."""
    parser = cli._parser()
    parts = ["# Command line", "`xalign COMMAND --help` prints the same.", _help(parser)]
    for name, command in _commands(parser).items():
        parts += [f"## xalign {name}", _help(command)]
    return "\n\n".join(parts) + "\n"


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```"


def _page(title: str, about: str, names: Iterable[str], option: str = "") -> str:
    """A page of docstrings. `option` is one of mkdocstrings, for all of them."""
    more = f"\n    options:\n      {option}" if option else ""
    return "\n\n".join([f"# {title}", about, *(f"::: {name}{more}" for name in names)]) + "\n"
