"""The source "home_assistant": the interface strings of Home Assistant, real multi-way text in about 60 languages.

They come with the package home-assistant-frontend, in a JSON file {key: string} for each language and part of the
interface. The package fills untranslated strings with the English ones, so a string that equals the English one is left
out. Strings with the same English text form one group.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from xalign_jax.data.text.catalogs import clean, is_text, normal_language, package_folder
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.lines import check_string, parse_object, say
from xalign_jax.data.text.stamps import hash_file, stamp_file, stamp_package
from xalign_jax.errors import UserError

_DISTRIBUTION, _PACKAGE = "home-assistant-frontend", "hass_frontend"
_FILE = re.compile(r"(?P<locale>.+)-[0-9a-f]{32}\.json")
_CHOICES = ("plural", "select", "selectordinal")


@dataclasses.dataclass(frozen=True)
class InterfaceStrings:
    """The interface strings of Home Assistant, about 4,300 in up to 60 languages (extra: demo)."""

    validation_share: float = 0.2  # as that of `Catalogs`

    @property
    def languages(self) -> None:
        return None  # only the package's files tell

    def fingerprint(self) -> str:
        state = ["home_assistant", stamp_package(_DISTRIBUTION), hash_file(__file__)]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        return [stamp_package(_DISTRIBUTION), stamp_file(__file__)]

    def documents(self) -> Iterator[Document]:
        return iter(_documents())


@functools.cache
def _documents() -> tuple[Document, ...]:
    """The strings, English first, then language after language, without repetitions."""
    strings = _read(package_folder(_PACKAGE, "home_assistant") / "static" / "translations")
    english: dict[str, str] = {}  # key -> text
    first: dict[str, str] = {}  # text -> the first key that has it, which names the group
    documents: dict[Document, None] = {}
    dropped = 0
    for language in ("en", *sorted(strings.keys() - {"en"})):
        for key, string in strings[language].items():
            message = plain_message(string)
            dropped += message is None
            text = clean(message or "")
            if language == "en" and is_text(text):
                english[key] = text
                first.setdefault(text, key)
            # Formats and single signs are no text. Keys that English lacks are left from older versions.
            if key not in english or not any(map(str.isalpha, text)) or (language != "en" and text == english[key]):
                continue
            documents[Document(text=text, language=language, group=first[english[key]])] = None
    if dropped:
        say(f"home_assistant: {dropped} strings that are no ICU messages are skipped")
    return tuple(documents)


def _read(folder: Path) -> dict[str, dict[str, str]]:
    """Key -> string for each language. If two locales are one language (nb, no), the first counts."""
    strings: dict[str, dict[str, str]] = {}
    for file in sorted(folder.glob("**/*.json"), key=lambda file: (file.name, file)):
        if found := _FILE.fullmatch(file.name):
            row = parse_object(file.read_text(encoding="utf-8"), str(file), 1)
            of = strings.setdefault(normal_language(found["locale"]), {})
            for key, string in row.items():
                if isinstance(string, str):
                    of.setdefault(key, check_string(string, str(file), 1))
    if "en" not in strings:
        raise UserError(f"home_assistant: no English strings are in {folder}")
    return strings


def plain_message(message: str) -> str | None:
    """A message of ICU as text; None if it is none. Arguments become "#"; of plurals and choices, "other" is taken.

    >>> plain_message("{n} {n, plural, one {area} other {areas}} of ''{home}''")
    "# areas of '#'"
    """
    try:
        text, end = _message(message, 0)
    except (IndexError, RecursionError):
        return None  # a brace is open at the end
    return text if end == len(message) else None


def _message(message: str, at: int) -> tuple[str, int]:
    """The text from a position to the brace that closes it, or to the end, and where that is."""
    parts = []
    while at < len(message) and message[at] != "}":
        if message[at] == "{":
            text, at = _argument(message, at + 1)
            parts.append(text)
        elif message.startswith("''", at):
            parts.append("'")
            at += 2
        elif message[at] == "'" and message[at + 1 : at + 2] in ("{", "}"):
            # Quoted braces are text. The quote ends at the next apostrophe, or with the message.
            end = message.find("'", at + 1)
            end = len(message) if end < 0 else end
            parts.append(message[at + 1 : end])
            at = end + 1
        else:
            parts.append(message[at])
            at += 1
    return "".join(parts), at


def _argument(message: str, at: int) -> tuple[str, int]:
    """The text of an argument that begins after its brace, and the position after its end."""
    end = at
    while message[end] not in "{},":
        end += 1
    if message[end] == "}":
        return "#", end + 1
    kind = re.compile(r"\s*(\w+)\s*,?").match(message, end + 1)
    if message[end] == "{" or kind is None:
        raise IndexError
    # Branches: a selector and a message in braces each. A format such as {n, number} has none.
    at, branches = kind.end(), {}
    while message[at] != "}":
        selector_end = at
        while message[selector_end] not in "{}":
            selector_end += 1
        if message[selector_end] == "}":
            at = selector_end
            break
        text, close = _message(message, selector_end + 1)
        branches[message[at:selector_end].strip()] = text
        at = close + 1
    if kind[1] not in _CHOICES or not branches:
        return "#", at + 1
    return branches.get("other", list(branches.values())[-1]), at + 1
