"""Cloned languages: a task whose text is written with the ids of a clone (PreAlign's English-Clone)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from xalign_jax.data.store.prepare import prepare_vocabulary
from xalign_jax.data.store.store import cache_dir
from xalign_jax.data.tokens.vocabulary import Vocabulary, clone_name
from xalign_jax.errors import UserError
from xalign_jax.tasks.reading import open_task, seqio_task


def clone_task(
    name: str,
    vocabulary: Vocabulary,
    clone: int = 1,
    tasks: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> seqio.Task:
    """A text task as a tokenised seqio Task in a cloned language. Recipes need none: they name the language `en_clone`.

    Its `targets` are those of `seqio_task`, with the ids of the clone; its `language` is `en_clone` for `en`.

    Args:
      clone: the number of the clone, from 1 to `vocabulary.clones`.
      name, vocabulary, tasks, cache: as for `seqio_task`.
    Raises:
      UserError: the vocabulary has no such clone; or as `seqio_task`.
    """
    if not 1 <= clone <= vocabulary.clones:
        raise UserError(f"clone_task: clone {clone} of {name!r}, but Vocabulary.clones = {vocabulary.clones}")
    base = seqio_task(name, vocabulary, tasks, cache)
    readers = [open_task(task) for task in tasks or (name,)]
    _, tokenizer = prepare_vocabulary(vocabulary, readers, Path(cache or cache_dir()))
    ids = tf.constant(tokenizer.clone(np.arange(tokenizer.base_size), clone), tf.int32)
    suffix = clone_name("", clone)

    def cloned(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(
            lambda row: {**row, "targets": tf.gather(ids, row["targets"]), "language": row["language"] + suffix}
        )

    live = f"{base.name}{suffix}_{tokenizer.fingerprint}"
    if live not in seqio.TaskRegistry.names():
        feature = seqio.Feature(seqio.PassThroughVocabulary(tokenizer.size, eos_id=tokenizer.eos), add_eos=False)
        seqio.TaskRegistry.add(
            live,
            source=base.source,
            preprocessors=[*base.preprocessors, cloned],
            output_features={**base.output_features, "targets": feature},
            metric_fns=[],
        )
    return seqio.TaskRegistry.get(live)
