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
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gin
import numpy as np

from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.sampling.mixing import check_rates
from xalign_jax.data.sampling.schedules import Points, phases
from xalign_jax.data.store.cache import ADVICE, damage, read_object
from xalign_jax.data.store.columns import COLUMNS
from xalign_jax.data.store.remote import open_array, pull, push, remote_url
from xalign_jax.data.text.fields import PROVENANCES, VALUES
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.stamps import is_current
from xalign_jax.data.tokens.vocabulary import Tokenizer, Vocabulary
from xalign_jax.errors import RunError, UserError
from xalign_jax.recipe import freeze, resolve, with_paths, within

SEQIO = "seqio"  # the value of `Mixture.rates` that asks for the rates of a seqio Mixture
_MAPPED = 2**20  # larger arrays, in bytes, stay on disk
FORMAT = 7  # version of the cache's contents; increase it to invalidate all cached stores
USER_ERROR, CACHE_ERROR = 2, 3  # exit codes of the preparing process
# When Ctrl-C interrupts the preparing process, it ends without a message: the waiting process prints one.
_PREPARE = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
from xalign_jax.preparing import main
main(sys.argv[1])
"""
# Counts of borders between words in scripts without spaces: all, and those that lie between two tokens.
BORDERS = ("borders", "borders_found")
ARRAYS = ("offsets", "group", *(column.name for column in COLUMNS))  # which every store has


def canonical_task(task: str) -> str:
    """A task's name with absolute paths."""
    spelled = parse_name(task)
    return spelled[0] if spelled else task


def _located_sources(sources: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, canonical_task(task)) for name, task in sources)


def canonical_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """`canonical_task` of several tasks."""
    return tuple(map(canonical_task, tasks))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Mixture:
    """The texts of a stream, and the share of each language.

    Attributes:
      tasks: seqio Tasks or Mixtures (of a Mixture, the texts and not the rates), files spelled as in
        `names.parse_name` ("text:en=a.txt.gz,de=b.txt", "tsv:...", "pairs:...", "csv:...", "tmx:..."), or "tfds:wiki40b/en".
      rates: the share of each member, {"en": 0.88, "en_clone": 0.1, "facts": 0.02}. Other members have no rows.
        A member is a language, a language of one source ("wiki:en"), or all languages of one source ("wiki:*"). See
        `sampling.members`. "seqio": the rates of the registered seqio Mixture that `tasks` names.
      alpha: if `rates` is empty, a member of n tokens has a share proportional to n^alpha (1 proportional, 0 uniform),
        and at least one row in 1,000.
      languages: only these languages of the text (base codes); () = all.
      where: only documents with these labels or provenances, {"provenance": ("original", "human")}; "" = documents
        without one. Tasks must declare the field. () = all documents.
      cap: no member has more than this many times its share of the text, except the facts; the others get the rest.
        So none is repeated more than `cap` times as often as the text of all. None = no cap.
      sources: short names of tasks for `rates`, {"wiki": "lines:en=wiki.txt"}. Each task is also named by itself.
      epochs: how often a text is read at most, for all texts or by member, {"en": 4, "wiki:de": 2}. A text that has been
        read so often has no more rows, and the others get them. None = no limit. The facts have none.

    `rates` and `alpha` may change with the step: they may be `Piecewise` or `Linear` (`data.sampling.schedules`).
    """

    tasks: tuple = dataclasses.field(default=(), metadata=with_paths(canonical_tasks))
    rates: Any = ()
    alpha: Any = 1.0
    languages: tuple = ()
    cap: float | None = None
    where: Any = ()
    sources: Any = dataclasses.field(default=(), metadata=with_paths(_located_sources))
    epochs: Any = None

    def __post_init__(self) -> None:
        freeze(self)
        if self.rates != SEQIO:
            self._check_rates()
        self._check_sources()
        self._check_where()
        within(self, "[1, inf)", "cap")
        for where, limit in self.limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
                raise UserError(f"Mixture.epochs{where and f' of {where!r}'} = {limit!r}: a number of at least 1")

    def _check_rates(self) -> None:
        """Raise UserError for rates, exponents or schedules of them that no mixture could have."""
        for step, rates in phases(self.rates):
            where = f" at step {step}" if isinstance(self.rates, Points) else ""
            if not isinstance(rates, tuple) or not all(_is_rate(item) for item in rates):
                raise UserError(f'Mixture.rates{where} = {rates!r}: expected a dict such as {{"en": 0.9, "de": 0.1}}')
            if rates or where:
                check_rates(rates, where)
        for step, alpha in phases(self.alpha):
            where = f" at step {step}" if isinstance(self.alpha, Points) else ""
            if isinstance(alpha, bool) or not isinstance(alpha, int | float):
                raise UserError(f"Mixture.alpha{where} = {alpha!r}: expected a number")
            if not 0 <= alpha <= 1:
                raise UserError(f"Mixture.alpha{where} = {alpha!r}: must lie in [0, 1]")
        if isinstance(self.alpha, Points) and self.rates != ():
            raise UserError("Mixture.alpha changes with the step, but Mixture.rates gives the shares; bind one of them")

    def _check_where(self) -> None:
        form = 'expected a dict such as {"provenance": ("original", "human")}'
        if not isinstance(self.where, tuple) or not all(
            isinstance(item, tuple) and len(item) == 2 for item in self.where
        ):
            raise UserError(f"Mixture.where = {self.where!r}: {form}")
        for field, wanted in self.where:
            if field not in VALUES or not isinstance(wanted, tuple) or not all(isinstance(v, str) for v in wanted):
                raise UserError(f"Mixture.where: {field!r}: {wanted!r}: {form}; fields: {', '.join(VALUES)}")
            unknown = [v for v in wanted if field == "provenance" and v not in ("", *PROVENANCES)]
            if unknown or not wanted:
                raise UserError(f"Mixture.where: provenance {unknown or wanted}: some of {', '.join(PROVENANCES)}")

    def _check_sources(self) -> None:
        """Raise UserError for a source whose task `tasks` lacks, and for a rate of an unknown source."""
        shape = isinstance(self.sources, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
            for pair in self.sources
        )
        if not shape:
            raise UserError(f'Mixture.sources = {self.sources!r}: expected a dict such as {{"wiki": "lines:en=a.txt"}}')
        for name, task in self.sources:
            if not re.fullmatch(r"[\w.-]+", name):
                raise UserError(f"Mixture.sources: the name {name!r} has other characters than letters, digits, . _ -")
            if canonical_task(task) not in canonical_tasks(self.tasks):
                raise UserError(f"Mixture.sources names {name!r} = {task!r}, which Mixture.tasks lacks")
        for name in self.named:
            if ":" in name:
                self.task_of(name.rpartition(":")[0])

    def task_of(self, source: str) -> str:
        """The canonical task of a source: of its short name, or of the task as `tasks` spells it.

        Raises:
          UserError: the mixture has no such source.
        """
        known = {canonical_task(task): task for task in self.tasks}
        task = canonical_task(dict(self.sources).get(source, source))
        if task not in known:
            names = ", ".join([*(name for name, _ in self.sources), *self.tasks]) or "none"
            raise UserError(f"Mixture.rates names the source {source!r}, which this mixture lacks; sources: {names}")
        return task

    @property
    def limits(self) -> dict[str, Any]:
        """`epochs` by member; "" stands for all texts."""
        if self.epochs is None:
            return {}
        pairs = isinstance(self.epochs, tuple) and all(isinstance(one, tuple) and len(one) == 2 for one in self.epochs)
        return dict(self.epochs) if pairs else {"": self.epochs}

    @property
    def changes(self) -> bool:
        """The shares depend on the step."""
        return isinstance(self.rates, Points) or isinstance(self.alpha, Points)

    @property
    def named(self) -> dict[str, bool]:
        """The members that `rates` names at any step, and whether it gives them rows at one."""
        found: dict[str, bool] = {}
        if self.rates == SEQIO:
            return found
        for _, rates in phases(self.rates):
            found |= {name: found.get(name, False) or rate > 0 for name, rate in rates}
        return found

    def in_rows(self, row: Callable[[int], int]) -> Mixture:
        """A copy whose schedules have points at rows in place of steps: `row(step)`."""
        if not self.changes:
            return self
        rates, alpha = (v.in_rows(row) if isinstance(v, Points) else v for v in (self.rates, self.alpha))
        return dataclasses.replace(self, rates=rates, alpha=alpha)

    def phases(self) -> list[Mixture]:
        """For each point of the schedule, a mixture whose constant shares are those of the point."""
        if isinstance(self.rates, Points):
            return [dataclasses.replace(self, rates=rates) for rates in self.rates.values]
        return [dataclasses.replace(self, alpha=alpha) for _, alpha in phases(self.alpha)]


def _is_rate(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int | float)


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
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
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


def ask(request: Mapping[str, Any], what: str) -> list[str]:
    """Let another process serve a request of `preparing.main`; returns the lines of its stdout.

    Args:
      what: the work in words, for the message if the process stops without one of its own.
    Raises:
      UserError, RunError: the process said so.
    """
    # The process needs no accelerator, and TensorFlow's messages would hide its own.
    command = [sys.executable, "-c", _PREPARE, json.dumps(request)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet})
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        # Its last line is the error, which is raised here as if nothing had run elsewhere.
        if done.returncode in (USER_ERROR, CACHE_ERROR) and lines:
            raise (UserError if done.returncode == USER_ERROR else RunError)(json.loads(lines[-1])["error"])
        raise RunError(f"{what} stopped with exit code {done.returncode}")
    return lines


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
