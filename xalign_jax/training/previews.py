"""Previews of a recipe's streams at a step: batches as training reads them, with what objectives do to their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.preview import rows as shown
from xalign_jax.errors import UserError
from xalign_jax.models.model import Model
from xalign_jax.records.previewed import Preview
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.step import stream_key


def choose(
    planned: Sequence[PlannedStage], stream: str | None, step: int | None
) -> list[tuple[PlannedStage, str, int]]:
    """(stage, stream, step) of the batches to show.

    Args:
      stream: only this one; None = all.
      step: counted from 0 over all stages; None = the first one of each stage.

    Raises:
      UserError: no stage has the step or the stream.
    """
    last = planned[-1].last_step
    stages = [stage for stage in planned if step is None or stage.first_step <= step < stage.last_step]
    if not stages:
        raise UserError(f"--step={step}: the recipe's steps are 0 to {last - 1}")
    names = [name for stage in stages for name in stage.feeds]
    if stream is not None and stream not in names:
        at = "" if step is None else f" of the stage of step {step}"
        raise UserError(f"--stream={stream}: no such stream; the streams{at} are {', '.join(names)}")
    return [
        (stage, name, stage.first_step if step is None else step)
        for stage in stages
        for name in stage.feeds
        if stream in (None, name)
    ]


def previews(
    chosen: Sequence[tuple[PlannedStage, str, int]], corpus: Corpus, model: Model, seed: int, rows: int
) -> Iterator[Preview]:
    """A preview of the first `rows` rows of each batch.

    Args:
      model: without parameters; objectives ask it for its special pieces.
      seed: of the recipe; masks are those of the run.
    """
    for stage, name, step in chosen:
        feed = stage.feeds[name]
        (objective,) = [one.objective for one in stage.stage.streams if one.name == name]
        # The whole batch: a random mask depends on the batch's shape.
        batch = feed.batch(step, slice(0, feed.count))
        corrupted = jax.device_get(objective.corrupted(model, batch, stream_key(seed, jnp.int32(step), name)))
        yield shown.collect(
            batch,
            corpus,
            feed.feed.languages,
            rows=rows,
            corrupted=corrupted,
            stage=stage.stage.name,
            stream=name,
            step=step,
        )
