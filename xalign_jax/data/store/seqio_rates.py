"""`Mixture.rates = "seqio"`: the rates of a seqio Mixture that the user registered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from xalign_jax.data.sampling.mixture import SEQIO, Mixture
from xalign_jax.data.store.request import ask
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe


def with_seqio_rates(recipe: Recipe) -> Recipe:
    """The recipe, with tasks and rates in place of `"seqio"`. Another process reads them, because seqio is slow to load.

    So the recipe's identity covers the rates, and its `config.gin` needs no seqio.

    Raises:
      UserError: a mixture's tasks are not one seqio Mixture, or its rates cannot be used.
    """
    mixtures = {stream.mixture for stage in recipe.stages for stream in stage.streams if stream.mixture is not None}
    wanted = [mixture for mixture in mixtures if mixture.rates == SEQIO]
    if not wanted:
        return recipe
    known = {mixture: _resolved(mixture, recipe.modules) for mixture in wanted}
    stages = [
        dataclasses.replace(
            stage,
            streams=tuple(
                dataclasses.replace(stream, mixture=known.get(stream.mixture, stream.mixture))
                if stream.mixture is not None
                else stream
                for stream in stage.streams
            ),
        )
        for stage in recipe.stages
    ]
    return dataclasses.replace(recipe, stages=tuple(stages))


def _resolved(mixture: Mixture, modules: Sequence[str]) -> Mixture:
    """The mixture with the Tasks of its seqio Mixture, each a source with its rate."""
    if len(mixture.tasks) != 1 or ":" in mixture.tasks[0]:
        raise UserError(
            f'Mixture.rates = "seqio": Mixture.tasks = {mixture.tasks!r}; name one registered seqio Mixture there'
        )
    (name,) = mixture.tasks
    *_, line = ask({"mixture": name, "modules": list(modules), "cache": ""}, f"reading the rates of {name}")
    rates = {task: rate for task, rate in json.loads(line) if rate > 0}
    if not rates:
        raise UserError(f"Mixture.rates: all rates of the seqio Mixture {name!r} are 0")
    pairs = tuple((f"{task}:*", rate) for task, rate in rates.items())
    return dataclasses.replace(mixture, tasks=tuple(rates), rates=pairs)
