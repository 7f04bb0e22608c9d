"""Tables with a column for each language: CSV, Parquet and Arrow files. A row is a group."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.compression import extra_package, plain_name
from xalign_jax.data.text.fields import VALUES, value
from xalign_jax.data.text.files import Document, Multilingual, missing_fields
from xalign_jax.data.text.lines import SHOWN, check_string, read_lines, say
from xalign_jax.errors import UserError, one_line
from xalign_jax.remote_files import open_bytes

_GROUP = "group_id"  # the column of groups, unless one is chosen
_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")  # what the name of a language's column looks like
ROWS = 1024  # rows that are decoded at once


@dataclasses.dataclass(frozen=True)
class _Tables(Multilingual):
    """Tables.

    Attributes:
      columns: (language, column) each; () = every column is a language's, and its name says which.
      group: the column of the group. None = the column "group_id" if the table has one, otherwise the number of the
        row.
      fields: (field, column) of each field that is read. A field of one language is called "label.de".
    """

    columns: tuple[tuple[str, str], ...] = ()
    group: str | None = None
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def languages(self) -> frozenset[str] | None:
        return frozenset(language for language, _ in self.columns) or None

    def names(self, path: str) -> list[str]:
        """The names of the columns."""
        raise NotImplementedError

    def rows(self, path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """The number of the line or row that an error message names, and the cells of these columns."""
        raise NotImplementedError

    def read(self, path: str) -> Iterator[Document]:
        names = self.names(path)
        if len(set(names)) < len(names) or "" in names:
            raise UserError(f"{path}: the columns need different names; they are {_shown(names)}")
        group = self.group or (_GROUP if _GROUP in names else None)
        others = {group, *(column for _, column in self.fields)}
        chosen = self.columns or self._named_languages(path, [name for name in names if name not in others])
        self._check_fields(path, [language for language, _ in chosen])
        of_fields = [column for _, column in self.fields]
        columns = [column for _, column in chosen] + of_fields + ([group] if group else [])
        for column in columns:
            if not self.has(names, column):
                raise _missing(path, column, names)
        seen: dict[str, int] = {}  # group -> place
        empty = filled = 0
        having = Counter[str]()
        for number, (place, cells) in enumerate(self.rows(path, columns), 1):
            key = str(number)
            if group:
                key = _key(cells.pop(), group, path, place)
                if key in seen:
                    raise UserError(f"{path}:{place}: {group} {key[:SHOWN]!r} stands on line {seen[key]} already")
                seen[key] = place
            about = self._values(cells[len(chosen) :], f"{path}:{place}")
            for (language, _), cell in zip(chosen, cells[: len(chosen)], strict=True):
                if text := check_string((cell or "").strip(), path, place):
                    # The value for one language goes before that of the row.
                    label, provenance = (about.get(f"{name}.{language}", about.get(name)) for name in VALUES)
                    having.update({"label": label is not None, "provenance": provenance is not None})
                    filled += 1
                    yield Document(text, language, key, label, provenance)
                else:
                    empty += 1
        # The columns of a field for single languages are counted together.
        columns_of = {field.partition(".")[0]: column for field, column in self.fields}
        missing_fields(path, tuple(columns_of.items()), having, filled)
        if empty:
            say(f"{path}: {empty:,} empty cells are skipped")

    def _check_fields(self, path: str, languages: Sequence[str]) -> None:
        """Refuse fields of languages that the table lacks."""
        for field, _ in self.fields:
            _, dot, language = field.partition(".")
            if dot and language not in languages:
                raise UserError(f"{path}: {field[:SHOWN]!r} names no language of the table: {_shown(languages)}")

    def _values(self, cells: Sequence[Any], place: str) -> dict[str, str | None]:
        """The fields of a row, by name."""
        named = zip(self.fields, cells, strict=True)
        return {field: value(field.partition(".")[0], cell, place) for (field, _), cell in named}

    def has(self, names: Sequence[str], column: str) -> bool:
        """True if the table has a column."""
        return column in names

    def _named_languages(self, path: str, names: Sequence[str]) -> list[tuple[str, str]]:
        """(language, column) of each column, by its name."""
        for name in names:
            # A column "id" holds ids more often than Indonesian.
            if name == "id" or not _CODE.fullmatch(name):
                raise UserError(
                    f"{path}: is the column {name[:SHOWN]!r} a language? Choose columns: PATH,LANGUAGE=COLUMN,"
                    f"group_id=COLUMN; the columns are {_shown(names)}"
                )
        chosen = [(normal_language(name), name) for name in names]
        if len(dict(chosen)) < len(chosen):
            raise UserError(f"{path}: two columns are in one language; the columns are {_shown(names)}")
        return chosen


def _key(cell: Any, group: str, path: str, place: int) -> str:
    """The group that a cell names."""
    key = check_string("" if cell is None else str(cell).strip(), path, place)
    if not key:
        raise UserError(f"{path}:{place}: no {group[:SHOWN]}")
    return key


def _missing(path: str, column: str, names: Sequence[str]) -> UserError:
    return UserError(f"{path}: no column {column[:SHOWN]!r}; the columns are {_shown(names)}")


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(" ".join(name.split())[:SHOWN] for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


class CsvTables(_Tables):
    """`.csv` files, comma-separated with quotes, and `.tsv` files, tab-separated without quotes. Line 1 has the names."""

    def names(self, path: str) -> list[str]:
        return [name.strip() for name in next(self._cells(path), (0, [""]))[1]]

    def rows(self, path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        cells = self._cells(path)
        names = [name.strip() for name in next(cells)[1]]
        places = [names.index(column) for column in columns]
        for line, row in cells:
            if len(row) != len(names):
                raise UserError(f"{path}:{line}: {len(row)} cells, but line 1 names {len(names)} columns")
            yield line, [row[place] for place in places]

    @staticmethod
    def _cells(path: str) -> Iterator[tuple[int, list[str]]]:
        """The last line and the cells of each row that is not blank. Quoted cells may hold line ends."""
        lines = (f"{line}\n" for _, line in read_lines(path))
        if plain_name(path).endswith(".tsv"):
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            rows = csv.reader(lines, strict=True)
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num}: not CSV ({error})") from None


class ArrowTables(_Tables):
    """Parquet files, and Arrow files whose names end in `.arrow` or `.feather`. Errors name rows, counted from 1.

    A column may lie in another one, as data sets of Hugging Face write translations: "translation.en".
    """

    def names(self, path: str) -> list[str]:
        with _arrow_errors(path):
            return list(self._open(path)[0].names)

    def has(self, names: Sequence[str], column: str) -> bool:
        return _outer(column, names) in names

    def rows(self, path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        with _arrow_errors(path):
            schema, batches = self._open(path)
            for column in columns:
                self._check_type(path, schema, column)
            row = 0
            for batch in batches([_outer(column, schema.names) for column in columns]):
                for start in range(0, batch.num_rows, ROWS):
                    part = batch.slice(start, ROWS)
                    for cells in zip(*(_cells(part, column, path, row) for column in columns), strict=True):
                        row += 1
                        yield row, list(cells)

    def _check_type(self, path: str, schema: Any, column: str) -> None:
        """Refuse a column that is missing or holds neither text nor the numbers of groups."""
        kind = _type(schema, column)
        if kind is None:
            raise _missing(path, column, schema.names)
        if not (
            _is_text(kind, path)
            or (column in {self.group or _GROUP, *dict(self.fields).values()} and _is_integer(kind, path))
        ):
            raise UserError(f"{path}: the column {column[:SHOWN]!r} is {str(kind)[:SHOWN]}, not text")

    def _open(self, path: str) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
        """The schema of a file, and a function that reads record batches of some columns."""
        with _arrow_errors(path):
            if not path.endswith((".arrow", ".feather")):
                table = extra_package("pyarrow.parquet", path).ParquetFile(_source(path))
                return table.schema_arrow, lambda columns: table.iter_batches(
                    ROWS, columns=list(dict.fromkeys(columns))
                )
            arrow = extra_package("pyarrow", path)
            try:
                file = arrow.ipc.open_file(_source(path))
                return file.schema, lambda columns: map(file.get_batch, range(file.num_record_batches))
            except arrow.ArrowInvalid:
                # Hugging Face `datasets` writes the form for streams, which has no index at its end.
                stream = arrow.ipc.open_stream(_source(path))
                return stream.schema, lambda columns: iter(stream)


def _source(path: str) -> Any:
    """A file as Arrow reads it: a memory map, or a Python file for one that lies in an object store."""
    arrow = extra_package("pyarrow", path)
    return arrow.PythonFile(open_bytes(path), "r") if "://" in path else arrow.memory_map(path)


@contextlib.contextmanager
def _arrow_errors(path: str) -> Iterator[None]:
    """Turns Arrow's errors into a UserError that names the file."""
    arrow = extra_package("pyarrow", path)
    try:
        yield
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from None


def _outer(column: str, names: Sequence[str]) -> str:
    """The column of the table that holds a column: itself, or "translation" for "translation.en"."""
    return column if column in names else column.partition(".")[0]


def _type(schema: Any, column: str) -> Any:
    """The type of a column; None if there is no such column."""
    outer = _outer(column, schema.names)
    found = schema.field(outer).type
    for name in column[len(outer) :].split(".")[1:]:
        index = found.get_field_index(name) if hasattr(found, "get_field_index") else -1
        if index < 0:
            return None
        found = found.field(index).type
    return found


def _is_text(kind: Any, path: str) -> bool:
    types = extra_package("pyarrow.types", path)
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view, types.is_null))


def _is_integer(kind: Any, path: str) -> bool:
    return extra_package("pyarrow.types", path).is_integer(kind)


def _cells(batch: Any, column: str, path: str, row: int) -> list[Any]:
    """The cells of a column, as strings, whole numbers or None. `row` is the number of rows before the batch."""
    outer = _outer(column, batch.schema.names)
    cells = batch.column(outer)
    try:
        # Arrow trusts offsets: without this check it would read elsewhere in memory.
        cells.validate(full=True)
    except ValueError as error:
        if "UTF8" not in str(error):
            raise
    if nested := column[len(outer) :].split(".")[1:]:
        cells = extra_package("pyarrow.compute", path).struct_field(cells, nested)
    try:
        return cells.to_pylist()
    except UnicodeDecodeError:
        for place, cell in enumerate(cells, row + 1):
            try:
                cell.as_py()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{place}: not UTF-8 at byte {error.start + 1} ({error.reason})") from None
        raise  # a dictionary's entry that no row has
