"""Sources of text as a recipe spells them: "tsv:en=a.tsv,de=b.tsv"."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xalign_jax.data.text.archives import MosesArchives
from xalign_jax.data.text.fields import FIELDS, VALUES
from xalign_jax.data.text.files import AlignedLines, JsonLines, MultiwayTsv, Source, TextFiles
from xalign_jax.data.text.hub import HubTables, locate
from xalign_jax.data.text.lines import is_language
from xalign_jax.data.text.messages import Messages
from xalign_jax.data.text.tables import ArrowTables, CsvTables
from xalign_jax.data.text.tmx import TranslationMemories
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of files.

    Attributes:
      source: makes the source from the files and the settings.
      form: how a name of this kind is spelled, for error messages.
      settings: the keyword of `source` for each word that may stand before an equals sign.
      monolingual: each file is in one language, which is named before it. Otherwise the files name their languages.
      columns: LANGUAGE=COLUMN may follow the files.
      fields: the fields of documents (`fields.FIELDS`) that may be named, each with its key or column.
      locate: makes a path absolute.
    """

    source: Callable[..., Source]
    form: str = "LANGUAGE=PATH,LANGUAGE=PATH"
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    monolingual: bool = True
    columns: bool = False
    fields: tuple[str, ...] = ()
    locate: Callable[[str], str] = resolve


_TABLE = _Kind(
    CsvTables, "PATH,LANGUAGE=COLUMN,LANGUAGE=COLUMN", {"group_id": "group"}, monolingual=False, columns=True,
    fields=VALUES,
)  # fmt: skip
_KINDS = {
    "text": _Kind(TextFiles),
    "lines": _Kind(functools.partial(TextFiles, document="line")),
    "tsv": _Kind(MultiwayTsv),
    "pairs": _Kind(AlignedLines),
    "jsonl": _Kind(JsonLines, settings={"text": "text", "language": "language", "group_id": "group"}, fields=FIELDS),
    "po": _Kind(Messages, settings={"msgid": "msgid"}),
    "csv": _TABLE,
    "parquet": dataclasses.replace(_TABLE, source=ArrowTables),
    "hf": _Kind(
        HubTables,
        "NAME_OR_FOLDER,LANGUAGE=COLUMN",
        {"group_id": "group", "config": "config", "split": "split", "revision": "revision"},
        monolingual=False,
        columns=True,
        locate=locate,
    ),
    "tmx": _Kind(TranslationMemories, "PATH,PATH", monolingual=False),
    "zip": _Kind(MosesArchives, "PATH,PATH", monolingual=False),
}


def parse_name(name: str) -> tuple[str, Source] | None:
    """The name with absolute paths, and the source that a task name spells; None for the name of a registered task.

      text:en=a.txt.gz,de=b.txt        running text, documents between blank lines
      lines:en=a.txt,de=b.txt          running text, one document on each line
      tsv:en=a.tsv,de=b.tsv            id<TAB>text, joined by id
      pairs:en=a.en,de=a.de            line-aligned files
      jsonl:en=a.jsonl                 {"text": ..., "language": optional, "group_id": optional} on each line
      jsonl:en=a.jsonl,text=body       other keys: text=KEY, language=KEY, group_id=KEY
      jsonl:en=a.jsonl,label=KEY       fields of documents: also provenance=KEY, spans=KEY, roles=KEY
      po:msgid=en,de=locale/de         gettext catalogs, joined by context and msgid
      csv:a.csv                        a table with a column for each language; .tsv: columns between tabs
      csv:a.csv,en=English,de=German   chosen columns; also group_id=COLUMN, label=COLUMN, provenance=COLUMN,
                                       and provenance.de=COLUMN for one language
      parquet:a.parquet                the same for Parquet, .arrow and .feather
      hf:FOLDER_OR_NAME,en=text        data sets of Hugging Face; also config=, split=, revision=, group_id=COLUMN
      tmx:a.tmx,b.tmx.gz               translation memories
      zip:en-de.txt.zip                archives of OPUS in Moses form

    `~` and paths relative to the current directory are resolved. A path cannot hold a comma. A file of several
    languages whose name has an equals sign needs a folder before it: `./a=b.csv`.

    Raises:
      UserError: a part of the name is not as above, or a language is named twice.
    """
    word, colon, rest = name.partition(":")
    if not colon or word not in _KINDS:
        return None
    kind = _KINDS[word]
    files: list[Any] = []
    columns: list[tuple[str, str]] = []
    fields: list[tuple[str, str]] = []
    settings: dict[str, Any] = {}
    parts = []  # of the name, with absolute paths
    for part in rest.split(","):
        key, equals, value = map(str.strip, part.partition("="))
        path = not kind.monolingual and (not equals or "/" in key)
        if not (part.strip() if path else equals and key and value and (kind.monolingual or kind.columns)):
            raise _misspelled(name, kind)
        if path:
            files.append(kind.locate(part.strip()))
            parts.append(files[-1])
            continue
        if key in kind.settings:
            settings[kind.settings[key]] = value
        elif key in kind.fields or (kind.columns and key.partition(".")[0] in kind.fields):
            fields.append((key, value))
        elif not is_language(key):
            raise UserError(f"Mixture.tasks: {name!r}: {key!r} is no name for a language")
        elif kind.columns:
            columns.append((key, value))
        else:
            value = resolve(value)
            files.append((key, value))
        parts.append(f"{key}={value}")
    if not files:
        raise _misspelled(name, kind)
    named = [language for language, _ in (files if kind.monolingual else columns)]
    if len(set(named)) < len(named):
        raise UserError(f"Mixture.tasks: {name!r} names a language twice")
    if fields:
        settings["fields"] = tuple(fields)
    if kind.columns:
        settings["columns"] = tuple(columns)
    return f"{word}:" + ",".join(parts), kind.source(tuple(files), **settings)


def canonical_task(task: str) -> str:
    """A task's name with absolute paths."""
    spelled = parse_name(task)
    return spelled[0] if spelled else task


def canonical_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """`canonical_task` of several tasks."""
    return tuple(map(canonical_task, tasks))


def _misspelled(name: str, kind: _Kind) -> UserError:
    return UserError(f"Mixture.tasks: {name!r}: expected {name.partition(':')[0]}:{kind.form}")
