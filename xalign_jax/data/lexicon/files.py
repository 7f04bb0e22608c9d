"""Dictionaries from files and CLDR. An entry is a concept (PreAlign, section 2).

Files of FreeDict and extracts of Wiktionary are read in freedict.py and wiktionary.py.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from xalign_jax.data.lexicon.freedict import read_tei
from xalign_jax.data.lexicon.wiktionary import is_wiktionary, read_entry
from xalign_jax.data.text.compression import plain_name
from xalign_jax.data.text.lines import check_string, parse_object, read_lines
from xalign_jax.errors import UserError, install
from xalign_jax.recipe import resolve


class Entry(NamedTuple):
    """The words of one concept, (index into the languages, word) each; words of the source language come first."""

    concept: str
    words: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """Entries in order of first appearance.

    Attributes:
      report: counts of the `lines` that were read and of the words and lines that were dropped: `empty` and `too_long`
        words, `duplicates`, and `single` lines, which have one word only.
    """

    entries: tuple[Entry, ...]
    report: dict[str, int]


_Row = tuple[str | None, list[tuple[int, str]]]
_KEYS = ("src_text", "tgt_text", "words", "index")
# A number such as 0.75, 12 % or 1e-3, in a column where dictionaries keep scores.
_SCORE = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s?%?|[-+]?(inf|nan)", re.IGNORECASE)
# Grammar as dict.cc marks it, for example "{f}" or "{pl}".
_DICT_CC = re.compile(r"\{(m|f|n|pl|sg|m/f|adj|adv|verb)\.?\}")


def read_dictionary(path: str, languages: tuple[str, ...] = ("en", "de"), max_words: int | None = None) -> Dictionary:
    """A dictionary file, which may be compressed. Files whose names end in .tei are FreeDict's (freedict.py).

    Otherwise each line has one of these forms:

      TSV `source<TAB>target`, MUSE `source target`, JSON pairs {"src_text", "tgt_text"}, JSON rows
      {"words": "a $ b $ c"} with an optional integer "index". The n-th word is in languages[n - 1].

    Numbers from the third column on, and further JSON keys with a number, are scores and are left out. Lines with the
    same source word or the same "index" make one entry. Words of more than `max_words` white-space separated words are
    dropped and counted. Lines of wiktextract (wiktionary.py) whose word is in another language are left out.

    Raises:
      UserError: naming file:line; a line has another form, or a word beyond the languages.
    """
    path = resolve(path)
    name = plain_name(path)
    if name.endswith((".dict", ".dict.dz", ".index")):
        raise UserError(
            f"{path}: a dictionary of dictd, typeset for reading; take the .tei file of the same dictionary"
        )
    if name.endswith(".tei"):
        return _merge(((None, words) for words in read_tei(path, languages)), max_words)
    return _merge(_rows(path, languages), max_words)


def _rows(path: str, languages: tuple[str, ...]) -> Iterator[_Row]:
    """The rows of a file's lines. Raises UserError if all lines are of other languages."""
    foreign, read = 0, False
    for number, line in read_lines(path):
        if line.strip():
            row = _parse(line, path, number, languages)
            if row is None:
                foreign = foreign or number
            else:
                read = True
                yield row
    if foreign and not read:
        raise UserError(f"{path}:{foreign}: an entry of another language; no entry of the file is in {languages[0]!r}")


def _parse(line: str, path: str, number: int, languages: tuple[str, ...]) -> _Row | None:
    """A line's concept, None if only its source word tells, and its words with their languages.

    None stands for a line of wiktextract in another language.
    """
    concept = None
    if line.lstrip().startswith("{"):
        # A JSON object. Its index, if there is one, joins several lines to one concept.
        row = parse_object(line, path, number)
        if is_wiktionary(row):
            entry = read_entry(row, path, number, languages)
            return None if entry is None else (None, entry)
        words = _json_words(row, path, number)
        index = row.get("index")
        if index is not None and not isinstance(index, int):
            raise UserError(f"{path}:{number}: index must be an integer, found {str(index)[:40]!r}")
        concept = None if index is None else f"index:{index}"
    else:
        # TSV may have words with spaces. MUSE has two words without spaces, separated by a space. Scores in further
        # columns are blanked, so that they do not count as words.
        words = line.split("\t") if "\t" in line else line.split()
        words[2:] = ["" if _SCORE.fullmatch(word.strip()) else word for word in words[2:]]
        if "\t" not in line and (len(words) < 2 or any(words[2:])):
            raise UserError(f"{path}:{number}: expected source<TAB>target, two words, or a JSON object: {line[:60]!r}")
    return concept, list(enumerate(_check_words([" ".join(word.split()) for word in words], path, number, languages)))


def _check_words(words: list[str], path: str, number: int, languages: tuple[str, ...]) -> list[str]:
    """The words of the languages. Raises UserError if there are further words, or remarks as dict.cc writes them."""
    for word in words:
        if remark := _DICT_CC.search(word):
            raise UserError(
                f"{path}:{number}: {word[:40]!r} holds the remark {remark[0]!r}, as dict.cc writes grammar, "
                "which no text has; remove remarks in brackets, and columns after the second, from the file"
            )
    # A non-empty column beyond the languages is neither a word nor a score: the line is refused.
    extra = [(column, word) for column, word in enumerate(words[len(languages) :], len(languages) + 1) if word]
    if extra:
        column, word = extra[0]
        raise UserError(
            f"{path}:{number}: {word[:40]!r} in column {column} is no score, and the file is in {len(languages)} "
            f"languages ({', '.join(languages)}); remove it, or write each further translation on its own line"
        )
    return words[: len(languages)]


def _json_words(row: dict[str, Any], path: str, number: int) -> list[str]:
    """The words of a JSON line of either form, in the order of the languages."""
    # Keys with numbers are scores. Any other unknown key might be a misspelt one, so it is refused.
    unknown = [key for key, value in row.items() if key not in _KEYS and not isinstance(value, int | float | None)]
    if unknown:
        raise UserError(f"{path}:{number}: unknown key {unknown[0][:40]!r}; remove it from the file")
    pair = [row.get("src_text"), row.get("tgt_text")]
    words = row.get("words")
    if all(isinstance(word, str) for word in pair) and words is None:
        return [check_string(str(word), path, number) for word in pair]
    if isinstance(words, str) and pair == [None, None]:
        return check_string(words, path, number).split("$")
    raise UserError(f"{path}:{number}: expected the keys src_text and tgt_text, or words")


def _merge(rows: Iterator[_Row], max_words: int | None) -> Dictionary:
    """Lines as entries: one for each concept or source word, without repetitions."""
    report = dict.fromkeys(("lines", "empty", "too_long", "single", "duplicates"), 0)
    entries: dict[str, dict[tuple[int, str], None]] = {}
    for concept, words in rows:
        report["lines"] += 1
        # Keep the words that are not empty and not too long; a line needs a source word and a translation.
        kept = []
        for language, word in words:
            if not word:
                report["empty"] += 1
            elif max_words is not None and len(word.split()) > max_words:
                report["too_long"] += 1
            else:
                kept.append((language, word))
        if len(kept) < 2 or kept[0][0] != 0:
            report["single"] += 1
            continue
        # Lines of one index, or of one source word, make one entry; a dict keeps the order of its words.
        entry = entries.setdefault(concept or f"word:{kept[0][1]}", {})
        report["duplicates"] += sum(word in entry for word in kept[1:])
        entry.update(dict.fromkeys(kept))
    ordered = (Entry(name, tuple(sorted(words, key=lambda word: word[0]))) for name, words in entries.items())
    return Dictionary(tuple(ordered), report)


def cldr_dictionary(languages: tuple[str, ...], max_words: int | None = None) -> Dictionary:
    """Names of territories, languages, scripts, currencies, months, days and units in two or more CLDR locales.

    Raises:
      UserError: Babel is not installed, or knows no such locale.
    """
    # One table (kind, code) -> name for each language; the source language's names are the entries.
    names = [_cldr_names(language) for language in languages]
    rows: list[_Row] = []
    for key, source in names[0].items():
        others = [(i, table[key]) for i, table in enumerate(names) if i and key in table]
        rows.append((None, [(0, source), *others]))
    return _merge(iter(rows), max_words)


@functools.cache
def _cldr_names(language: str) -> dict[tuple[str, str], str]:
    """The locale's names by (kind, code). Names without letters, and names with a remark in brackets, are left out."""
    try:
        from babel import Locale, UnknownLocaleError
    except ImportError:
        raise UserError(f'Lexicon.source = "cldr" needs Babel: {install("demo")}') from None
    try:
        locale = Locale.parse(language, sep="-" if "-" in language else "_")
    except (UnknownLocaleError, ValueError) as error:
        raise UserError(f"Lexicon.languages: CLDR has no locale {language!r} ({error})") from None
    # Codes are the same in all locales, so they join the names of different languages.
    kinds: dict[str, dict[Any, Any]] = {
        "territory": dict(locale.territories),
        "language": dict(locale.languages),
        "script": dict(locale.scripts),
        "currency": dict(locale.currencies),
        "month": dict(locale.months["stand-alone"]["wide"]),
        "day": dict(locale.days["stand-alone"]["wide"]),
        "unit": {code: forms.get("long") for code, forms in locale.unit_display_names.items()},
    }
    return {
        (kind, str(code)): " ".join(name.split())
        for kind, table in kinds.items()
        for code, name in table.items()
        if isinstance(name, str) and "(" not in name and any(character.isalpha() for character in name)
    }
