"""A language and its clones as a seqio Mixture, for pipelines outside of this package. Recipes name `en_clone`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import seqio

from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.tasks.reading import seqio_task


def clone_mixture(
    name: str, task: str, vocabulary: Vocabulary, shares: Sequence[float], cache: str | Path | None = None
) -> seqio.Mixture:
    """Register a Mixture of a text task and its clones, all tokenised; see `reading.seqio_task`.

    >>> clone_mixture("docs_90_10", "docs_en", Vocabulary(clones=1), shares=(0.9, 0.1))

    Args:
      name: of the Mixture.
      vocabulary: its settings say how many clones there are, and what they share with the language.
      shares: the rate of the language itself, then of each clone.
      cache: the folder of the cache; None = the default one.
    Raises:
      UserError: not as many shares as languages, or a share that is not positive.
    """
    if len(shares) != vocabulary.clones + 1 or min(shares) <= 0:
        raise UserError(
            f"clone_mixture({name!r}): shares = {tuple(shares)}: give {vocabulary.clones + 1} positive numbers, because"
            f" Vocabulary.clones = {vocabulary.clones}"
        )
    tasks = [seqio_task(task, vocabulary, cache=cache, clone=clone) for clone in range(len(shares))]
    return seqio.MixtureRegistry.add(name, [(one.name, share) for one, share in zip(tasks, shares, strict=True)])
