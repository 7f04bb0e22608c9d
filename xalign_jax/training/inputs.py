"""Fingerprints of what a run reads in addition to its texts and its vocabulary, so that a restart notices a change."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.lexicon.files import cldr_dictionary
from xalign_jax.data.lexicon.lexicon import Lexicon
from xalign_jax.data.text.stamps import hash_file, stamp_package
from xalign_jax.recipe import Recipe, resolve
from xalign_jax.remote_files import MISSING, file_state
from xalign_jax.runtime import storage
from xalign_jax.runtime.restore import newest_params
from xalign_jax.training import teachers


class Input(NamedTuple):
    """Something that a run reads: where it lies, and a hash of what it holds."""

    place: str
    fingerprint: str


Inputs = dict[str, Input]  # by the gin binding that names it


def of_data(recipe: Recipe, corpus: Corpus) -> Inputs:
    """The dictionaries as they are on disk, and the lexicon and the facts that the recipe makes from them."""
    found: Inputs = {}
    if corpus.lexicon is not None and recipe.lexicon is not None:
        # Files and their results both: the same files can give other words when the corpus or the code has changed.
        found |= _dictionaries(recipe.lexicon)
        tables = (corpus.lexicon.train, corpus.lexicon.dictionary, corpus.lexicon.heldout)
        arrays = [array for t in tables for array in (t.ids, t.starts, t.concept, t.language)]
        found["Recipe.lexicon"] = Input("its words", _hash(*arrays))
    if corpus.facts is not None:
        facts = corpus.facts
        found["Recipe.facts"] = Input("its facts", _hash(facts.tokens, facts.triples, facts.choices))
    return found


def of_start(recipe: Recipe) -> Inputs:
    """The parameters that the run starts from, the files that feeds read, and the user's own modules.

    The label of `init_from` holds the step that was read. The other run may continue meanwhile: a newer step there is a
    new label, not a changed input.
    """
    found: Inputs = {}
    if recipe.init_from is not None:
        place = resolve(recipe.init_from)
        if (newest := newest_params(storage.directory("Recipe.init_from", place))) is not None:
            step, fingerprint = newest
            found[f"Recipe.init_from, step {step}"] = Input(place, fingerprint)
    files = {f"Recipe.row_vectors[{number}]": resolve(path) for number, path in enumerate(recipe.row_vectors)}
    streams = [stream for stage in recipe.stages for stream in stage.streams]
    for stream in streams:
        label = f"{stream.name}/{type(stream.feed).__name__}"
        files |= {f"{label}.{field}": path for field, path in stream.feed.own_files().items()}
    # A file that is gone was read when the run started.
    for label, place in files.items():
        if file_state(place)[0] != MISSING:
            found[label] = Input(place, hash_file(place)[:16])
    for objective in {stream.objective for stream in streams}:
        for other in teachers.of(objective):
            if (newest := newest_params(other.place)) is not None:
                found[f"{other.binding}, step {newest[0]}"] = Input(str(other.place), newest[1])
    # Modules that the recipe names, and modules whose classes it uses.
    for name in sorted({*recipe.modules, *_modules(recipe)}):
        if (file := _source(name)) is not None:
            found[f"module {name}"] = Input(file, hash_file(file)[:16])
    return found


def changes(then: dict[str, list[str]], now: Inputs) -> Iterator[str]:
    """A line for each input whose fingerprint differs from `then` (environment.json). Lost inputs do not count."""
    # Files may have moved: only their contents count, and the line names both places.
    for label, (place, fingerprint) in then.items():
        if label in now and now[label].fingerprint != fingerprint:
            moved = "" if now[label].place == place else f", then {place}"
            yield f"{label} ({now[label].place}{moved}) is {now[label].fingerprint}, was {fingerprint}"


def fingerprints(found: Inputs) -> dict[str, str]:
    """The fingerprints without the places: hosts may keep the same files in different folders."""
    return {label: read.fingerprint for label, read in found.items()}


def _dictionaries(lexicon: Lexicon) -> Inputs:
    # Babel's names come with a package, so the version names the place, and the hash is of the words themselves.
    if lexicon.source == "cldr":
        entries = repr(cldr_dictionary(lexicon.bases).entries).encode()
        _, name, version = stamp_package("Babel")
        return {"Lexicon.source": Input(f"{name} {version}", _hash(np.frombuffer(entries, np.uint8)))}
    # Other sources read files. The clone source reads none. A file that is gone was read when the run started.
    return {
        f"Lexicon.paths[{number}]": Input(resolve(path), hash_file(resolve(path))[:16])
        for number, (path, _, _) in enumerate(lexicon.files)
        if file_state(resolve(path))[0] != MISSING
    }


def _modules(config: object) -> Iterator[str]:
    """The modules outside of this package that define the classes of a config."""
    if isinstance(config, tuple):
        for item in config:
            yield from _modules(item)
    elif dataclasses.is_dataclass(config):
        if not type(config).__module__.startswith("xalign_jax."):
            yield type(config).__module__
        for field in dataclasses.fields(config):
            yield from _modules(getattr(config, field.name))


def _source(module: str) -> str | None:
    """The file of a module's source; None where there is none, as in a notebook."""
    if module in sys.modules:
        return sys.modules[module].__file__
    # The process that prepares data imports it. Here it is only looked for, as that import would look.
    name = module.replace(".", "/")
    places = (Path(folder, file) for folder in ("", *sys.path) for file in (f"{name}.py", f"{name}/__init__.py"))
    return next((resolve(place) for place in places if place.is_file()), None)


def _hash(*arrays: np.ndarray) -> str:
    """16 hex digits of arrays' dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
