"""Registers sources of text as seqio tasks."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from xalign_jax.data.text.fields import FIELDS
from xalign_jax.data.text.files import AlignedLines, Document, JsonLines, MultiwayTsv, Source, TextFiles, resolve
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.readers import SourceReader
from xalign_jax.errors import UserError, one_line
from xalign_jax.tasks.examples import as_text

SOURCES: dict[str, SourceReader] = {}  # readers of the tasks that are registered here, by seqio name
ABOUT: dict[str, str] = {}  # a line about each ready task and mixture
READY: set[str] = set()  # ready tasks: data sets of TFDS as this package reads them
_STRING = seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.string, rank=0)
_BATCH = 1024
FEATURES = {"text": _STRING, "language": _STRING, "group_id": _STRING}


def register_source(name: str, source: Source) -> None:
    """Register a source as a task with the splits train and validation (see `files.Split`)."""
    reader = SourceReader(source)
    features = FEATURES | dict.fromkeys(reader.fields, _STRING)

    def dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        def batches() -> Iterator[dict[str, tuple[str, ...]]]:
            found = (_strings(example.document, reader.fields) for example in reader.read(split))
            while batch := list(itertools.islice(found, _BATCH)):
                yield dict(zip(features, zip(*batch, strict=True), strict=True))

        # Python yields batches, which is much faster than single rows; seqio sees single rows.
        columns = {key: tf.TensorSpec((None,), tf.string) for key in features}
        return tf.data.Dataset.from_generator(batches, output_signature=columns).unbatch()

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
        preprocessors=[],
        output_features=features,
        metric_fns=[],
    )
    SOURCES[name] = reader


def _strings(document: Document, fields: Sequence[str]) -> tuple[str, ...]:
    """A document's features: text, language, group and fields. Ranges are strings of JSON."""
    cells = (getattr(document, field) for field in fields)
    return (*document[:3], *(cell or "" if not isinstance(cell, tuple) else json.dumps(cell) for cell in cells))


def register_ready(
    name: str,
    dataset: str,
    preprocessor: Callable[[tf.data.Dataset], tf.data.Dataset],
    splits: Mapping[str, str] | None = None,
    about: str | None = None,
) -> None:
    """Register a data set of TFDS, with its version, as a ready task. Nothing is opened until the task is read.

    Args:
      preprocessor: makes documents of the data set's examples (examples.py).
      splits: the data set's split for "train", "validation" and others; None = its own.
      about: a line for `xalign list tasks`; None for a part of a Mixture.
    """
    seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource(dataset, splits=dict(splits) if splits else None),
        preprocessors=[preprocessor],
        output_features=FEATURES,
        metric_fns=[],
    )
    READY.add(name)
    if about:
        ABOUT[name] = about


def register_mixture(name: str, tasks: Sequence[str], about: str) -> None:
    """Register a Mixture of ready tasks, at equal rates, with a line for `xalign list tasks`."""
    seqio.MixtureRegistry.add(name, list(tasks), default_rate=1.0)
    ABOUT[name] = about


def _files(files: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((language, resolve(path)) for language, path in files.items())


def register_text(name: str, files: Mapping[str, str], document: str = "block") -> None:
    """Register running text, one file for each language.

    Args:
      document: what a document is: a "block" of lines between blank lines, or a "line".
    """
    if document not in ("block", "line"):
        raise UserError(f'register_text({name!r}): document = {document!r}: "block" or "line"')
    register_source(name, TextFiles(_files(files), document))


def register_tsv(name: str, files: Mapping[str, str]) -> None:
    """Register files of `id<TAB>text`, one for each language, joined by id."""
    register_source(name, MultiwayTsv(_files(files)))


def register_pairs(name: str, files: Mapping[str, str]) -> None:
    """Register line-aligned files of two or more languages."""
    register_source(name, AlignedLines(_files(files)))


def register_jsonl(
    name: str, files: Mapping[str, str], text="text", language="language", group="group_id", **fields: str
) -> None:
    """Register files of JSON objects, one on each line, with these keys. The file's language is the default.

    Args:
      fields: the key of each field: label, provenance, spans, roles.
    """
    if unknown := [field for field in fields if field not in FIELDS]:
        raise UserError(f"register_jsonl({name!r}): {unknown[0]} is no field; known: {', '.join(FIELDS)}")
    register_source(name, JsonLines(_files(files), text, language, group, tuple(fields.items())))


def register_tfds(name: str, datasets: Mapping[str, str], text: str = "text", data_dir: str | None = None) -> None:
    """Register TFDS data sets by language, {"en": "wiki40b/en"}. Without a version, TFDS chooses it.

    A data set without a validation split is divided like files.

    Raises:
      UserError: TFDS does not know a data set.
    """
    parts = []
    for language, dataset in datasets.items():
        # The version is part of the task, so that a newer release does not silently change the text.
        if ":" not in dataset:
            dataset = f"{dataset}:{_newest_version(dataset, data_dir)}"
        parts.append(f"{name}_{language.replace('-', '_')}")
        seqio.TaskRegistry.add(
            parts[-1],
            source=seqio.TfdsDataSource(dataset, tfds_data_dir=data_dir),
            preprocessors=[functools.partial(as_text, key=text, language=language)],
            output_features=FEATURES,
            metric_fns=[],
        )
    seqio.MixtureRegistry.add(name, parts, default_rate=1.0)


def _newest_version(dataset: str, data_dir: str | None) -> str:
    try:
        return str(tfds.builder(dataset, data_dir=data_dir).version)
    except Exception as error:  # TFDS raises exceptions of many kinds
        reason = one_line(error)
        raise UserError(f"Mixture.tasks: TFDS cannot open {dataset!r}: {reason}") from None


def registered(name: str) -> str:
    """The seqio name of a recipe's task. A task that is spelled as files or TFDS data sets is registered here.

    Raises:
      UserError: no task of this name is registered.
    """
    spelled = parse_name(name)
    if spelled:
        name = _sanitised(spelled[0])
        if name not in seqio.TaskRegistry.names():
            register_source(name, spelled[1])
    elif name.startswith("tfds:"):
        # "tfds:en=wiki40b/en,de=wiki40b/de": one Task for each language, and a Mixture of them.
        parts = name.removeprefix("tfds:").split(",")
        datasets = dict(map(_language_of, parts))
        if len(datasets) < len(parts):
            raise UserError(f"Mixture.tasks: {name!r} names a language twice")
        name = _sanitised(name)
        if name not in seqio.MixtureRegistry.names():
            register_tfds(name, datasets)
    if name not in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
        known = ", ".join(sorted([*SOURCES, *ABOUT]))
        raise UserError(
            f"Mixture.tasks: no seqio task {name!r}; known: {known}; name the module that registers it in "
            'Recipe.modules, or spell files as "text:en=PATH"'
        )
    return name


def _language_of(part: str) -> tuple[str, str]:
    """Language and data set: ("en", "wiki40b/en") for "en=wiki40b/en" and for "wiki40b/en"."""
    language, equals, dataset = part.partition("=")
    if equals:
        return language, dataset
    # Without a language, the configuration's name must be one, as in "wiki40b/en".
    config = part.split(":")[0].split("/")[-1]
    if "/" not in part or not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?", config):
        raise UserError(f"Mixture.tasks: 'tfds:{part}' does not name its language; write tfds:LANGUAGE={part}")
    return config, part


def _sanitised(name: str) -> str:
    """A seqio name (letters, digits, _) for any name."""
    kind = name.partition(":")[0]
    return f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
