"""Parametrizations: which numbers are free, their cost, checkpoints, and errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Everything
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.parametrizations.base import leaves, paths
from xalign_jax.parametrizations.low_rank import LowRank
from xalign_jax.parametrizations.selection import Selection
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import make_step

V, T, STEPS = 16, 8, 4
LANGUAGES = {"lm": ("a",)}
ALL = ("query", "key", "value", "output", "gate", "up", "down")


def llama(layers=2):
    config = Llama(layers=layers, width=8, heads=2, kv_heads=2, mlp_width=16, max_length=T, tied=False, table_std=0.5)
    return build(config, V)


def stage(parametrization):
    return Stage(
        name="pretrain",
        steps=STEPS,
        streams=[Stream(name="lm", feed=WindowFeed(length=16), objective=CausalLM(), batch_size=8)],
        optimizer=AdamW(),
        schedule=WarmupConstant(peak=0.01),
        parametrization=parametrization,
    )


def batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        tokens = rng.integers(0, V, (8, T + 1)).astype(np.int32)
        rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((8, T), np.float32)}
        rows["positions"] = np.tile(np.arange(T, dtype=np.int32), (8, 1))
        yield {"lm": rows | {"segment_ids": np.ones((8, T), np.int32), "language": np.zeros(8, np.int32)}}


def one_device():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES)


def trained(parametrization, mesh=None):
    """Runs a stage: (parameters before, parameters after, the last state, coordinates)."""
    mesh, model, own = mesh or one_device(), llama(), stage(parametrization)
    coordinates = parametrization.bind(model, None)
    current = state.begin(own, coordinates, model, 0, mesh)
    where = state.layout(own, coordinates, model, 0, mesh).where_params
    before = jax.device_get(state.parameters(coordinates, current, where))
    step = jax.jit(make_step(own, coordinates, model, 0, 0, LANGUAGES))
    with jax.set_mesh(mesh):
        for batch in batches():
            current, metrics = step(current, batch)
            assert metrics["finite"]
        after = state.parameters(coordinates, current, where)
    return before, jax.device_get(after), current, coordinates


def changed(before, after):
    pairs = zip(leaves(before), leaves(after), strict=True)
    return {path for (path, a), (_, b) in pairs if not np.array_equal(a, b)}


def test_a_selection_moves_what_it_selects_and_has_moments_for_that_alone():
    before, after, current, _ = trained(Selection(("model/head", "attention/(query|key)")))
    selected = {"model/head", "model/layers/attention/query", "model/layers/attention/key"}
    assert changed(before, after) == selected
    moments = [array for array in jax.tree.leaves(current.opt_state) if array.ndim]
    assert sum(array.size for array in moments) == 2 * sum(a.size for path, a in leaves(before) if path in selected)


def test_what_is_frozen_costs_no_backward_pass():
    model = llama(layers=4)

    def flops(parametrization):
        own, coordinates = stage(parametrization), parametrization.bind(model, None)
        current = state.begin(own, coordinates, model, 0, one_device())
        compiled = (
            jax.jit(make_step(own, coordinates, model, 0, 0, LANGUAGES)).lower(current, next(batches())).compile()
        )
        return compiled.cost_analysis()["flops"]

    assert flops(Selection(("model/head",))) < 0.55 * flops(Everything())


def test_low_rank_updates_are_of_that_rank_and_start_at_nothing():
    before, after, current, _ = trained(LowRank(rank=2, alpha=4.0, patterns=ALL))
    fresh = jax.device_get(llama().init(jax.random.key(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before["model"], fresh)
    moved = changed(before, after)
    assert moved == {path for path in paths(before) if path.rpartition("/")[2] in ALL}
    for path, weight in leaves(after):
        if path in moved:
            difference = weight - dict(leaves(before))[path]
            n = 8 if difference.shape[1] == 8 else int(np.prod(difference.shape[1:-1]))
            ranks = np.linalg.matrix_rank(difference.reshape(2, n, -1), tol=1e-5)
            assert (ranks == 2).all(), path
    assert sum(a.size for a in jax.tree.leaves(current.free)) == 2 * 2 * (4 * (8 + 8) + 3 * (8 + 16))


def test_low_rank_steps_are_those_of_factors_trained_by_hand():
    model, config = llama(), LowRank(rank=2, alpha=6.0, patterns=("attention/query",))
    _, after, _, _ = trained(config)
    coordinates = config.bind(model, None)
    fresh = state.begin(stage(config), coordinates, model, 0, one_device())
    start = jax.device_get(state.parameters(coordinates, fresh, None))["model"]
    pair = fresh.free["factors"]["model/layers/attention/query"]

    def loss(pair, batch):
        update = jnp.einsum("lir,lrhd->lihd", pair["a"], pair["b"]) * 3.0
        layers = dict(start["layers"])
        layers["attention"] = layers["attention"] | {"query": start["layers"]["attention"]["query"] + update}
        total, _, _ = CausalLM().loss(model.bind(start | {"layers": layers}), batch, {}, jax.random.key(0))
        return total / batch["weights"].sum(), layers["attention"]["query"]

    direction = AdamW().direction(True)
    moments = direction.init(pair)
    for batch in batches():
        update, moments = direction.update(jax.grad(loss, has_aux=True)(pair, batch["lm"])[0], moments, pair)
        pair = jax.tree.map(lambda p, d: p - 0.01 * d, pair, update)
    np.testing.assert_allclose(
        after["model"]["layers"]["attention"]["query"], loss(pair, next(batches())["lm"])[1], atol=1e-5
    )


@pytest.mark.parametrize("parametrization", [Selection(("head",)), LowRank(rank=2, patterns=ALL)])
def test_a_mesh_of_eight_devices_gives_the_same_parameters(parametrization):
    _, one, _, _ = trained(parametrization)
    _, many, _, _ = trained(parametrization, sharding.make_mesh((2, 2, 2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


@pytest.mark.parametrize("parametrization", [Everything(), Selection(("head",)), LowRank(rank=2, patterns=ALL)])
def test_a_checkpoint_gives_back_free_and_fixed_numbers_bit_by_bit(parametrization):
    _, after, current, coordinates = trained(parametrization)
    hidden = jax.device_get(coordinates.hidden(current.free, current.fixed))
    again = coordinates.resume(after, hidden)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get((current.free, current.fixed)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Selection(("layres",)).bind(llama(), None).split({"model": {"head": 1}}, None), "'layres' matches no"),
        (lambda: Selection(()), r"Selection\.patterns is empty"),
        (lambda: Selection(("(",)), r"Selection\.patterns: '\(' is no regular expression"),
        (lambda: LowRank(rank=0), r"LowRank\.rank = 0"),
        (lambda: LowRank(alpha=-1.0), r"LowRank\.alpha = -1\.0"),
        (lambda: LowRank(rank=9).bind(llama(), None), r"LowRank\.rank = 9: larger than .*query, a matrix of 8 x 8"),
        (lambda: LowRank(patterns=("nothing",)).bind(llama(), None), r"LowRank\.patterns: 'nothing' matches no"),
        (lambda: LowRank(patterns=("embedding",)).bind(llama(), None), r"model/embedding \(16, 8\) is no matrix"),
        (lambda: LowRank(patterns=("norm",)).bind(llama(), None), r"norm.* is no matrix"),
    ],
)
def test_what_cannot_be_trained_so_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
