"""Which texts and dictionaries a run has read, in which languages and under which licences, as its records tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from xalign_jax.data.tokens.vocabulary import clone_index

UNKNOWN = "unknown"

# Licences that the authors of ready tasks' data state, by the name before a dot or a slash. Those of other tasks were not
# looked up: `Mixture.licences` or `xalign export --licence` states them.
KNOWN = {
    "docs_en": "BSD-3-Clause (numpy, scipy), Apache-2.0 (jax, flax, optax)",
    "catalogs": "BSD-3-Clause (Django)",
    "home_assistant": "Apache-2.0 (Home Assistant)",
    "mc4": "ODC-BY-1.0 (Common Crawl's terms of use apply too)",
}
_CLDR = "Unicode-3.0 (CLDR), BSD-3-Clause (Babel)"

# The folder of an absolute path, in the name of a task or alone. It says nothing about data, but much about a machine.
_FOLDER = re.compile(r"(?<![^'\"=:,])/(?!/)[^,'\"]*/")


class Used(NamedTuple):
    """Something that a run has read.

    Attributes:
      name: a task or a file, without folders.
      languages: codes; () = nobody recorded them.
    """

    name: str
    languages: tuple[str, ...]
    licence: str


def used(environment: Mapping[str, Any]) -> list[Used]:
    """The texts, the dictionaries and the facts of a run, from its environment.json; [] for an imported model."""
    recipe = environment["recipe"]
    mixtures = [one["mixture"] for stage in recipe.get("stages", ()) for one in stage["streams"] if one["mixture"]]
    stated = {task: licence for mixture in mixtures for task, licence in mixture.get("licences") or ()}
    # Records hold tasks as they are spelled; `texts` says which languages each of them had.
    texts = environment.get("texts", {})
    tasks = dict.fromkeys(task for mixture in mixtures for task in mixture["tasks"])
    found = [Used(without_folders(task), _languages(texts.get(task, {})), _licence(task, stated)) for task in tasks]
    return found + _words(recipe)


def languages(environment: Mapping[str, Any]) -> list[str]:
    """The codes of all languages of a run's texts; [] for an imported model."""
    return sorted({code for splits in environment.get("texts", {}).values() for code in _languages(splits)})


def without_folders(text: str) -> str:
    """A text in which absolute paths are only names of files."""
    return _FOLDER.sub("", text)


def _languages(splits: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(sorted(splits.get("train", {})))


def _licence(task: str, stated: Mapping[str, str]) -> str:
    if task in stated:
        return stated[task]
    hub = re.match(r"hf:([\w.-]+/[\w.-]+)(,|$)", task)
    if hub:
        return f"{UNKNOWN}; see https://huggingface.co/datasets/{hub[1]}"
    name = task.removeprefix("tfds:").rpartition("=")[2]
    return KNOWN.get(re.split(r"[./:]", name)[0], UNKNOWN)


def _words(recipe: Mapping[str, Any]) -> list[Used]:
    """The dictionaries of a recipe. Clones translate themselves, and facts are made up: they have no licence."""
    lexicon = recipe.get("lexicon") or {}
    bases = tuple(dict.fromkeys(clone_index(language)[0] for language in lexicon.get("languages", ())))
    if lexicon.get("source") == "cldr":
        return [Used("names of CLDR, as a dictionary", bases, _CLDR)]
    files = [path if isinstance(path, str) else path[0] for path in lexicon.get("paths", ())]
    return [Used(f"dictionary {without_folders(path)}", bases, UNKNOWN) for path in files]
