"""The gallery of recipes, from the headers of gin files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A recipe belongs to the first group whose files it includes, itself or through other files.
GROUPS = {
    "English and a clone of it": (
        ("parts/clone_tiny.gin",),
        "These recipes need no data of yours and run in minutes. The clone is English written with other tokens, so every "
        "word has a perfect translation. `docs/study.md` compares the recipes over three seeds.",
    ),
    "Encoders in 26 languages": (
        ("parts/catalogs_tiny.gin",),
        "These recipes read messages of Django and Home Assistant, which the extra `demo` installs. `docs/infoxlm.md` "
        "compares them.",
    ),
    "Published settings": (
        ("parts/prealign_published.gin", "parts/infoxlm_published.gin"),
        "These recipes hold the settings of the papers, for your own text. They have been compiled for TPU slices, not "
        "trained.",
    ),
    "Two languages of your own": (
        ("parts/own_text.gin",),
        "These recipes read your text and your dictionary (`docs/howto/own_text.md`).",
    ),
    "An imported model": ((), "These recipes continue a model of Hugging Face (`docs/howto/own_model.md`)."),
}

KINDS = {
    "models": "Models",
    "runtimes": "Machines",
    "probes": "Probes",
    "parts": "Parts of recipes",
}

INTRODUCTION = """# Recipes

A recipe is a gin file. Its header says the command, what it costs and what to expect, and this page is made from these
headers. `xalign list recipes` prints the same list, and `xalign show --gin_file=recipes/NAME.gin` one recipe whole.
"""


class Header(NamedTuple):
    """The comment at the top of a gin file.

    Attributes:
      title: one sentence on what the recipe is.
      notes: further paragraphs.
      command: how to run it; "" = the header has none.
      cost, expect: the text after "Cost:" and "Expect:"; "" = the header has none.
    """

    title: str
    notes: tuple[str, ...]
    command: str
    cost: str
    expect: str


def header(text: str) -> Header:
    """The header of a gin file, from the file's text."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [line.removeprefix("#").removeprefix(" ") for line in comment]
    first, *others = "\n".join(lines).split("\n\n")
    notes, command, cost, expect = [], "", "", ""
    for paragraph in others:
        if paragraph.startswith("  "):
            command = "\n".join(line[2:] for line in paragraph.splitlines())
        elif paragraph.startswith("Cost: "):
            cost, _, expect = paragraph.removeprefix("Cost: ").partition("\nExpect: ")
        else:
            notes.append(_one_line(paragraph))
    return Header(_one_line(first), tuple(notes), command, _one_line(cost), _one_line(expect))


def page(root: Path) -> str:
    """The page, in Markdown.

    Args:
      root: the folder gin/.
    """
    recipes = {path.stem: header(path.read_text(encoding="utf-8")) for path in sorted((root / "recipes").glob("*.gin"))}
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in recipes:
        groups[_group(root, f"recipes/{name}.gin")].append(name)
    parts = [INTRODUCTION]
    for group, names in groups.items():
        parts += [
            f"## {group}",
            GROUPS[group][1],
            _table("recipe", {f"[{name}](#{name})": recipes[name].title for name in names}),
        ]
        parts += [_recipe(name, recipes[name]) for name in names]
    parts += ["## Files to add", "A further `--gin_file` changes the model, the machine or the probes of a recipe."]
    for folder, title in KINDS.items():
        files = sorted((root / folder).glob("*.gin"))
        about = {f"`{folder}/{path.name}`": _first_sentence(path.read_text(encoding="utf-8")) for path in files}
        parts += [f"### {title}", _table("file", about)]
    return "\n\n".join(parts) + "\n"


def _group(root: Path, file: str) -> str:
    included = set(_included(root, file))
    return next(group for group, (files, _) in GROUPS.items() if not files or included & set(files))


def _included(root: Path, file: str) -> Iterator[str]:
    """The packaged files that a file includes, and those that they include."""
    for name in re.findall(r"^include '(.+?)'", (root / file).read_text(encoding="utf-8"), re.MULTILINE):
        yield name
        yield from _included(root, name)


def _recipe(name: str, about: Header) -> str:
    parts = [f"### {name}", *[_linkable(text) for text in (about.title, *about.notes)]]
    parts += [f"```\n{about.command}\n```"]
    parts += [f"**Cost:** {_linkable(about.cost)}", f"**Expect:** {_linkable(about.expect)}"]
    return "\n\n".join(parts)


def _first_sentence(text: str) -> str:
    """The first sentence of a header, which ends at a full stop before a capital letter or at a colon."""
    return re.split(r"(?<=\.) (?=[A-Z])|:$", header(text).title)[0]


def _table(head: str, rows: dict[str, str]) -> str:
    lines = [f"| {name} | {_linkable(about)} |" for name, about in rows.items()]
    return "\n".join([f"| {head} | what it is |", "|---|---|", *lines])


def _linkable(text: str) -> str:
    """Gin headers name pages without backticks; the hook that makes links of them asks for backticks."""
    return re.sub(r"(?<!`)docs/[\w/]+\.md", r"`\g<0>`", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
