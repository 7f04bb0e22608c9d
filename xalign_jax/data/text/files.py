"""Sources of text: readers of a user's lines. Other formats have modules of their own.

A source yields documents. Its stamps tell cheaply whether it has changed, and its fingerprint identifies its content
exactly (stamps.py). Lines are read in lines.py; files may be compressed (compression.py) or lie in an object store
(remote.py). The embedded sources are in docstrings.py, catalogs.py and home_assistant.py. A recipe's spelling of a
source is parsed in names.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from xalign_jax.data.text.compression import plain_name
from xalign_jax.data.text.fields import RANGES, VALUES, Span, ranges, turns, value
from xalign_jax.data.text.lines import SHOWN, check_string, is_language, parse_object, read_lines, reading, say
from xalign_jax.data.text.stamps import hash_file, stamp_file
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

VALIDATION_SHARE = 0.03
_KEYED = hashlib.blake2b(digest_size=8, key=b"xalign")


class Document(NamedTuple):
    """One text.

    Attributes:
      group: equal for texts that translate each other, and "" if nothing is known.
      label: of the whole text, such as the answer of a task; None if there is none.
      provenance: one of `fields.PROVENANCES`; None if it is not known.
      spans: named ranges of its characters, such as entities; sorted, and none overlaps another.
      roles: the turns of a dialogue as ranges of characters with who says them; as `spans`.
    """

    text: str
    language: str
    group: str = ""
    label: str | None = None
    provenance: str | None = None
    spans: tuple[Span, ...] = ()
    roles: tuple[Span, ...] = ()


class Source(Protocol):
    """Something that yields documents, always in the same order.

    Attributes:
      languages: the languages of its documents; None if only reading tells.
    """

    @property
    def languages(self) -> frozenset[str] | None: ...

    def documents(self) -> Iterator[Document]: ...

    def fingerprint(self) -> str:
        """A hash that changes with the content, and with the way it is read."""

    def stamps(self) -> list[tuple[str, ...]]:
        """Stamps of all files and packages that the content depends on; see stamps.py."""


def identity(source: Any, files: list[Any]) -> str:
    """The fingerprint of a source: its settings, with contents instead of paths, so that files can be moved.

    Sources without fields have the fingerprints of the time before fields.
    """
    settings = {**dataclasses.asdict(source), "files": files}
    if not settings.get("fields"):
        settings.pop("fields", None)
    return hashlib.sha256(json.dumps([type(source).__name__, settings]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Monolingual:
    """Files by language: ((language, absolute path), ...). The base class of their readers."""

    files: tuple[tuple[str, str], ...]

    @property
    def languages(self) -> frozenset[str] | None:
        return frozenset(language for language, _ in self.files)

    def fingerprint(self) -> str:
        return identity(self, [(language, hash_file(path)) for language, path in self.files])

    def stamps(self) -> list[tuple[str, ...]]:
        return [stamp_file(path) for _, path in self.files]


@dataclasses.dataclass(frozen=True)
class Multilingual:
    """Absolute paths of files that hold several languages each. The base class of their readers.

    The groups of a file are numbered, so with several files the number of the file comes first.
    """

    files: tuple[str, ...]

    @property
    def languages(self) -> frozenset[str] | None:
        return None  # the files name their languages

    def documents(self) -> Iterator[Document]:
        for number, path in enumerate(self.files, 1):
            with reading(path):
                for document in self.read(path):
                    group = f"{number}/{document.group}" if len(self.files) > 1 else document.group
                    yield document._replace(group=group)

    def read(self, path: str) -> Iterator[Document]:
        """The documents of one file."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        return identity(self, [hash_file(path) for path in self.files])

    def stamps(self) -> list[tuple[str, ...]]:
        return [stamp_file(path) for path in self.files]


@dataclasses.dataclass(frozen=True)
class TextFiles(Monolingual):
    """Running text. `document` says what a document is: a "block" of lines between blank lines, or a "line"."""

    document: str = "block"

    def documents(self) -> Iterator[Document]:
        for language, path in self.files:
            # Lines lose white space at both ends, so a line of white space is blank.
            lines = (line.strip() for _, line in read_lines(path))
            if self.document == "line":
                yield from (Document(line, language) for line in lines if line)
                continue
            for filled, block in itertools.groupby(lines, key=bool):
                if filled:
                    yield Document("\n".join(block), language)


@dataclasses.dataclass(frozen=True)
class MultiwayTsv(Monolingual):
    """`id<TAB>text`, one file for each language. Equal ids translate each other. Rows without text are skipped."""

    def documents(self) -> Iterator[Document]:
        for language, path in self.files:
            seen: dict[str, int] = {}  # id -> line
            empty = 0
            for number, line in read_lines(path):
                if not line.strip():
                    continue
                key, tab, text = line.partition("\t")
                key = key.strip()
                if not tab or not key or "\t" in text.strip():
                    raise UserError(f"{path}:{number}: expected id<TAB>text")
                if key in seen:
                    raise UserError(f"{path}:{number}: id {key[:SHOWN]!r} stands on line {seen[key]} already")
                seen[key] = number
                if text.strip():
                    yield Document(text.strip(), language, key)
                else:
                    empty += 1
            if empty:
                say(f"{path}: {empty:,} rows without text are skipped")


@dataclasses.dataclass(frozen=True)
class AlignedLines(Monolingual):
    """Files in which lines of the same number translate each other. If one of them is blank, the others are kept."""

    def documents(self) -> Iterator[Document]:
        return align_lines([(language, path, read_lines(path)) for language, path in self.files])


def align_lines(sides: Sequence[tuple[str, str, Iterator[tuple[int, str]]]]) -> Iterator[Document]:
    """The documents of files, (language, path, lines) each, in which lines of the same number translate each other."""
    empty: Counter[str] = Counter()  # file -> lines without text whose translations have some
    # All files are read side by side; one that ends earlier gives None, which is an error.
    for number, row in enumerate(itertools.zip_longest(*(lines for _, _, lines in sides)), 1):
        for (language, path, _), cell in zip(sides, row, strict=True):
            if cell is None:
                longer = next(other for (_, other, _), c in zip(sides, row, strict=True) if c is not None)
                raise UserError(f"{path}:{number}: the file ends here, {longer} goes on; they must align by line")
            if cell[1].strip():
                yield Document(cell[1].strip(), language, str(number))
            elif any(other and other[1].strip() for other in row):
                empty[path] += 1
    for path, count in empty.items():
        say(f"{path}: {count:,} lines without text are skipped; their translations are kept")


@dataclasses.dataclass(frozen=True)
class JsonLines(Monolingual):
    """One JSON object on each line.

    Attributes:
      text: the key of the text.
      language: the key of its language, an optional one; the file's language is the default.
      group: the key of its group, an optional one.
      fields: (field, key) of each field that is read. A dialogue under the key of roles is the text.
    """

    text: str = "text"
    language: str = "language"
    group: str = "group_id"
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def languages(self) -> None:
        return None  # an object may name its own language

    def documents(self) -> Iterator[Document]:
        for language, path in self.files:
            having, count, empty = Counter[str](), 0, 0
            for number, line in read_lines(path):
                if not line.strip():
                    continue
                row = parse_object(line, path, number)
                about = self._fields(row, f"{path}:{number}")
                text = about.pop("text", row.get(self.text))
                if not isinstance(text, str):
                    raise UserError(f"{path}:{number}: no string under the key {self.text!r}")
                # An object may name its own language and group; numbers become strings.
                own = _cell(row, self.language, language, path, number)
                group = _cell(row, self.group, "", path, number)
                if not is_language(own):
                    raise UserError(f"{path}:{number}: {own[:SHOWN]!r} is no name for a language")
                for field in RANGES:
                    if isinstance(about.get(field), list | str):
                        about[field] = ranges(field, about[field], text, f"{path}:{number}")
                having.update(field for field, found in about.items() if found)
                count += 1
                if text.strip():
                    yield Document(check_string(text.strip(), path, number), own, group, **about)
                else:
                    empty += 1
            if empty:
                say(f"{path}: {empty:,} objects without text are skipped")
            missing_fields(path, self.fields, having, count)

    def _fields(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        """The fields of an object that it has, by name. Ranges are as they stand there, unless they give the text."""
        about: dict[str, Any] = {}
        for field, key in self.fields:
            cell = row.get(key)
            if field in VALUES:
                about[field] = value(field, cell, place)
            elif field == "roles" and (dialogue := turns(cell, place)):
                about["text"], about["roles"] = dialogue
            elif cell is not None:
                if not isinstance(cell, list | str):
                    raise UserError(f"{place}: {key!r} is {str(cell)[:SHOWN]}; expected a list of [start, end, name]")
                about[field] = cell
        return about


def missing_fields(path: str, fields: Sequence[tuple[str, str]], having: Counter[str], count: int) -> None:
    """Say how many of a file's `count` texts lack a field. Raises UserError if all lack it.

    Args:
      fields: (field, its key or column).   having: how many texts have each field.
    """
    for field, key in fields:
        lacking = count - having[field]
        if lacking and not having[field]:
            raise UserError(f"{path}: none of {count:,} texts has {field} under {key[:SHOWN]!r}")
        # Most texts have no span, and that says nothing.
        if lacking and field != "spans":
            say(f"{path}: {lacking:,} of {count:,} texts have no {field}")


def _cell(row: dict[str, Any], key: str, default: str, path: str, number: int) -> str:
    """The string or whole number under a key of a JSON object, as a string; `default` for null or a missing key."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise UserError(f"{path}:{number}: {key!r} is {str(value)[:SHOWN]}; expected a string or a whole number")
    return default if value is None else check_string(str(value), path, number)


def parallel_files(files: Sequence[tuple[str, str]]) -> Source:
    """The source that joins files of translations, (language, path) each: `.tsv` files by id, other files by line.

    Raises:
      UserError: only some of the files are `.tsv`, or two files are in one language.
    """
    # All files must be joined in the same way, by id or by line.
    joined = [plain_name(path).endswith(".tsv") for _, path in files]
    if any(joined) and not all(joined):
        other = files[joined.index(False)][1]
        raise UserError(f"{other}: not a .tsv file, but other files of this list are; name only .tsv files, or none")
    named = Counter(language for language, _ in files)
    if twice := [language for language, times in named.items() if times > 1]:
        raise UserError(f"{files[0][1]} and its translations: two files are in {twice[0]!r}")
    kind = MultiwayTsv if all(joined) else AlignedLines
    return kind(tuple((language, resolve(path)) for language, path in files))


def normal_text(text: str) -> str:
    """The text without differences in case and white space: two texts count as the same if this is equal."""
    # A printable text has no white space but spaces. If they are single ones, it need not be cut and joined.
    single = text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " "
    return (text if single else " ".join(text.split())).casefold()


def keyed_hash(value: str) -> int:
    """A 64-bit hash of a string under this package's key."""
    state = _KEYED.copy()  # quicker than a new one, whose key would have to be hashed again
    state.update(value.encode())
    return int.from_bytes(state.digest(), "big")
