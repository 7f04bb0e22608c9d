"""One update on a model of two arrays: its new numbers, the old ones after a step that is not finite, its counts."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.data.sampling.schedules import Linear, Piecewise, Turns
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Feed, Objective
from xalign_jax.recipe import Stage, Stream
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.state import TrainState, optimizer
from xalign_jax.training.step import combine, count_rows, make_step, stream_key, weights_at


class Two:
    """A model of two arrays."""

    def bind(self, params, heads):
        return SimpleNamespace(params=params)

    def logical_axes(self):
        return {"w": ("vocab", "embed"), "norm": ("norm",)}


MODEL: Any = Two()
LANGUAGES = {"a": ("en", "de"), "b": ("en", "de")}
FIRST, STEPS = 5, 4  # of the stage
WEIGHTS = {"a": 2.0, "b": 0.5}


@dataclasses.dataclass(frozen=True)
class Line(Objective):
    """sum(x w) + sum(x norm) over the rows x of a batch. With a state, it remembers the batch."""

    def count(self, model, batch, rng):
        return jnp.sum(batch["counted"])

    def loss(self, model, batch, state, rng):
        w, norm = model.params["w"], model.params["norm"]
        total = jnp.sum(batch["x"][:, None] * w) + jnp.sum(batch["x"][:, None] * norm) + jnp.sum(batch["plus"])
        total = total + jnp.sum(jnp.sqrt(jnp.where(batch["root"] > 0, w[0, 0] - 1.0, 1.0)) - 1.0)  # steep at w = 1
        state = state and state | {"seen": state["seen"] + batch["x"]}
        return total, {"draw": jax.random.uniform(rng), "sum": jnp.sum(batch["x"])}, state


class Following(Line):
    """Also remembers the parameters after each update."""

    def after_update(self, model, state):
        return state | {"norm": model.params["norm"]}


def stage(a=WEIGHTS["a"], b=WEIGHTS["b"], **changes):
    streams = [Stream("a", Feed(), Following(), 2, weight=a), Stream("b", Feed(), Line(), 2, weight=b)]
    parts = {"optimizer": AdamW(weight_decay=0.5, clip=0.0), "schedule": WarmupConstant(peak=0.1, warmup=0.5)}
    return Stage("only", STEPS, streams, **(parts | changes))


def batches(**of_a):
    one = {"x": jnp.array([1.0, 2.0]), "counted": jnp.array([4]), "plus": jnp.zeros(1), "root": jnp.zeros(1)}
    return {"a": one | of_a, "b": one | {"x": jnp.array([3.0, -1.0]), "counted": jnp.array([8])}}


def state(chosen, step=FIRST):
    params = {"model": {"w": jnp.ones((2, 3)), "norm": jnp.full(3, 2.0)}, "heads": {}}
    memory = {"a": {"seen": jnp.zeros(2), "norm": jnp.zeros(3)}, "b": {"seen": jnp.ones(2)}}
    axes = {"model": MODEL.logical_axes(), "heads": {}}
    return TrainState(jnp.int32(step), params, {}, optimizer(chosen, axes).init(params), memory)


def updated(chosen, given, before):
    return jax.jit(make_step(chosen, Coordinates(), MODEL, FIRST, 7, LANGUAGES))(before, given)


@pytest.mark.parametrize(
    "of_a", [{"plus": jnp.array([jnp.inf])}, {"plus": jnp.array([jnp.nan])}, {"root": jnp.ones(1)}]
)
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(of_a):
    """An infinite loss, a NaN loss, and a finite loss with an infinite gradient."""
    chosen = stage()
    before = state(chosen)._replace(state={"a": {"seen": jnp.ones(2), "norm": jnp.ones(3)}})
    after, metrics = updated(chosen, batches(**of_a), before)
    assert not metrics["finite"] and bool(jnp.isfinite(metrics["loss"])) == ("root" in of_a)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_an_update_is_the_rate_of_its_step_times_the_direction_and_reaches_all_of_the_state():
    chosen = stage()
    before = state(chosen, step=FIRST + 1)
    after, metrics = updated(chosen, batches(), before)
    # Warm-up is over two steps of the stage. The first direction of Adam is the gradient's sign; matrices decay.
    assert metrics["finite"] and metrics["learning_rate"] == np.float32(0.1)
    np.testing.assert_allclose(after.free["model"]["w"], np.full((2, 3), 1 - 0.1 * (1 + 0.5 * 1)), rtol=1e-5)
    np.testing.assert_allclose(after.free["model"]["norm"], np.full(3, 2 - 0.1), rtol=1e-5)
    assert after.step == FIRST + 2
    assert optimizer_steps(after) == optimizer_steps(before) + 1
    np.testing.assert_array_equal(after.state["a"]["seen"], [1, 2])
    np.testing.assert_array_equal(after.state["a"]["norm"], after.free["model"]["norm"])
    np.testing.assert_array_equal(after.state["b"].pop("seen"), [4, 0])
    assert after.state["b"] == {}  # `Line` follows no parameters
    _, first = updated(chosen, batches(), state(chosen))
    assert first["learning_rate"] == np.float32(0.05)


def test_an_objective_without_a_state_follows_nothing():
    chosen = stage()
    after, metrics = updated(chosen, batches(), state(chosen)._replace(state={}))
    assert metrics["finite"] and after.state == {}


def optimizer_steps(found):
    (count,) = [leaf for leaf in jax.tree.leaves(found.opt_state) if leaf.ndim == 0]
    return int(count)


def test_metrics_are_means_of_each_stream_and_the_norm_of_the_whole_gradient():
    chosen = stage()
    _, metrics = updated(chosen, batches(), state(chosen))
    # Stream a: 3 times the sums of each column of w (2 rows of ones) and of norm. Stream b: x sums to 2.
    of_a, of_b = 3 * 3 + 3 * 6, 2 * 3 + 2 * 6
    np.testing.assert_allclose(metrics["loss/a"], of_a / 4)
    np.testing.assert_allclose(metrics["loss/b"], of_b / 8)
    np.testing.assert_allclose(metrics["loss"], 2 * of_a / 4 + 0.5 * of_b / 8)
    assert metrics["a/sum"] == 3 and metrics["b/sum"] == 2
    # d loss / d w[i, j] = 2 x_a[i] / 4 + 0.5 x_b[i] / 8; d loss / d norm sums both rows.
    rows = 2 * np.array([1.0, 2.0]) / 4 + 0.5 * np.array([3.0, -1.0]) / 8
    np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(3 * np.sum(rows**2) + 3 * rows.sum() ** 2), rtol=1e-6)
    for name in ("a", "b"):
        assert metrics[f"{name}/draw"] == jax.random.uniform(stream_key(7, jnp.int32(FIRST), name))


@pytest.mark.parametrize("combined", ["means", "pooled"])
def test_streams_take_turns_and_one_that_is_off_is_not_computed(combined):
    """At a step, the update is that of the stream whose turn it is. The other's loss would be infinite."""
    turns = stage(Turns(every=2, turn=0, weight=2.0), Turns(every=2, turn=1, weight=0.5), combine=combined)
    run = jax.jit(make_step(turns, Coordinates(), MODEL, FIRST, 7, LANGUAGES))
    broken = {"a": {"plus": jnp.array([jnp.inf])}, "b": {"plus": jnp.array([jnp.inf])}}
    for step, of, other in ((FIRST, "a", "b"), (FIRST + 1, "b", "a")):
        given = {name: batch | broken.get(name if name == other else "", {}) for name, batch in batches().items()}
        before = state(turns, step)
        after, metrics = run(before, given)
        alone = dataclasses.replace(stage(), streams=[s for s in stage().streams if s.name == of])
        expected, of_one = updated(alone, {of: given[of]}, before._replace(state={of: before.state[of]}))
        jax.tree.map(np.testing.assert_array_equal, after.free, expected.free)
        assert metrics["finite"] and metrics["loss"] == of_one["loss"] and metrics[f"loss/{other}"] == 0
        assert metrics["counts"][of]["steps"] == 1 and metrics["counts"][other]["steps"] == 0
        jax.tree.map(np.testing.assert_array_equal, after.state[other].get("seen"), before.state[other]["seen"])


def test_a_weight_may_change_with_the_step():
    chosen = stage(Linear(((0, 1.0), (4, 3.0))), Piecewise(((0, 1.0), (2, 0.0))))
    found = [{name: float(w) for name, w in weights_at(chosen, step).items()} for step in (0, 1, 2, 9)]
    assert found == [{"a": 1, "b": 1}, {"a": 1.5, "b": 1}, {"a": 2, "b": 0}, {"a": 3, "b": 0}]
    for value, wrong in (("2", "expected a number"), (True, "expected a number"), (-1.0, "must lie in")):
        with pytest.raises(UserError, match=rf"s/Stream\.weight = {value!r}: {wrong}"):
            Stream("s", Feed(), Line(), 2, weight=value)
    with pytest.raises(UserError, match=r"Turns\.turn = 2: less than Turns\.every = 2"):
        Turns(turn=2)


def test_a_streams_key_depends_on_seed_step_and_name():
    keys = [stream_key(*given) for given in ((1, 2, "a"), (2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (2, 1, "a"))]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 5


def test_sums_are_combined_over_counts_and_a_stream_without_a_count_adds_nothing():
    sums, counts = {"a": jnp.float32(6), "b": jnp.float32(10)}, {"a": jnp.float32(3), "b": jnp.float32(0.5)}
    nothing = {"a": jnp.float32(0), "b": jnp.float32(0.5)}
    for name, full, part in (("means", 2 * 6 / 3 + 0.5 * 20, 0.5 * 20), ("pooled", 17 / 3.5, 17 / 0.5)):
        np.testing.assert_allclose(combine(stage(combine=name), sums, counts, WEIGHTS), full, rtol=1e-6)
        np.testing.assert_allclose(combine(stage(combine=name), sums, nothing, WEIGHTS), part, rtol=1e-6)
    none = dict.fromkeys(counts, jnp.float32(0))
    value, grads = jax.value_and_grad(lambda s: combine(stage(), s, none, WEIGHTS))(sums)
    assert value == 0 and not any(grads.values())


def test_rows_are_counted_by_language_and_by_what_bears_a_loss():
    windows = {
        "weights": jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
        "language": jnp.array([1, 0, 1]),
        "count_switched": jnp.array([2, 0, 3]),
    }
    packed = {
        "token_language": jnp.array([[0, 1, -1], [1, 1, -1]]),
        "key_token_language": jnp.array([[0, 0, 0], [-1, -1, 1]]),
    }
    words = {"language": jnp.array([[0, 1], [1, 0]]), "weights": jnp.ones((2, 2))}  # a language for each slot
    names = {"lm": ("en", "de"), "contrast": ("en", "de", "fr"), "words": ("en", "de")}
    found = count_rows({"lm": windows, "contrast": packed, "words": words}, names)
    expected = {
        "lm": {"count_switched": 5, "tokens": [0, 5]},
        "contrast": {"tokens": [1, 3, 0], "key_tokens": [3, 1, 0]},
        "words": {},
    }
    assert jax.tree.map(lambda value: value.tolist(), found) == expected
