"""Extracts of Wiktionary as wiktextract writes them: a JSON object for each word of any language, with translations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xalign_jax.data.lexicon.filenames import fitting
from xalign_jax.data.text.lines import check_string
from xalign_jax.errors import UserError


def is_wiktionary(row: dict[str, Any]) -> bool:
    """True for the object of a word, and for that of a page that only leads to another one."""
    return "lang_code" in row or {"title", "redirect"} <= row.keys()


def read_entry(row: dict[str, Any], path: str, number: int, languages: tuple[str, ...]) -> list[tuple[int, str]] | None:
    """The word and its translations, (index into the languages, word) each; None if it is in another language.

    Translations stand under the word or under its senses. Those into other languages are left out.

    Raises:
      UserError: naming file:line; the object is none of wiktextract's.
    """
    code = row.get("lang_code")
    if not isinstance(code, str) or languages[0] not in fitting(code, languages):
        return None
    words = [(0, _string(row, path, number))]
    for translation in _translations(row, path, number):
        code = translation.get("lang_code") or translation.get("code")  # `code` in extracts before 2025
        fits = fitting(code, languages[1:]) if isinstance(code, str) else []
        # Translations that are described, and not given, have no word.
        if len(fits) == 1 and translation.get("word"):
            words.append((languages.index(fits[0]), _string(translation, path, number)))
    return words


def _translations(row: dict[str, Any], path: str, number: int) -> Iterator[dict[str, Any]]:
    for place in (row, *_objects(row, "senses", path, number)):
        yield from _objects(place, "translations", path, number)


def _objects(row: dict[str, Any], key: str, path: str, number: int) -> list[dict[str, Any]]:
    found = row.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{path}:{number}: {key!r} is no list of objects, as wiktextract writes it")
    return found


def _string(row: dict[str, Any], path: str, number: int) -> str:
    word = row.get("word")
    if not isinstance(word, str):
        raise UserError(f"{path}:{number}: no string under the key 'word', as wiktextract writes it")
    return " ".join(check_string(word, path, number).split())
