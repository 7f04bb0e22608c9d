"""Gettext catalogs: `.po` and `.mo` files. A message and its translations form one group."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator

from xalign_jax.data.text.catalogs import clean, is_text, read_mo
from xalign_jax.data.text.compression import extra_package, plain_name
from xalign_jax.data.text.files import Document, Monolingual, identity
from xalign_jax.data.text.lines import SHOWN, is_language, read_lines, reading, say
from xalign_jax.data.text.stamps import hash_file, stamp_file
from xalign_jax.errors import UserError, one_line

# A line of a message: a string between quotes, perhaps after a keyword.
_MESSAGE = re.compile(r'(?:(?:msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)\s*)?"(?:[^"\\]|\\.)*"')
_POLIB_PLACE = re.compile(r"Syntax error in po file .*?\(line (\d+)\)(?:: )?")


@dataclasses.dataclass(frozen=True)
class Messages(Monolingual):
    """Catalogs by language: files, or folders in which all catalogs are read. Joined by context and message id.

    Messages are cleaned like Django's (`catalogs.clean`). Fuzzy, obsolete and untranslated ones are skipped. A message
    with plural forms gives its plural and the last form.

    Attributes:
      msgid: the language of the message ids. None = the ids are names, not text.
    """

    msgid: str | None = None

    def __post_init__(self) -> None:
        if self.msgid is not None and not is_language(self.msgid):
            raise UserError(f"Mixture.tasks: po:msgid={self.msgid}: no name for a language")
        if self.msgid in dict(self.files):
            raise UserError(f"Mixture.tasks: po:msgid={self.msgid}: a catalog in {self.msgid!r} is named too")

    @property
    def languages(self) -> frozenset[str] | None:
        return frozenset({language for language, _ in self.files} | ({self.msgid} if self.msgid else set()))

    def documents(self) -> Iterator[Document]:
        seen: set[Document] = set()  # catalogs of one folder share messages
        for language, path in self.files:
            for file in _catalogs(path):
                for context, source, translation in _messages(file):
                    english, text = clean(source), clean(translation)
                    # Formats and single signs are no text.
                    if not any(map(str.isalpha, text)) or (self.msgid and not is_text(english)):
                        continue
                    group = f"{context}\x04{source}" if context else source
                    found = [Document(english, self.msgid, group)] if self.msgid else []
                    for document in (*found, Document(text, language, group)):
                        if document not in seen:
                            seen.add(document)
                            yield document

    def fingerprint(self) -> str:
        return identity(self, [(language, [hash_file(f) for f in _catalogs(path)]) for language, path in self.files])

    def stamps(self) -> list[tuple[str, ...]]:
        # A folder's own stamp changes when a file is added or removed.
        paths = [path for _, path in self.files]
        folders = [folder for path in paths for folder, _, _ in os.walk(path)]
        return [stamp_file(file) for file in (*sorted(folders), *itertools.chain.from_iterable(map(_catalogs, paths)))]


def _catalogs(path: str) -> list[str]:
    """A file itself, or the catalogs in a folder and below it. A `.mo` file beside its `.po` file is left out."""
    if not os.path.isdir(path):
        return [path]
    found = {os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names}
    sources = {file for file in found if plain_name(file).endswith(".po")}
    stems = {plain_name(file).removesuffix(".po") for file in sources}
    compiled = {file for file in found if file.endswith(".mo") and file.removesuffix(".mo") not in stems}
    if not sources | compiled:
        raise UserError(f"{path}: no .po or .mo file is in this folder")
    return sorted(sources | compiled)


def _messages(path: str) -> Iterator[tuple[str, str, str]]:
    """(context, source, translation) of each translated message of a catalog."""
    if path.endswith(".mo"):
        with reading(path):
            yield from read_mo(path)
    else:
        yield from _read_po(path)


def _read_po(path: str) -> Iterator[tuple[str, str, str]]:
    """As `catalogs.read_mo`, from a `.po` file.

    Raises:
      UserError: naming file and line, if the file is damaged or translates a message in two ways.
    """
    skipped: Counter[str] = Counter()
    seen: dict[tuple[str, str], tuple[int, str]] = {}  # (context, id) -> line and translation
    for entry in _entries(path):
        if entry.obsolete or entry.fuzzy:
            skipped["obsolete" if entry.obsolete else "fuzzy"] += 1
            continue
        source = entry.msgid_plural or entry.msgid
        plurals = entry.msgstr_plural
        translation = plurals[max(plurals)] if plurals else entry.msgstr
        if not translation.strip():
            skipped["untranslated"] += 1
            continue
        key = (entry.msgctxt or "", entry.msgid)
        place = max(entry.linenum, 1)  # polib gives 0 for the first line
        line, before = seen.setdefault(key, (place, translation))
        if before != translation:
            raise UserError(f"{path}:{place}: msgid {entry.msgid[:SHOWN]!r} has another translation on line {line}")
        if source:
            yield key[0], source, translation
    if skipped:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(skipped.items()))
        say(f"{path}: messages that are skipped: {counts}")


def _entries(path: str) -> list:
    """The entries of a `.po` file, as polib gives them."""
    polib = extra_package("polib", path)
    # polib takes uncompressed files only, and drops the last character of a string without its quote. So it reads a
    # checked copy.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".po") as copy:
        for number, line in read_lines(path):
            body = line.strip().removeprefix("#~").lstrip()
            if body.startswith(('"', "msg")) and not _MESSAGE.fullmatch(body):
                raise UserError(f"{path}:{number}: expected a keyword of gettext and a string between quotes")
            copy.write(line + "\n")
        copy.flush()
        try:
            return list(polib.pofile(copy.name, encoding="utf-8"))
        except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:
            found = _POLIB_PLACE.match(str(error))
            place = f"{path}:{found[1]}" if found else path
            said = one_line(error).replace(copy.name, path)
            raise UserError(f"{place}: not a gettext catalog ({said})") from None
