"""Prepares stores on an engine of Apache Beam, which divides the work among many machines.

Where a shard ends, and the hash of its content, depend on all texts that come before. So one worker reads a task from
its beginning to its end, in order, which is quicker than tokenising. It cuts the task into batches of shards, leaves out
validation texts, and hashes what is left. Any worker may tokenise any batch, and the batches of a shard meet again to be
written. Different tasks are read by different workers. The steps:

    tasks -> look -> readers and validation texts of all tasks
                     -> read -> batches -> encode -> shards -> write -> complete

Shards and stores are the same to the bit as those of `prepare` alone. So `prepare` goes on where a killed pipeline
stopped, and the other way round. Workers write into the cache, so its folder must be one that all of them share.

Only this module imports apache_beam, and only `preparing` imports this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import logging
import operator
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from xalign_jax.data.store.cache import damage, make
from xalign_jax.data.store.columns import Arrays, Encoder, field_columns
from xalign_jax.data.store.prepare import (
    Parts,
    Work,
    complete,
    import_modules,
    open_tasks,
    parts_of,
    tables_of,
    validation_texts,
    versions,
)
from xalign_jax.data.store.shards import Part, Shards, batches, open_shards
from xalign_jax.data.store.tokenise import SPLITS, Found, cover, text_keys
from xalign_jax.data.text.readers import Example
from xalign_jax.data.text.split import contained
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import RunError, UserError, one_line

OPTION = "--pipeline_options"
_RAISED = re.compile(r"xalign_jax\.errors\.(UserError|RunError): (.*?)(?: \[while running|\\n|$)", re.MULTILINE)
_STEP = re.compile(r" \[while running '[^']*'\]")

Key = tuple[str, str, int]  # task, split, number: a shard


class Known(NamedTuple):
    """What all workers must know of a task before any of them reads training text.

    Attributes:
      validation: sorted hashes of its validation texts.
      tables: the names in each field.
    """

    validation: np.ndarray
    tables: dict[str, tuple[str, ...]]


class Batch(NamedTuple):
    """Consecutive documents of a shard.

    Attributes:
      number: of the batch in its shard.
      examples: the documents that are kept.
      kept: for each document that was read, whether it is kept.
    """

    number: int
    examples: list[Example]
    kept: np.ndarray


class Encoded(NamedTuple):
    """A batch that is tokenised: see `shards.Part`."""

    number: int
    arrays: Arrays
    languages: list[str]
    kept: np.ndarray


class End(NamedTuple):
    """The end of a shard.

    Attributes:
      batches: in the shard.
      content: the hash of everything that was read so far.
    """

    batches: int
    content: str


@dataclasses.dataclass(frozen=True)
class Shared:
    """What is sent to every worker.

    Attributes:
      mark: a folder in the cache. A worker that does not see it has another folder there.
      versions: of packages on the machine that started the pipeline.
    """

    work: Work
    mark: Path
    versions: Mapping[str, str]

    def check(self) -> None:
        """Raise RunError if this worker has another folder as cache, or other versions of packages."""
        host = platform.node()
        if not self.mark.exists():
            raise RunError(
                f"{self.work.cache} on the worker {host} is not the folder of the machine that started the pipeline; "
                "set XALIGN_CACHE to a folder that all workers share"
            )
        for name, version in versions().items():
            if version != self.versions[name]:
                raise RunError(
                    f"the worker {host} has {name} {version}, and the machine that started the pipeline has "
                    f"{self.versions[name]}; install the same version"
                )

    def check_text(self, task: str, reader: Any) -> None:
        """Raise RunError if this worker reads another text than the machine that started the pipeline."""
        import_modules(self.work.modules)  # a reader that another worker has opened may need them
        if reader.fingerprint() != self.work.prints[task]:
            raise RunError(
                f"{task}: the worker {platform.node()} finds another text than the machine that started the pipeline; "
                "put the text into a folder that all workers share"
            )

    def encoder(self, task: str, known: Mapping[str, Known]) -> Encoder:
        """The encoder of a task's texts."""
        return Encoder(_tokenizer(self.work.vocabulary), field_columns(known[task].tables))

    def shards(self, task: str, known: Mapping[str, Known]) -> Shards:
        """The shards of a task."""
        return Shards(self.work.shards(task), self.encoder(task, known).columns)


@functools.cache
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def engine(options: Sequence[str]) -> Callable[[Work], None]:
    """Makes stores on an engine of Beam, once.

    Args:
      options: of Beam, such as ["--runner=DirectRunner"].
    Raises:
      UserError: an option that Beam refuses.
    """
    # A worker in this process would print the trace of an error that users see as one line.
    logging.getLogger("apache_beam.runners.common").addFilter(_is_news)
    return functools.partial(_make_stores, _pipeline(options))


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], UserError | RunError))


def _make_stores(pipeline: apache_beam.Pipeline, work: Work) -> None:
    """Make the stores that are missing in the cache.

    Raises:
      UserError: bad files or modules.
      RunError: the pipeline failed, or workers do not share the cache.
    """
    missing = [task for task in work.keys if damage(work.store(task)) is not None]
    if not missing:
        return
    for task in missing:
        open_shards(work.cache, work.keys[task], ())
    # Beside the shards, where `open_shards` deletes what a killed process has left for a week.
    mark = work.cache / "partial" / f"beam-{uuid.uuid4().hex}"
    mark.mkdir()
    try:
        with pipeline:
            _build(pipeline, missing, Shared(work, mark, versions()))
    except Exception as error:  # each engine has exceptions of its own
        raise _failure(error) from None
    finally:
        shutil.rmtree(mark, ignore_errors=True)
    for task in missing:
        if (found := damage(work.store(task))) is not None:
            raise RunError(
                f"{task}: the pipeline has ended, but {found}; all workers must share the folder {work.cache}"
            )


def _pipeline(options: Sequence[str]) -> apache_beam.Pipeline:
    """An empty pipeline. Raises UserError for an option that Beam refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = PipelineOptions(list(options))
            found.get_all_options()
        return apache_beam.Pipeline(options=found)
    except SystemExit:  # its parser has printed how it is used, and then the error
        raise UserError(f"{OPTION}: {said.getvalue().strip().splitlines()[-1].partition('error: ')[2]}") from None
    except ValueError as error:
        raise UserError(f"{OPTION}: {one_line(error, None)}") from None


def _failure(error: Exception) -> UserError | RunError:
    """The error of a worker as one line. Engines add the name of the step, or give the error's trace as a text."""
    if isinstance(error, UserError | RunError):
        return type(error)(_STEP.sub("", str(error)))
    if raised := _RAISED.findall(str(error)):
        kind, line = raised[-1]
        return UserError(line) if kind == "UserError" else RunError(line)
    return RunError(f"{OPTION}: the pipeline failed: {one_line(error)}")


def _build(pipeline: apache_beam.Pipeline, missing: Sequence[str], shared: Shared) -> None:
    """The steps of the pipeline that makes the stores of the tasks that are missing."""
    looked = (
        pipeline
        | "tasks" >> apache_beam.Create(list(shared.work.keys))
        | "tasks apart" >> apache_beam.Reshuffle()
        | "look" >> apache_beam.Map(_look, shared)
    )
    known = apache_beam.pvalue.AsDict(looked | "known" >> apache_beam.MapTuple(_known))
    read = (
        looked
        | "missing" >> apache_beam.Filter(_is_in, tuple(missing))
        | "readers apart" >> apache_beam.Reshuffle()
        | "read" >> apache_beam.FlatMap(_read, known, shared).with_outputs("ends", "parts", main="batches")
    )
    encoded = (
        read.batches | "batches apart" >> apache_beam.Reshuffle() | "encode" >> apache_beam.Map(_encode, known, shared)
    )
    written = (
        {"batches": encoded, "ends": read.ends}
        | "shards" >> apache_beam.CoGroupByKey()
        | "write" >> apache_beam.Map(_write, known, shared)
    )
    (
        {"written": written, "parts": read.parts}
        | "stores" >> apache_beam.CoGroupByKey()
        | "complete" >> apache_beam.Map(_complete, known, shared)
    )


def _look(task: str, shared: Shared) -> tuple[str, tuple[Any, Known]]:
    """Read which of a task's texts are for validation. The reader remembers it."""
    shared.check()
    work = shared.work
    readers, _ = open_tasks([task], work.modules, work.open_task, work.cleaning)
    shared.check_text(task, readers[task])
    return task, (readers[task], Known(validation_texts(readers[task]), tables_of(readers[task])))


def _known(task: str, looked: tuple[Any, Known]) -> tuple[str, Known]:
    return task, looked[1]


def _is_in(looked: tuple[str, Any], tasks: Sequence[str]) -> bool:
    return looked[0] in tasks


def _read(looked: tuple[str, tuple[Any, Known]], known: Mapping[str, Known], shared: Shared) -> Iterator[Any]:
    """Read a task. Yields the batches of shards that do not exist, the ends of these shards, and the store's parts."""
    shared.check()
    task, (reader, _) = looked
    shared.check_text(task, reader)
    shards = shared.shards(task, known)
    validation = np.unique(np.concatenate([one.validation for one in known.values()]))
    content = hashlib.sha256()
    counts, dropped = {}, 0
    for split in SPLITS:
        number = -1
        stream = batches(reader.read(split), shared.work.characters)
        for number, group in itertools.groupby(stream, key=operator.itemgetter(0)):
            key, exists, count = (task, split, number), shards.whole(split, number), 0
            for _, examples in group:
                kept = np.ones(len(examples), bool)
                if split == "train":
                    kept = ~contained(text_keys(examples), validation)
                chosen = list(itertools.compress(examples, kept))
                cover(split, chosen, content)
                dropped += len(examples) - len(chosen)
                if not exists:
                    yield key, Batch(count, chosen, kept)
                count += 1
            if not exists:
                yield apache_beam.pvalue.TaggedOutput("ends", (key, End(count, content.hexdigest())))
            elif content.hexdigest() != shards.about(split, number)["content"]:
                # Engines try again what failed.
                shutil.rmtree(shards.folder)
                raise RunError(f"{task}: its text has changed; its shards are deleted: start again")
        counts[split] = number + 1
    parts = parts_of(
        task, reader, shared.work.prints[task], known[task].tables, Found(content.hexdigest(), counts, dropped)
    )
    yield apache_beam.pvalue.TaggedOutput("parts", (task, parts))


def _encode(item: tuple[Key, Batch], known: Mapping[str, Known], shared: Shared) -> tuple[Key, Encoded]:
    """Tokenise a batch."""
    key, batch = item
    arrays = shared.encoder(key[0], known).encode(batch.examples)
    languages = [example.document.language for example in batch.examples]
    return key, Encoded(batch.number, arrays, languages, batch.kept)


def _write(
    item: tuple[Key, Mapping[str, Iterable[Any]]], known: Mapping[str, Known], shared: Shared
) -> tuple[str, tuple[str, int]]:
    """Write a shard. Raises RunError if one of its batches is missing."""
    shared.check()
    (task, split, number), found = item
    (end,) = found["ends"]
    parts = sorted(found["batches"], key=operator.attrgetter("number"))
    if [one.number for one in parts] != list(range(end.batches)):
        raise RunError(f"{task}: the engine has lost batches of the shard {split}-{number:06d}; start again")
    part = Part()
    for one in parts:
        part.arrays.append(one.arrays)
        part.languages += one.languages
        part.kept.append(one.kept)
    shared.shards(task, known).write(split, number, part, end.content)
    return task, (split, number)


def _complete(item: tuple[str, Mapping[str, Iterable[Any]]], known: Mapping[str, Known], shared: Shared) -> None:
    """Make a store from its shards. Raises RunError if one is missing."""
    shared.check()
    task, found = item
    parts: Parts
    (parts,) = found["parts"]
    shards = shared.shards(task, known)
    for split, count in parts.found.shards.items():
        for number in range(count):
            if not shards.whole(split, number):
                raise RunError(f"{shards.place(split, number)}: written, but {platform.node()} does not see it whole")
    encoder = shared.encoder(task, known)
    make(shared.work.store(task), functools.partial(complete, shards=shards, encoder=encoder, parts=parts))
