"""Fingerprints of what a run reads beside its texts and its vocabulary, so that it does not go on with something else."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xalign_jax.data.lexicon.files import cldr_dictionary
from xalign_jax.data.text.files import hash_file, stamp_package
from xalign_jax.recipe import Recipe, resolve
from xalign_jax.runtime.restore import newest_params


class Input(NamedTuple):
    """Something that a run reads: where it lies, and a hash of what it holds."""

    place: str
    fingerprint: str


Inputs = dict[str, Input]  # by the gin binding that names it


def of_data(recipe: Recipe, corpus: Any) -> Inputs:
    """The dictionaries as they are on disk, and the lexicon and the facts that the recipe makes of them."""
    found: Inputs = {}
    if corpus.lexicon is not None:
        found |= _dictionaries(recipe.lexicon)
        tables = (corpus.lexicon.train, corpus.lexicon.dictionary, corpus.lexicon.heldout)
        arrays = [array for t in tables for array in (t.ids, t.starts, t.concept, t.language)]
        found["Recipe.lexicon"] = Input("its words", _hash(*arrays))
    if corpus.facts is not None:
        facts = corpus.facts
        found["Recipe.facts"] = Input("its facts", _hash(facts.tokens, facts.triples, facts.choices))
    return found


def of_start(recipe: Recipe) -> Inputs:
    """The parameters that the run starts from, and the modules of the user's own.

    The label of `init_from` holds the step that was read: the other run may go on meanwhile, this one needs it no more.
    """
    found: Inputs = {}
    if recipe.init_from is not None and (newest := newest_params(Path(resolve(recipe.init_from)))) is not None:
        step, fingerprint = newest
        found[f"Recipe.init_from, step {step}"] = Input(resolve(recipe.init_from), fingerprint)
    for name in sorted({*recipe.modules, *_modules(recipe)}):
        if (file := _source(name)) is not None:
            found[f"module {name}"] = Input(file, hash_file(file)[:16])
    return found


def changes(then: dict[str, list[str]], now: Inputs) -> Iterator[str]:
    """What is no longer what `then`, read from environment.json, says; a line each. Things that are gone do not count."""
    for label, (place, fingerprint) in then.items():
        if label in now and now[label].fingerprint != fingerprint:
            moved = "" if now[label].place == place else f", then {place}"
            yield f"{label} ({now[label].place}{moved}) is {now[label].fingerprint}, was {fingerprint}"


def fingerprints(found: Inputs) -> dict[str, str]:
    """What is read, without its place: what all hosts must have in common."""
    return {label: read.fingerprint for label, read in found.items()}


def _dictionaries(lexicon: Any) -> Inputs:
    if lexicon.source == "cldr":
        entries = repr(cldr_dictionary(lexicon.bases).entries).encode()
        _, name, version = stamp_package("Babel")
        return {"Lexicon.source": Input(f"{name} {version}", _hash(np.frombuffer(entries, np.uint8)))}
    paths = [path if isinstance(path, str) else path[0] for path in lexicon.paths]
    return {
        f"Lexicon.paths[{number}]": Input(resolve(path), hash_file(resolve(path))[:16])
        for number, path in enumerate(paths)
    }


def _modules(config: Any) -> Iterator[str]:
    """The modules, not of this package, that define the classes of a config."""
    if isinstance(config, tuple):
        for item in config:
            yield from _modules(item)
    elif dataclasses.is_dataclass(config):
        if not type(config).__module__.startswith("xalign_jax."):
            yield type(config).__module__
        for field in dataclasses.fields(config):
            yield from _modules(getattr(config, field.name))


def _source(module: str) -> str | None:
    """The file of a module's source; None where it has none, as in a notebook."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    name = module.replace(
        ".", "/"
    )  # looked for as the process that prepares data imports it, without importing it here
    places = (Path(folder, file) for folder in ("", *sys.path) for file in (f"{name}.py", f"{name}/__init__.py"))
    return next((resolve(place) for place in places if place.is_file()), None)


def _hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
