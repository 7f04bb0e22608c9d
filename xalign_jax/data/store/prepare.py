"""The process that `store.prepare` starts: it trains or loads the vocabulary and tokenises tasks into stores."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xalign_jax.data.cleaning.reader import CleanReader, lines
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store.assemble import assemble
from xalign_jax.data.store.cache import make
from xalign_jax.data.store.columns import Encoder, field_columns
from xalign_jax.data.store.shards import Shards, characters, delete_shards, open_shards, shards_folder
from xalign_jax.data.store.store import FORMAT, Texts, digest, directory_name
from xalign_jax.data.store.tokenise import SPLITS, ChangedError, Found, text_keys, tokenise
from xalign_jax.data.store.vocabularies import prepare_vocabulary
from xalign_jax.data.text.fields import tables as field_tables
from xalign_jax.data.text.names import canonical_task
from xalign_jax.data.text.readers import source_reader
from xalign_jax.data.text.stamps import stamp_file, stamp_package
from xalign_jax.data.tokens.backends import vocabulary_files
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

# Version of the content fingerprint, which resumed runs compare. It changes less often than FORMAT.
_CONTENT = 2
_FAR = 3  # if a split has more than this many times the validation text that was meant, a line says so
_VERSIONS = ("numpy", "sentencepiece", "seqio", "tensorflow", "xalign_jax")


OpenTask = Callable[[str, str], Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """The stores to make, for an engine whose workers may be other machines.

    Attributes:
      cache: the folder of the cache.
      vocabulary: the folder of the vocabulary in the cache.
      modules, open_task: as in `run`.
      prints: the fingerprint of each task's texts.
      keys: the name of each task's store in the cache.
      characters: of text in a shard.
    """

    cache: Path
    vocabulary: Path
    modules: tuple[str, ...]
    open_task: OpenTask
    cleaning: Cleaning | None
    prints: Mapping[str, str]
    keys: Mapping[str, str]
    characters: int

    def store(self, task: str) -> Path:
        """The folder of a task's store."""
        return self.cache / "stores" / self.keys[task]

    def shards(self, task: str) -> Path:
        """The folder of a task's shards."""
        return shards_folder(self.cache, self.keys[task], self.characters)


class Parts(NamedTuple):
    """What a store is made of, beside its shards.

    Attributes:
      source: the fingerprint of the task's texts.
      tables: the names in each field.
      share: the share of the documents that was meant for validation, if that is known.
      report: what was dropped (`CleanReader.report`), if texts are cleaned.
    """

    task: str
    source: str
    tables: Mapping[str, Sequence[str]]
    found: Found
    share: float | None
    report: dict[str, Any] | None


def run(
    texts: Texts, modules: Sequence[str], open_task: OpenTask, engine: Callable[[Work], None] | None = None
) -> None:
    """Prepare the vocabulary and the stores of a recipe's tasks, and write the index.

    With cleaning, texts are dropped before a vocabulary is trained on the others.

    Args:
      open_task: opens a task that is no file, from its name and a hash of the code of the user's modules.
      engine: makes the stores, such as `beam.engine` gives; None = this machine makes them.

    Raises:
      UserError: bad settings, files or modules.
      RunError: the engine failed.
      OSError: files of the cache cannot be read or written.
    """
    cache, vocabulary, tasks = texts.folder, texts.vocabulary, texts.tasks
    # Stamps come first: a file that changes while it is read leaves an outdated stamp, and is read again next time.
    readers, stamps = open_tasks(tasks, modules, open_task, texts.cleaning) if tasks else ({}, [])
    with _locked(cache):
        # The vocabulary depends on the texts only if it is trained.
        directory, tokenizer = prepare_vocabulary(vocabulary, list(readers.values()), cache)
        named = vocabulary.path is not None and vocabulary.kind != "bytes"
        of_vocabulary = _path_stamps(vocabulary) if named else []
        if vocabulary.trained:
            of_vocabulary = stamps
        if vocabulary.words:
            of_vocabulary = [*of_vocabulary, stamp_package("icu4py")]
        _write_index(texts.index_file(None), cache, directory, of_vocabulary, modules)
        prints = {task: reader.fingerprint() for task, reader in readers.items()}
        # Validation texts of each task are read only if a store must be made, and then once.
        held_out = functools.cache(lambda task: validation_texts(readers[task]))
        if engine is not None:
            for reader in readers.values():
                reader.check_vocabulary(tokenizer)
            keys = {task: _key(task, tokenizer, prints) for task in readers}
            cleaning, size = texts.cleaning, characters()
            engine(Work(cache, directory, tuple(modules), open_task, cleaning, prints, keys, size))
        for task, reader in readers.items():
            reader.check_vocabulary(tokenizer)
            store = prepare_store(task, reader, tokenizer, cache, prints, held_out)
            _write_index(texts.index_file(task), cache, store, [*of_vocabulary, *stamps], modules)


def open_tasks(
    tasks: Sequence[str], modules: Sequence[str], open_task: OpenTask, cleaning: Cleaning | None = None
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Readers by task, and the stamps of all tasks and of the user's modules, taken before anything is read.

    Args: as in `run`.
    Raises:
      UserError: there is no such task or module, or a file is missing.
    """
    of_modules, code = [], b""
    for module in import_modules(modules):
        if module.__file__:
            # The code of the user's modules is part of the fingerprint of seqio tasks.
            of_modules.append(stamp_file(module.__file__))
            code += Path(module.__file__).read_bytes()
    of_code = hashlib.sha256(code).hexdigest() if code else ""
    readers = {task: source_reader(task) or open_task(task, of_code) for task in dict.fromkeys(tasks)}
    stamps = [*of_modules, *(stamp for reader in readers.values() for stamp in reader.stamps())]
    if cleaning is not None:
        readers = {task: CleanReader(reader, cleaning) for task, reader in readers.items()}
    return readers, stamps


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """The user's modules, which register tasks. Raises UserError for one that cannot be imported."""
    found = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            raise UserError(f"Recipe.modules: cannot import {name!r}: {error}") from None
    return found


def _path_stamps(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """The stamps of a vocabulary's path and of all files that a vocabulary in this folder may consist of."""
    place = resolve(vocabulary.path or "")
    folder = os.path.dirname(vocabulary_files(vocabulary.kind, place)[0])
    names = ("spm.model", "tokenizer.json", "tokenizer_config.json", "ids.json")
    return [stamp_file(file) for file in (place, *(f"{folder}/{name}" for name in names))]


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Prepare one recipe at a time. On file systems without locks several may work, and the first to finish wins."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_index(file: Path, cache: Path, directory: Path, stamps: list, modules: Sequence[str]) -> None:
    """Write an entry of the index, atomically."""
    entry = {"directory": str(directory.relative_to(cache)), "stamps": stamps, "modules": list(modules)}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(entry, indent=1) + "\n")
    temporary.replace(file)


def prepare_store(
    task: str,
    reader: Any,
    tokenizer: Tokenizer,
    cache: Path,
    prints: Mapping[str, str],
    held_out: Callable[[str], np.ndarray],
) -> Path:
    """The directory of a task's store in the cache, which is made if it is missing.

    Args:
      prints: fingerprints of all tasks of the recipe.
      held_out: gives the hashes of a task's validation texts. Training leaves out the validation texts of all tasks.
    Raises:
      UserError: the vocabulary has no eos, or the task has no training text.
    """
    key = _key(task, tokenizer, prints)
    directory = cache / "stores" / key

    def fill(folder: Path) -> None:
        others = [held_out(other) for other in prints if other != task]
        validation = np.unique(np.concatenate([np.empty(0, np.uint64), *others]))
        tables = tables_of(reader)
        encoder = Encoder(tokenizer, field_columns(tables))
        shards = open_shards(cache, key, encoder.columns)
        try:
            found = tokenise(task, reader, encoder, validation, shards)
        except ChangedError:
            print(f"{task}: its text has changed; tokenising it again", file=sys.stderr)
            shutil.rmtree(shards.folder)
            found = tokenise(task, reader, encoder, validation, open_shards(cache, key, encoder.columns))
        complete(folder, shards, encoder, parts_of(task, reader, prints[task], tables, found))

    make(directory, fill)
    delete_shards(cache, key)
    return directory


def _key(task: str, tokenizer: Tokenizer, prints: Mapping[str, str]) -> str:
    """The name of a task's store in the cache. Raises UserError if the vocabulary has no eos."""
    if tokenizer.eos is None:
        raise UserError("Vocabulary.path: the vocabulary has no end-of-sequence piece, which ends every document")
    # The key covers the other tasks, because their validation texts are left out.
    others = sorted(prints[other] for other in prints if other != task)
    return directory_name(prints[task], tokenizer.base_fingerprint, others)


def validation_texts(reader: Any) -> np.ndarray:
    """The hashes of a task's validation texts, sorted."""
    return np.unique(text_keys(reader.read("validation")))


def tables_of(reader: Any) -> dict[str, tuple[str, ...]]:
    """The names that occur in each field that a reader declares."""
    documents = (one.document for split in SPLITS for one in reader.read(split))
    return field_tables(documents, reader.fields) if reader.fields else {}


def parts_of(task: str, reader: Any, source: str, tables: Mapping[str, Sequence[str]], found: Found) -> Parts:
    """The parts of a store whose text has been read by `reader`."""
    report = reader.report() if isinstance(reader, CleanReader) else None
    return Parts(task, source, tables, found, reader.share, report)


def complete(folder: Path, shards: Shards, encoder: Encoder, parts: Parts) -> None:
    """Write a store into a folder from its shards, and print what is surprising.

    Raises:
      UserError: there is no training text.
      OSError: the store cannot be written.
    """
    task, found = parts.task, parts.found
    counts = assemble(folder, shards, found.shards, encoder.stored, [column.name for column in encoder.counted])
    if not counts["train"]:
        raise UserError(f"Mixture.tasks: {task!r} has no training text")
    if parts.share is not None:
        for note in split_notes(counts, parts.share):
            print(f"{task}: {note}", file=sys.stderr)
    vocabulary = encoder.tokenizer.base_fingerprint
    info = {
        "format": FORMAT,
        "task": canonical_task(task),
        "source": parts.source,
        "content": found.content,
        "vocabulary": vocabulary,
        "fingerprint": digest(_CONTENT, found.content, vocabulary),
        "fields": [column.name for column in encoder.own],
        "tables": {field: list(names) for field, names in parts.tables.items()},
        "languages": sorted({language for split in counts.values() for language in split}),
        "counts": {split: counts[split] for split in reversed(SPLITS)},
        "dropped_as_validation_text": found.dropped,
        "versions": versions(),
    }
    if parts.report is not None:
        for line in lines(parts.report):
            print(f"{task}: {line}", file=sys.stderr)
        (folder / "cleaning.json").write_text(json.dumps(parts.report, indent=1, ensure_ascii=False) + "\n")
    (folder / "store.json").write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")


def versions() -> dict[str, str]:
    """The versions of packages that decide what a store holds."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def split_notes(counts: Mapping[str, Mapping[str, Mapping[str, int]]], share: float) -> Iterator[str]:
    """Lines about surprises in a split by documents: languages with no validation text, or with far too much.

    Args:
      counts: by split and language, as in store.json.
      share: the share of the documents that is meant for validation.
    """
    train, validation = counts["train"], counts["validation"]
    # Languages with one document, which was not drawn for validation.
    single = [name for name, count in train.items() if count["documents"] == 1 and name not in validation]
    if single:
        yield (
            f"all text in {_some(single)} is one document, so that none is left for validation; documents of `text:` "
            "files stand between blank lines, those of `lines:` files are lines"
        )
    # (share, language, text) of languages with far too much validation text; the worst is described.
    far = []
    for name in train.keys() & validation.keys():
        held_out, total = validation[name]["tokens"], validation[name]["tokens"] + train[name]["tokens"]
        if held_out > _FAR * share * total:
            documents = validation[name]["documents"] + train[name]["documents"]
            far.append(
                (held_out / total, name, f"{held_out:,} of {total:,} tokens in {name} ({documents:,} documents)")
            )
    if far:
        _, names, figures = zip(*sorted(far, reverse=True), strict=True)
        yield (
            f"{figures[0]} are for validation, {max(far)[0]:.0%} instead of {share:.0%}"
            f"{', and similarly in ' + _some(names[1:]) if names[1:] else ''}; documents are never divided: cut long "
            "ones by blank lines, or read the files as `lines:`"
        )


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more languages" if len(names) > 3 else "")
