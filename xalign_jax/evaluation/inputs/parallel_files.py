"""How a probe names files of parallel text: one mapping or several, with or without patterns.

    {"en": "en.txt", "de": "de.txt"}                    the first language is compared with every other one
    [{"en": "a.en", "de": "a.de"}, {"en": "b.en", ...}]  several mappings, each with files of its own
    {"en": "ntrex/en.txt", "*": "ntrex/{language}.txt"}  every language that has such a file
    {"en": "ntrex/en.txt", "de,fr": "ntrex/{language}.txt"}
    {"eng": "tatoeba.{language}-eng.eng", "*": "tatoeba.{language}-eng.{language}"}
                                                         each language has English lines of its own

gin turns mappings into tuples of pairs. Functions here take them in that form.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence

from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

File = tuple[str, str]  # language, path
LANGUAGE = "{language}"


def mappings(files: Sequence) -> tuple[tuple[File, ...], ...]:
    """Every mapping with absolute paths, without patterns: (language, path) each, the pivot first. () = no files.

    Raises:
      UserError: `files` has another form, no file fits a pattern, or a mapping has one language.
    """
    if not files:
        return ()
    # A mapping is a tuple of pairs of strings; several mappings are a tuple of those.
    several = (files,) if _is_pair(files[0]) else files
    found = [mapping for one in several for mapping in _expanded(one)]
    for mapping in found:
        if len(mapping) == 1:
            raise UserError(f"files = {mapping!r} of a probe: one language; parallel text needs two or more")
    return tuple(found)


def located_files(files: Sequence) -> tuple:
    """`files` with absolute paths and without patterns: one mapping, or a tuple of mappings if there are several."""
    found = mappings(files)
    return found[0] if len(found) == 1 else found


def all_files(files: Sequence) -> tuple[File, ...]:
    """The files of all mappings, each once."""
    return tuple(dict.fromkeys(file for mapping in mappings(files) for file in mapping))


def _expanded(mapping: Sequence) -> list[tuple[File, ...]]:
    """The mappings that a mapping with patterns stands for."""
    if not mapping or isinstance(mapping, str) or not all(map(_is_pair, mapping)):
        raise UserError(
            f"files = {mapping!r} of a probe: expected {{language: path}} or a list of such mappings; "
            '--gin.SENTENCES=\'{"en": "en.txt", "de": "de.txt"}\''
        )
    (pivot, pivot_path), *others = mapping
    named = {name for names, _ in mapping for name in names.split(",")}
    found: list[File] = []
    for names, path in others:
        if LANGUAGE not in path and ("," in names or names == "*"):
            raise UserError(f"files: the path {path!r} of {names!r} must hold {LANGUAGE}, one file a language")
        if LANGUAGE not in path:
            found.append((names, resolve(path)))
            continue
        languages = _languages(path, named) if names == "*" else names.split(",")
        found += [(language, resolve(path.replace(LANGUAGE, language))) for language in languages]
    if LANGUAGE not in pivot_path:
        return [((pivot, resolve(pivot_path)), *found)]
    # The pivot has lines of its own for each language.
    return [((pivot, resolve(pivot_path.replace(LANGUAGE, name))), (name, path)) for name, path in found]


def _languages(path: str, named: set[str]) -> list[str]:
    """The languages, but for the named ones, for which a file of the pattern exists, sorted."""
    # The folder above the first pattern is looked through.
    before, _, _ = resolve(path).partition(LANGUAGE)
    folder = before.rpartition("/")[0]
    inside = resolve(path)[len(folder) + 1 :].split(LANGUAGE)
    # The first place says which language it is, and the others must agree.
    first, *rest = map(re.escape, inside)
    fits = re.compile(f"{first}([^/]+?)" + r"\1".join(rest))
    star = "*".join(map(glob.escape, inside))
    names = (fits.fullmatch(str(one)[len(folder) + 1 :]) for one in epath.Path(folder).glob(star))
    languages = sorted({name[1] for name in names if name} - named)
    if not languages:
        raise UserError(f"files: no file fits {path}, except those of {', '.join(sorted(named - {'*'}))}")
    return languages


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, str) for one in value)
