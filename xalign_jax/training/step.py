"""One update of training as a pure function: the stage's loss, its gradient, and the optimiser."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from xalign_jax.interfaces import Changing, Coordinates, Tree
from xalign_jax.models.model import Model, Params
from xalign_jax.recipe import Stage
from xalign_jax.training.state import TrainState, axes, optimizer

Batches = Mapping[str, Mapping[str, jax.Array]]


def stream_key(seed: int, step: jax.Array, name: str) -> jax.Array:
    """The random key of a stream at a step: a function of (seed, step, stream) alone."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def make_step(
    stage: Stage,
    coordinates: Coordinates,
    model: Model,
    first_step: int,
    seed: int,
    languages: Mapping[str, tuple[str, ...]],
) -> Callable[[TrainState, Batches], tuple[TrainState, dict[str, Any]]]:
    """The update function of a stage whose first update is number `first_step` (counted from 0).

    On a non-finite loss or gradient it keeps the old state and says so in the metric `finite` (bool). `loss` and
    `loss/<stream>` are means over the batch. `counts` holds sums, by stream (`count_rows`). A stream whose weight changes
    also counts `steps`, 0 where its weight is 0; then its metrics and its other counts are 0 too.

    Args:
      coordinates: which numbers are free. Gradients, their norm and the check for finite values cover these alone.
      languages: the feed's languages, by stream.
    """
    schedule = stage.schedule.schedule(stage.steps)

    def update(current: TrainState, batches: Batches) -> tuple[TrainState, dict[str, Any]]:
        # Keys derive from (seed, step, stream) alone, so that a restart draws what the first run drew.
        keys = {stream.name: stream_key(seed, current.step, stream.name) for stream in stage.streams}
        # Counts need no parameters. They are taken outside of the loss, so that no gradient goes through them.
        counts = {s.name: s.objective.count(model, batches[s.name], keys[s.name]) for s in stage.streams}
        weights = weights_at(stage, current.step - first_step)
        # A stream is off while its weight is 0. Streams of a constant weight are always on.
        on = {s.name: weights[s.name] > 0 for s in stage.streams if isinstance(s.weight, Changing)}
        counts |= {name: jnp.where(own, counts[name], 0) for name, own in on.items()}

        # The loss is a function of the free numbers: frozen parameters get no gradient and no moments.
        def total_loss(free: Tree) -> tuple[jax.Array, tuple[dict[str, Any], dict[str, Tree]]]:
            # {"model", "heads"}, bound to the model that objectives call.
            bound = _bound(model, coordinates.params(free, current.fixed))
            sums, states = {}, dict(current.state)
            metrics: dict[str, Any] = {"counts": count_rows(batches, languages)}
            # Each objective gives a sum over its batch, its metrics, and its next state.
            for s in stage.streams:
                own = states.get(s.name, {})
                run = functools.partial(s.objective.loss, bound, batches[s.name], own, keys[s.name])
                sums[s.name], found, own = _if_on(run, own, on[s.name]) if s.name in on else run()
                # A metric that is a counter is summed over steps by the meter; any other is averaged.
                metrics["counts"][s.name] |= {name: found.pop(name) for name in [*found] if name.startswith("count_")}
                metrics.update({f"{s.name}/{name}": value for name, value in found.items()})
                if own:
                    states[s.name] = own
            metrics.update({f"loss/{name}": _ratio(sums[name], counts[name]) for name in sums})
            for name, own in on.items():
                metrics["counts"][name] = {k: jnp.where(own, v, 0) for k, v in metrics["counts"][name].items()}
                metrics["counts"][name]["steps"] = own.astype(jnp.int32)
            return combine(stage, sums, counts, weights), (metrics, states)

        (loss, (metrics, states)), grads = jax.value_and_grad(total_loss, has_aux=True)(current.free)
        # The direction of the optimiser is scaled here: p <- p - rate * d, with the rate of the step within the stage.
        rate = schedule(current.step - first_step)
        # The axes say which arrays are matrices, to which alone weight decay applies.
        shapes = jax.eval_shape(coordinates.params, current.free, current.fixed)
        free_axes, _ = coordinates.axes(axes(model, shapes))
        direction, opt_state = optimizer(stage, free_axes).update(grads, current.opt_state, current.free)
        free = jax.tree.map(lambda p, d: p - rate * d, current.free, direction)
        # What is left to do after an update: numbers that decay by themselves, then momentum encoders and queues, which
        # see the new parameters.
        free = coordinates.after_update(free, rate)
        bound = _bound(model, coordinates.params(free, current.fixed))
        states = {s.name: s.objective.after_update(bound, states[s.name]) for s in stage.streams if s.name in states}

        # A step that is not finite changes nothing, the step number included. Fixed numbers stay out of the comparison:
        # they are the same on both sides, and a select would copy them.
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        moved = current._replace(step=current.step + 1, free=free, fixed={}, opt_state=opt_state, state=states)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, current._replace(fixed={}))
        metrics |= {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "finite": finite}
        return kept._replace(fixed=current.fixed), metrics

    return update


def jit_step(step: Callable[..., Any], where: TrainState) -> Any:
    """The compiled update: the new state, sharded as `where` says, is written over the old one's memory."""
    return jax.jit(step, donate_argnums=0, out_shardings=(where, None))


def _if_on(
    run: Callable[[], tuple[jax.Array, dict[str, jax.Array], Tree]], state: Tree, on: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], Tree]:
    """What an objective's loss gives, or zeros and the old state where the stream is off. Only one is computed."""
    loss, metrics, after = jax.eval_shape(run)

    def off() -> tuple[jax.Array, dict[str, jax.Array], Tree]:
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (loss, metrics))
        return *zeros, jax.tree.map(lambda old, new: old.astype(new.dtype), state, after)

    return jax.lax.cond(on, run, off)


def weights_at(stage: Stage, step: jax.Array | int) -> dict[str, Any]:
    """The weight of each stream at a step, counted from 0 in the stage."""
    return {
        s.name: s.weight.at(jnp.asarray(step)) if isinstance(s.weight, Changing) else s.weight for s in stage.streams
    }


def combine(
    stage: Stage, sums: Mapping[str, jax.Array], counts: Mapping[str, jax.Array], weights: Mapping[str, Any]
) -> jax.Array:
    """`means`: sum_t w_t sum_t / count_t. `pooled`: sum_t w_t sum_t / sum_t count_t (InfoXLM's code)."""
    if stage.combine == "pooled":
        return _ratio(sum(weights[name] * total for name, total in sums.items()), sum(counts.values()))
    return sum((weights[name] * _ratio(total, counts[name]) for name, total in sums.items()), jnp.zeros(()))


def _ratio(total: jax.Array | float, count: jax.Array | float) -> jax.Array:
    """total / count, and 0 where the count is 0. The inner `where` keeps NaN out of the gradient."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0.0)


def _bound(model: Model, params: Params) -> Model:
    return model.bind(params["model"], params["heads"])


@jax.named_scope("counters")
def count_rows(batches: Batches, languages: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, jax.Array]]:
    """By stream: sums of the feed's own counters (`count_...`), and `tokens` by language number.

    Windows count tokens with non-zero weight; packed texts, documents and contrast queries count all tokens. `key_tokens` counts
    the tokens of a contrast's keys.
    """
    counts = {}
    for name, batch in batches.items():
        found = {key: jnp.sum(value) for key, value in batch.items() if key.startswith("count_")}
        # (languages,) int32, a histogram to which each kind of batch adds in its way.
        tokens = jnp.zeros(len(languages[name]), jnp.int32)
        # Windows: a row is in one language, `language` (B,).
        if "language" in batch and batch["language"].ndim == 1:
            found["tokens"] = tokens.at[batch["language"]].add(jnp.sum(batch["weights"] > 0, axis=1))
        # Packed rows: `token_language` (B, T), -1 at padding, which becomes an index past the end and is dropped.
        for which in ("", "key_"):
            if (own := batch.get(f"{which}token_language")) is not None:
                own = jnp.where(own < 0, len(languages[name]), own)
                found[f"{which}tokens"] = tokens.at[own.reshape(-1)].add(1, mode="drop")
        counts[name] = found
    return counts
