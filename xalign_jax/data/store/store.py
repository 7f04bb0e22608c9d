"""Token stores: the texts of a task tokenised once, memory-mapped. Reading them needs numpy only.

The cache holds `stores/<key>/{store.json, <split>/<language>/*.npy}`, `vocabularies/<key>/` and `index/`. The index
says which store and vocabulary belong to a task and a vocabulary setting. Its stamps (file times, package versions)
tell whether that still holds. Keys are hashes of content: they never go stale, and of several processes the first to
finish wins. `cache` seals the directories.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store.cache import ADVICE, damage, read_object
from xalign_jax.data.store.columns import COLUMNS
from xalign_jax.data.store.remote import open_array, pull, push, remote_url
from xalign_jax.data.store.request import ask
from xalign_jax.data.text.names import canonical_task
from xalign_jax.data.text.stamps import is_current
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

_MAPPED = 2**20  # larger arrays, in bytes, stay on disk
FORMAT = 7  # version of the cache's contents; increase it to invalidate all cached stores
# Counts of borders between words in scripts without spaces: all, and those that lie between two tokens.
BORDERS = ("borders", "borders_found")
ARRAYS = ("offsets", "group", *(column.name for column in COLUMNS))  # which every store has


def digest(*parts: Any) -> str:
    """24 hex digits that identify values, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def directory_name(*parts: Any) -> str:
    """The name of a directory in the cache whose contents these values decide."""
    return digest(FORMAT, *parts)


@dataclasses.dataclass(frozen=True)
class Store:
    """One language of one task in one split. Large arrays are memory-mapped; all are read-only.

    Tokens, and fields of the same length, may be a `remote.RemoteArray`: index them by slices or whole numbers only.

    Attributes:
      tokens: (N,) uint16 or int32 base ids; each document ends with eos.
      offsets: (D + 1,) int64, document d is tokens[offsets[d]:offsets[d + 1]].
      group: (D,) int32, equal for translations within the task; -1 = no group.
      text_hash: (D,) uint32, hash of the text without differences in case and white space.
      utf8_bytes: (D,) int32, bytes of the text.
      fingerprint: hash of the content and the vocabulary.
      fields: further columns that the task declares, by name: (D,) or (N,) each.
      tables: the names behind the numbers of a field, by field (`columns.field_columns`).
      counts: of documents, tokens, utf8_bytes and words, and `BORDERS` if the vocabulary finds words.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    group: np.ndarray
    text_hash: np.ndarray
    utf8_bytes: np.ndarray
    language: str
    task: str
    split: str
    fingerprint: str
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def word_start(self) -> np.ndarray | None:
        """(N,) bool, the tokens that begin words or are standalone; None if the vocabulary alone tells."""
        return self.fields.get("word_start")

    def selected(self, where: Sequence[tuple[str, Sequence[str]]]) -> np.ndarray | None:
        """(D,) bool: the documents that have one of the values of each field (`Mixture.where`); None = all.

        Raises:
          UserError: the task does not declare a field, or no document has the value.
        """
        chosen = None
        for field, wanted in where:
            if field not in self.tables:
                raise UserError(f"Mixture.where: the task {self.task!r} declares no {field}")
            numbers = {"": -1} | {name: number for number, name in enumerate(self.tables[field])}
            if unknown := [name for name in wanted if name not in numbers]:
                known = ", ".join(self.tables[field][:8])
                raise UserError(
                    f"Mixture.where: no text of {self.task!r} has the {field} {unknown[0]!r}; it has {known}"
                )
            own = np.isin(self.fields[field], [numbers[name] for name in wanted])
            chosen = own if chosen is None else chosen & own
        return chosen


Stores = Mapping[str, Mapping[str, Mapping[str, Store]]]  # task -> split -> base language -> Store


def training_stores(stores: Stores, language: str) -> list[Store]:
    """The training texts of a base language, one store for each task."""
    return [splits["train"][language] for splits in stores.values() if language in splits.get("train", {})]


def cache_dir() -> Path:
    """$XALIGN_CACHE if it is set, otherwise ~/.cache/xalign_jax."""
    return Path(os.environ.get("XALIGN_CACHE") or "~/.cache/xalign_jax").expanduser().absolute()


@dataclasses.dataclass(frozen=True)
class Texts:
    """The prepared texts of a recipe: where they lie, and everything that decides what they hold.

    Attributes:
      vocabulary: the recipe's. Clones do not matter, because stores hold base ids.
      tasks: ALL text tasks of the recipe, a tuple. A trained vocabulary is trained on all of them, and a store leaves out the
        validation texts of the others.
      cache: the folder of the cache; None = `cache_dir()`.
      cleaning: which texts are dropped; None = none.
    """

    vocabulary: Vocabulary
    tasks: Sequence[str] = ()
    cache: str | Path | None = None
    cleaning: Cleaning | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))

    @property
    def folder(self) -> Path:
        """The folder of the cache."""
        return Path(self.cache or cache_dir())

    def index_file(self, task: str | None) -> Path:
        """The file of the index with a task's entry, or with the vocabulary's if `task` is None."""
        vocabulary = self.vocabulary
        # Everything that decides which store or vocabulary belongs here; other settings share the entry.
        settings: list[Any] = [FORMAT, vocabulary.kind, vocabulary.path and resolve(vocabulary.path)]
        if vocabulary.trained:
            settings += [vocabulary.size, vocabulary.model_type, vocabulary.lowercase]
        if vocabulary.words:
            settings.append(f"words: {vocabulary.words}")
        if vocabulary.trained or task:
            settings.append(sorted({canonical_task(name) for name in self.tasks}))
            # Without cleaning, entries are named as before it existed.
            settings += [] if self.cleaning is None else [dataclasses.asdict(self.cleaning)]
        settings.append(task and canonical_task(task))
        name = digest(*settings)
        return self.folder / "index" / f"{name}.json"

    def directory(self, task: str | None) -> Path:
        """The folder of a task's store, or of the vocabulary if `task` is None.

        A store's folder holds store.json and, if the texts were cleaned, cleaning.json.

        Raises:
          UserError: the task has not been prepared, or its entry is damaged.
        """
        try:
            return self.folder / _read_entry(self.index_file(task))["directory"]
        except (FileNotFoundError, NotADirectoryError):
            what = f"task {task!r}" if task else "the vocabulary"
            raise UserError(f"{what} has not been prepared in {self.folder}; run `xalign data prepare`") from None


def _read_entry(index: Path) -> dict[str, Any]:
    return read_object(index, directory=str, stamps=list, modules=list)


def _is_prepared(texts: Texts, modules: Sequence[str]) -> bool:
    files = [texts.index_file(task) for task in (None, *texts.tasks)]
    return all(_is_whole(file, texts.folder, modules) for file in files)


def _is_whole(index: Path, cache: Path, modules: Sequence[str]) -> bool:
    """True if an entry of the index is current and the directory that it names is not damaged."""
    if not index.exists():
        return False
    try:
        entry = _read_entry(index)
        current = entry["modules"] == list(modules) and all(is_current(stamp) for stamp in entry["stamps"])
        return current and damage(cache / entry["directory"]) is None
    except (UserError, TypeError, ValueError, IndexError):  # the last three: damaged stamps
        print(f"{index}: damaged; making it again", file=sys.stderr)
        return False


def prepare(texts: Texts, modules: Sequence[str] = (), pipeline: Sequence[str] = ()) -> None:
    """Make the vocabulary and the stores of all tasks of a recipe, unless they exist and are current.

    The work runs in another process, so that this one does not load TensorFlow. Concurrent calls are safe. If
    $XALIGN_REMOTE is set, texts that are prepared there are not prepared again, and others are put there.

    Args:
      modules: Python modules that register the user's tasks.
      pipeline: options of Apache Beam, on one of whose engines stores are made; () = this machine makes them.
    Raises:
      UserError: bad settings, files or modules.
      RunError: an engine failed, the cache or the object storage cannot be read or written, or the process stopped for another reason.
    """
    remote, entries = remote_url(), [texts.index_file(task) for task in (None, *texts.tasks)]
    prepared = _is_prepared(texts, modules)
    # What another host has put on object storage is read there, and needs no text here.
    if remote and not prepared and pull(texts.folder, entries, remote):
        return
    if not prepared:
        _prepare_here(texts, modules, pipeline)
    if remote:
        directories = {_read_entry(entry)["directory"]: None for entry in entries}
        push(texts.folder, list(directories), entries, remote)


def _prepare_here(texts: Texts, modules: Sequence[str], pipeline: Sequence[str]) -> None:
    asked = {"cache": str(texts.folder), "modules": list(modules), "pipeline": list(pipeline)}
    request = {**dataclasses.asdict(texts), **asked}
    ask(request, f"preparing {', '.join(texts.tasks) or 'the vocabulary'}")


def open_tokenizer(texts: Texts) -> Tokenizer:
    """The tokenizer of a recipe. Raises UserError if it has not been prepared."""
    return Tokenizer.load(texts.directory(None)).with_clones(texts.vocabulary)


def store_info(texts: Texts, task: str) -> dict[str, Any]:
    """A prepared task's store.json: counts by split and language (documents, tokens, utf8_bytes, words), versions.

    Raises:
      UserError: the task has not been prepared, or the file is damaged.
    """
    return _info(texts.directory(task))


def open_stores(texts: Texts, task: str) -> dict[str, dict[str, Store]]:
    """The stores of a prepared task, by split and language.

    Raises:
      UserError: the task has not been prepared, or a file is damaged.
    """
    directory = texts.directory(task)
    info = _info(directory)
    stores: dict[str, dict[str, Store]] = {}
    for split, languages in info["counts"].items():
        stores[split] = {}
        for language in languages:
            folder = directory / split / language
            arrays, fields = ({name: _load(folder, name) for name in names} for names in (ARRAYS, info["fields"]))
            stores[split][language] = Store(
                **arrays, language=language, task=task, split=split, fingerprint=info["fingerprint"], fields=fields,
                tables=info.get("tables", {}), counts=languages[language],
            )  # fmt: skip
    return stores


def _info(directory: Path) -> dict[str, Any]:
    """The contents of a store's store.json. Raises UserError if it is missing or damaged."""
    file = directory / "store.json"
    try:
        info = read_object(file, counts=dict, fingerprint=str, fields=list)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; {ADVICE}") from None
    # `open_stores` reads folders by these names, so their shape is checked.
    if not all(isinstance(languages, dict) for languages in info["counts"].values()):
        raise UserError(f"{file}: damaged; {ADVICE}")
    return info


def _load(folder: Path, name: str) -> np.ndarray:
    """An array of a store. One that lies on object storage is indexed in the same way, and has no other operations."""
    remote = open_array(folder, name)
    return _load_array(folder / f"{name}.npy") if remote is None else cast(np.ndarray, remote)


def _load_array(file: Path) -> np.ndarray:
    """A stored array, read-only. Only large files are mapped, because each map keeps a file descriptor open."""
    try:
        array = np.load(file, mmap_mode="r" if file.stat().st_size > _MAPPED else None)
    except OSError as error:
        raise UserError(f"{file}: cannot be opened ({error.strerror}); `ulimit -n` may allow too few files") from None
    except Exception:  # numpy calls parsers, which raise exceptions of many kinds
        raise UserError(f"{file}: damaged; {ADVICE}") from None
    array = array.view(np.ndarray)  # the subclass for maps is slow to index
    array.flags.writeable = False
    return array
