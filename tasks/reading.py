"""Reads seqio tasks as documents, and makes a tokenised seqio task of a text task."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from xalign_jax.data.store.store import cache_dir
from xalign_jax.data.store.vocabularies import prepare_vocabulary
from xalign_jax.data.text.fields import FIELDS, RANGES, VALUES, ranges, value
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.readers import Example
from xalign_jax.data.text.split import Apply, Split
from xalign_jax.data.text.stamps import hash_file
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary, clone_name
from xalign_jax.errors import UserError, one_line
from xalign_jax.tasks import examples
from xalign_jax.tasks.registration import FEATURES, READY, SOURCES, registered

_UNKNOWN_LANGUAGE = "und"
_BATCH = 1024  # examples that are read from tf.data at a time


@dataclasses.dataclass(frozen=True)
class TaskReader:
    """The documents of a seqio Task, or of all Tasks of a Mixture one after another. A Mixture's rates are not used.

    The Tasks of `SOURCES` number groups by lines or by keys of files, so equal groups of two of them are kept apart.
    Other Tasks of a Mixture may share groups.

    Attributes:
      name: the seqio name.
      code: a hash of the modules that may have registered the task; "" if there are none.
    """

    name: str
    code: str = ""

    @property
    def tasks(self) -> list[seqio.Task]:
        """The Task, or the Tasks of the Mixture."""
        found = seqio.get_mixture_or_task(self.name)
        return list(found.tasks) if isinstance(found, seqio.Mixture) else [found]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of documents that any of the tasks declares: as a source, or by a feature of this name."""
        declared: set[str] = set()
        for task in self.tasks:
            known = task.output_features if "text" in task.output_features else VALUES
            declared.update(
                SOURCES[task.name].fields if task.name in SOURCES else set(known) & set(task.output_features)
            )
        return tuple(field for field in FIELDS if field in declared)

    @property
    def share(self) -> float | None:
        """The share of the documents that is meant for validation; None if tasks have their own splits."""
        shares = {SOURCES[task.name].share if task.name in SOURCES else None for task in self.tasks}
        return shares.pop() if len(shares) == 1 else None

    def fingerprint(self) -> str:
        """A hash of everything that is known about the tasks' content: files, versions, names."""
        # Files are identified by their contents, other tasks by versions, names and the code that reads them.
        own = hash_file(examples.__file__)
        parts = [
            SOURCES[t.name].source.fingerprint()
            if t.name in SOURCES
            else f"{_outside(t)} {own if t.name in READY else self.code}"
            for t in self.tasks
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        """See `files.Source.stamps`."""
        return [stamp for t in self.tasks if t.name in SOURCES for stamp in SOURCES[t.name].stamps()]

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raise UserError if a task is tokenised with another vocabulary than the recipe's, or has no text."""
        for task in self.tasks:
            features = task.output_features
            if "text" in features:
                continue
            if "targets" not in features:
                raise UserError(f"Mixture.tasks: {task.name!r} yields neither `text` nor `targets`")
            # Ids are only comparable if both vocabularies are the same SentencePiece model.
            if tokenizer.vocabulary.words:
                raise UserError(
                    f"Mixture.tasks: {task.name!r} comes tokenised, but Vocabulary.words finds words in text; set it to "
                    "None, or give the task a feature `text`"
                )
            theirs = getattr(features["targets"].vocabulary, "sp_model", None)
            if theirs is None or theirs != tokenizer.files.get("spm.model"):
                raise UserError(
                    f"Mixture.tasks: {task.name!r} is tokenised with another vocabulary than the recipe's; "
                    "set Vocabulary.path to its model"
                )

    def divide(self, apply: Apply) -> None:
        """Divide the documents of this package's Tasks, if that has not been done; `apply` hashes them."""
        for task in self.tasks:
            if task.name in SOURCES:
                SOURCES[task.name].divide(apply)

    def read(self, split: str) -> Iterator[Example]:
        """Examples of "train" or "validation", in a fixed order; the same text is never in both."""
        tasks = self.tasks
        for task in tasks:
            # Tasks of this package know their splits. In a Mixture, groups of two of them are kept apart.
            if task.name not in SOURCES:
                yield from _divided(task, split)
            elif len(tasks) == 1:
                yield from SOURCES[task.name].read(split)
            else:
                yield from (_of_task(task.name, example) for example in SOURCES[task.name].read(split))


def _divided(task: seqio.Task, split: str) -> Iterator[Example]:
    """A split of a task that was registered outside of this package: its own, or a part of its training texts."""
    _download(task)
    if "validation" in task.splits:
        return _read(task, split)
    return Split(functools.partial(_train_documents, task)).select(_read(task, "train"), split)


def _of_task(task: str, example: Example) -> Example:
    """The example with the task's name in its group, so that no other task has the same group."""
    document = example.document
    return example._replace(document=document._replace(group=f"{task}:{document.group}")) if document.group else example


def _train_documents(task: seqio.Task) -> Iterator[Document]:
    return (example.document for example in _read(task, "train"))


def open_task(name: str, code: str = "") -> TaskReader:
    """The reader of a task that a recipe names. Raises UserError if there is no such task.

    Args:
      code: a hash of the modules that may have registered the task. It is not used if the name spells a TFDS data set.
    """
    return TaskReader(registered(name), "" if name.startswith("tfds:") else code)


def mixture_rates(name: str) -> list[tuple[str, float]]:
    """The Tasks of a seqio Mixture, with the rates that seqio would draw them at; they need not sum to 1.

    Raises:
      UserError: there is no such Mixture, it is a Task, or one of its rates is no number >= 0.
    """
    mixture = seqio.get_mixture_or_task(registered(name))
    if not isinstance(mixture, seqio.Mixture):
        raise UserError(f'Mixture.rates = "seqio": {name!r} is a seqio Task, which has no rates; name a seqio Mixture')
    found = []
    for task in mixture.tasks:
        # A rate may be a function of the user's.
        try:
            rate = float(mixture.get_rate(task))
        except Exception as error:
            raise UserError(f"Mixture.rates: the rate of {task.name!r} in {name!r} fails: {one_line(error)}") from None
        if not 0 <= rate < math.inf:
            raise UserError(f"Mixture.rates: {name!r} gives {task.name!r} the rate {rate}; rates are numbers >= 0")
        found.append((task.name, rate))
    return found


def _download(task: seqio.Task) -> None:
    """Let TFDS make its files if they are missing, because it knows the splits only then."""
    if isinstance(task.source, seqio.TfdsDataSource):
        builder = task.source.tfds_dataset.builder
        try:
            builder.download_and_prepare()
        except Exception as error:  # TFDS raises exceptions of many kinds
            reason = one_line(error)
            raise UserError(f"Mixture.tasks: TFDS cannot prepare {builder.info.full_name}: {reason}") from None


def _outside(task: seqio.Task) -> str:
    """A line that identifies a task which was registered outside of this package."""
    source = task.source
    if isinstance(source, seqio.TfdsDataSource):
        return f"{task.name} {source.tfds_dataset.info.full_name}"
    return f"{task.name} {source!r}"


def _read(task: seqio.Task, split: str) -> Iterator[Example]:
    """The examples of a task's split, none if it has no such split. Raises UserError for text that is not UTF-8."""
    if split not in task.splits:
        return
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1)
    if "text" in task.output_features:
        # Other columns are left out: they may have any length, and the rows of a batch must have equal shapes.
        known = [field for field in FIELDS if field in task.output_features]
        columns = dataset.map(lambda row: {name: row[name] for name in (*FEATURES, *known) if name in row})
        # Language and group are optional columns, which are filled in for all n rows.
        for batch in columns.batch(_BATCH).as_numpy_iterator():
            texts, n = batch["text"], len(batch["text"])
            about = (batch.get("language", [_UNKNOWN_LANGUAGE.encode()] * n), batch.get("group_id", [b""] * n))
            fields = zip(*(batch[field] for field in known), strict=True) if known else [()] * n
            for *row, cells in zip(texts, *about, fields, strict=True):
                if row[0].strip():
                    text, language, group = (_string(task, cell) for cell in row)
                    document = Document(text, language, group)
                    yield Example(_with_fields(task, document, dict(zip(known, cells, strict=True))))
        return
    # A tokenised task: the text is decoded, and the ids are kept.
    vocabulary = task.output_features["targets"].vocabulary
    for row in dataset.as_numpy_iterator():
        ids = np.asarray(row["targets"], np.int32)
        of = (row.get("language", _UNKNOWN_LANGUAGE.encode()), row.get("group_id", b""))
        language, group = (_string(task, cell) for cell in of)
        document = Document(vocabulary.decode(ids.tolist()), language, group)
        given = {field: row[field] for field in VALUES if field in task.output_features}
        yield Example(_with_fields(task, document, given), ids)


def _with_fields(task: seqio.Task, document: Document, cells: Mapping[str, Any]) -> Document:
    """The document with fields: strings or whole numbers; ranges are strings of JSON."""
    place = f"Mixture.tasks: {task.name!r}"
    if not cells:
        return document
    found: dict[str, Any] = {}
    for field, cell in cells.items():
        cell = _string(task, cell) if isinstance(cell, bytes) else cell.item()
        if field in RANGES and not isinstance(cell, str):
            raise UserError(
                f"{place}: the feature {field} holds numbers; expected JSON of a list of [start, end, name]"
            )
        found[field] = ranges(field, cell, document.text, place) if field in RANGES else value(field, cell, place)
    return document._replace(**found)


def _string(task: seqio.Task, cell: Any) -> str:
    if not isinstance(cell, bytes):
        raise UserError(f"Mixture.tasks: {task.name!r}: text, language and group_id are strings, not {cell!r}")
    try:
        return cell.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"Mixture.tasks: {task.name!r}: {cell[:40]!r} is not UTF-8 ({error.reason})") from None


class _Wrapped(seqio.Vocabulary):
    """A tokenizer as a seqio vocabulary that writes the ids of clone k. Inside tf.data it calls back into Python.

    Vocabularies of one tokenizer are equal, so that a Mixture may hold a language and its clones.
    """

    def __init__(self, tokenizer: Tokenizer, clone: int = 0) -> None:
        self._tokenizer = tokenizer
        self._clone = clone
        super().__init__()

    @property
    def eos_id(self) -> int | None:
        eos = self._tokenizer.eos
        return None if eos is None else int(self._tokenizer.clone(np.array([eos]), self._clone)[0])

    @property
    def unk_id(self) -> int | None:
        return self._tokenizer.unk

    @property
    def _base_vocab_size(self) -> int:
        return (self._tokenizer.clones + 1) * self._tokenizer.base_size

    def _ids(self, text: str) -> np.ndarray:
        return self._tokenizer.clone(self._tokenizer.encode([text])[0], self._clone)

    def _encode(self, s: str) -> list[int]:
        return self._ids(s).tolist()

    def _decode(self, ids) -> str:
        return self._tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        # tf.data works on tensors of bytes; the tokenizer runs in Python on each text.
        ids = tf.numpy_function(lambda text: self._ids(text.decode()), [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(self._tokenizer.decode, [ids], tf.string)

    def __eq__(self, other: object) -> bool:
        mine = self._tokenizer.fingerprint
        return isinstance(other, _Wrapped) and other._tokenizer.fingerprint == mine


def seqio_task(
    name: str,
    vocabulary: Vocabulary,
    tasks: Sequence[str] | None = None,
    cache: str | Path | None = None,
    clone: int | None = None,
) -> seqio.Task:
    """A text task as a tokenised seqio Task with `targets`, which end with eos, `language` and `group_id`.

    It is meant for plain seqio pipelines; training in this package reads stores. Its ids equal the ids of the task's
    store, except for combining marks that SentencePiece's own tables leave uncomposed: stores compose them first.

    Args:
      name: a Task; for a Mixture, name its Tasks.
      vocabulary: as in the recipe.
      tasks: the tasks whose texts a trained vocabulary is trained on; None = this task.
      cache: the folder of the cache; None = the default one.
      clone: the number of a clone, whose ids and language ("en_clone") the task writes; 0 = the language itself, in a
        vocabulary that has room for the clones.
    Raises:
      UserError: the name is a Mixture's, the vocabulary has no such clone, or it cannot be prepared.
    """
    if clone is not None and not 0 <= clone <= vocabulary.clones:
        raise UserError(f"seqio_task: clone {clone} of {name!r}, but Vocabulary.clones = {vocabulary.clones}")
    found = TaskReader(registered(name)).tasks
    if len(found) > 1:
        raise UserError(f"seqio_task: {name!r} is a Mixture; name its Tasks: {', '.join(t.name for t in found)}")
    readers = [open_task(task) for task in tasks or (name,)]
    directory, tokenizer = prepare_vocabulary(vocabulary, readers, Path(cache or cache_dir()))
    # seqio registers a name once, so the name includes the vocabulary.
    live = f"{found[0].name}_tokenised_{tokenizer.base_fingerprint}"
    if clone is not None:
        tokenizer = tokenizer.with_clones(vocabulary)
        live = f"{clone_name(found[0].name, clone)}_tokenised_{tokenizer.fingerprint}"
    if live not in seqio.TaskRegistry.names():
        # SentencePiece alone does not find words that no spaces divide.
        native = vocabulary.kind == "sentencepiece" and clone is None and not vocabulary.words
        wrapped = (
            seqio.SentencePieceVocabulary(str(directory / "spm.model")) if native else _Wrapped(tokenizer, clone or 0)
        )
        strings = {key: FEATURES[key] for key in ("language", "group_id")}
        seqio.TaskRegistry.add(
            live,
            source=found[0].source,
            preprocessors=[
                *found[0].preprocessors,
                functools.partial(_text_as_targets, suffix=clone_name("", clone or 0)),
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            output_features={"targets": seqio.Feature(wrapped, add_eos=tokenizer.eos is not None), **strings},
            metric_fns=[],
        )
    return seqio.TaskRegistry.get(live)


def _text_as_targets(dataset: tf.data.Dataset, suffix: str) -> tf.data.Dataset:
    """Text as targets; the language gets the suffix of a clone."""
    return dataset.map(
        lambda row: {
            **{key: value for key, value in row.items() if key != "text"},
            "targets": row["text"],
            "language": row["language"] + suffix,
        }
    )
