"""Tied rows train like a model with shared parameters, on any mesh."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.data.token_ties import TokenTies
from xalign_jax.interfaces import Coordinates
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.parametrizations.tied_rows import TiedCoordinates, TiedRows
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import make_step

V, T, STEPS = 16, 8, 4
TOKEN, SOURCE, LANGUAGE = (  # the last two follow nothing
    np.array(ids, np.int32) for ids in ([5, 6, 7, 12, 9, 13], [1, 2, 3, 1, 9, 13], [1, 1, 1, 2, 1, 2])
)
TIES = TokenTies(TOKEN, SOURCE, LANGUAGE)
OWN_DECAY = TiedRows().own_decay
LANGUAGES = {"lm": ("a", "b", "c")}
STAGE = Stage(
    name="pretrain",
    steps=STEPS,
    streams=[Stream(name="lm", feed=WindowFeed(length=16), objective=CausalLM(), batch_size=8)],
    optimizer=AdamW(clip=0.5),
    schedule=WarmupConstant(peak=0.01),
)


def llama(tied=False):
    config = Llama(layers=2, width=8, heads=2, kv_heads=2, mlp_width=16, max_length=T, tied=tied, table_std=0.5)
    return build(config, V)


def batches():
    """Batches of hashed tokens, the tokens of `SHARED` among them."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        tokens = rng.integers(0, V, (8, T + 1)).astype(np.int32)
        rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((8, T), np.float32)}
        rows["positions"] = np.tile(np.arange(T, dtype=np.int32), (8, 1))
        yield {"lm": rows | {"segment_ids": np.ones((8, T), np.int32), "language": np.zeros(8, np.int32)}}


def trained(model, coordinates, mesh=None):
    """Parameters before and after the steps of `STAGE`."""
    mesh = mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES)
    current = state.begin(STAGE, coordinates, model, 0, mesh)
    where = state.layout(STAGE, coordinates, model, 0, mesh).where_params
    first = jax.device_get(state.parameters(coordinates, current, where))["model"]
    step = jax.jit(make_step(STAGE, coordinates, model, 0, 0, LANGUAGES))
    with jax.set_mesh(mesh):
        for batch in batches():
            current, metrics = step(current, batch)
            assert metrics["finite"]
        last = state.parameters(coordinates, current, where)
    return first, jax.device_get(last)["model"]


def tied_rows(model):
    return TiedCoordinates(model, TIES, OWN_DECAY)


HOSTS = [2, 3]  # where in `TOKEN` the last follower of each language is: it has no part of its own
OWN = np.array([1, 1, 0, 0, 0, 0], np.float32)[:, None]


def joined(theta):
    """The model's parameters, from languages' vectors and followers' own parts as separate arrays."""
    model, found = theta["model"], {}
    for name, vectors in theta["vectors"].items():
        rows = model[name][SOURCE] + vectors[LANGUAGE - 1] + OWN * theta["own"][name]
        found[name] = model[name].at[TOKEN].set(rows)
    return model | found


@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_of_a_model_that_has_sources_vectors_and_own_parts(tied):
    model = llama(tied)
    first, found = trained(model, tied_rows(model))
    names = ["embedding"] if tied else ["embedding", "head"]
    vectors = {name: first[name][TOKEN[HOSTS]] - first[name][SOURCE[HOSTS]] for name in names}
    alone = {name: first[name].copy() for name in names}
    for name in names:
        alone[name][[9, 13]] -= vectors[name]
    own = {name: np.zeros((6, 8), np.float32) for name in names}
    theta = jax.tree.map(jax.numpy.asarray, {"model": first | alone, "vectors": vectors, "own": own})
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(joined(theta)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # as `enter` made them
    decay = {"model": jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), first)}
    decay |= {part: dict.fromkeys(names, True) for part in ("vectors", "own")}
    direction = STAGE.optimizer.direction(decay)
    moments, rate = direction.init(theta), STAGE.schedule.schedule(STEPS)(0)

    @jax.jit
    @jax.grad
    def gradient(theta, batch):
        total, _, _ = CausalLM().loss(model.bind(joined(theta)), batch, {}, jax.random.key(0))
        return total / batch["weights"].sum()

    for batch in batches():
        update, moments = direction.update(gradient(theta, batch["lm"]), moments, theta)
        theta = jax.tree.map(lambda p, d: p - rate * d, theta, update)
        theta["own"] = jax.tree.map(lambda own: own * (1 - OWN_DECAY * rate), theta["own"])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(joined(theta)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in names:
        vector = found[name][TOKEN[HOSTS]] - found[name][SOURCE[HOSTS]]
        assert np.abs(vector[0] - vector[1]).max() > 1e-3  # languages have vectors of their own
        own = found[name][TOKEN[:2]] - found[name][SOURCE[:2]] - vector[0]
        assert np.abs(own).max() > 1e-3 and np.abs(found[name] - first[name]).max() > 1e-3


def test_rows_to_begin_with_lie_beside_their_sources_by_the_mean_distance_of_their_language():
    params = {"model": llama().init(jax.random.key(0)), "heads": {}}
    tied = tied_rows(llama()).enter(params)["model"]
    for name in ("embedding", "head"):
        before, after = np.asarray(params["model"][name]), np.asarray(tied[name])
        apart = before[TOKEN] - before[SOURCE]
        means = np.stack([apart[:3].mean(axis=0)] * 3 + [apart[3]])
        np.testing.assert_allclose(after[TOKEN[:4]] - after[SOURCE[:4]], means, atol=1e-6)
        rest = np.setdiff1d(np.arange(V), TOKEN[:4])
        np.testing.assert_array_equal(after[rest], before[rest])


def test_vectors_alone_move_every_token_of_a_language_and_the_first_step_starts_from_the_rows_as_they_are():
    model, vectors = llama(), TokenTies(TOKEN, TOKEN, LANGUAGE)
    params = {"model": model.init(jax.random.key(0)), "heads": {}}
    coordinates = TiedCoordinates(model, vectors, 0.0)
    free, fixed = coordinates.split(coordinates.enter(params), jax.random.key(0))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(coordinates.params(free, fixed)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    grads = jax.grad(lambda free: sum(map(jax.numpy.sum, jax.tree.leaves(coordinates.params(free, fixed)))))(free)
    moved = coordinates.params(jax.tree.map(jax.numpy.add, free, grads), fixed)
    up = np.asarray(moved["model"]["head"] - params["model"]["head"])[:, 0]
    # Four tokens of language 1 and two of language 2: own gradient and the sum; the last one is its language's vector.
    expected = np.ones(V)
    expected[[5, 6, 7, 9]], expected[[12, 13]] = (5, 5, 5, 4), (3, 2)
    np.testing.assert_allclose(up, expected, atol=1e-5)


def test_a_bias_of_the_vocabulary_is_no_table_of_rows():
    model = SimpleNamespace(logical_axes=lambda: {"embedding": ("vocab", "embed"), "bias": ("vocab",)})
    table = np.random.default_rng(0).normal(size=(V, 4)).astype(np.float32)
    params = {"model": {"embedding": jax.numpy.asarray(table), "bias": np.arange(V)}, "heads": {}}
    coordinates = tied_rows(model)
    for change in (
        coordinates.enter,
        lambda tree: coordinates.split(tree, None)[0],
        lambda tree: coordinates.params(tree, {}),
        lambda tree: coordinates.after_update(tree, 0.1),
    ):
        found = change(params)["model"]
        assert (found["embedding"] != table).any()
        np.testing.assert_array_equal(found["bias"], np.arange(V))


def test_a_mesh_of_eight_devices_gives_the_same_rows():
    model = llama()
    _, one = trained(model, tied_rows(model))
    _, many = trained(model, tied_rows(model), sharding.make_mesh((2, 2, 2)))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_without_ties_every_row_is_its_own():
    _, found = trained(llama(), Coordinates())
    own = found["head"][TOKEN] - found["head"][SOURCE]
    assert np.abs(own[0] - own[1]).max() > 0.1
