"""Rows along a dictionary as one parameter: against a model that has them so, and on any mesh."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from xalign_jax.data.ties import Ties
from xalign_jax.models.functional import build
from xalign_jax.models.llama import Llama
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import make_step

V, T, STEPS = 16, 8, 4
TOKEN, SOURCE, LANGUAGE = (  # the last two follow nothing
    np.array(ids, np.int32) for ids in ([5, 6, 7, 12, 9, 13], [1, 2, 3, 1, 9, 13], [1, 1, 1, 2, 1, 2])
)
TIES = Ties(TOKEN, SOURCE, LANGUAGE)
LANGUAGES = {"lm": ("a", "b", "c")}
STAGE = Stage(
    name="pretrain",
    steps=STEPS,
    streams=[Stream(name="lm", feed=None, objective=CausalLM(), rows=8)],
    optimizer=AdamW(clip=0.5),
    schedule=WarmupConstant(peak=0.01),
)


def llama(tied=False):
    config = Llama(layers=2, width=8, heads=2, kv_heads=2, mlp_width=16, max_length=T, tied=tied, table_std=0.5)
    return build(config, V)


def batches():
    """Steps of hashed tokens; those of `TIES` are among them."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        tokens = rng.integers(0, V, (8, T + 1)).astype(np.int32)
        rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((8, T), np.float32)}
        rows["positions"] = np.tile(np.arange(T, dtype=np.int32), (8, 1))
        yield {"lm": rows | {"segment_ids": np.ones((8, T), np.int32), "language": np.zeros(8, np.int32)}}


def trained(model, ties, mesh=None):
    """Parameters before and after the steps of `STAGE`."""
    mesh = mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES)
    current = state.create(STAGE, model, 0, mesh)
    first = jax.device_get(current.params["model"])
    step = jax.jit(make_step(STAGE, model, 0, 0, LANGUAGES, ties))
    with jax.set_mesh(mesh):
        for batch in batches():
            current, metrics = step(current, batch)
            assert metrics["finite"]
    return first, jax.device_get(current.params["model"])


def joined(theta):
    """The model's parameters from those that have a vector for each language and nothing else of followers' own."""
    vectors = theta["vectors"]

    def table(name):
        return theta["model"][name].at[TOKEN].set(theta["model"][name][SOURCE] + vectors[name][LANGUAGE - 1])

    return theta["model"] | {name: table(name) for name in vectors}


@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_of_a_model_that_has_one_row_and_a_vector(tied):
    model = llama(tied)
    first, found = trained(model, TIES)
    names = ["embedding"] if tied else ["embedding", "head"]
    vectors = {
        name: np.stack(
            [np.mean((first[name][TOKEN] - first[name][SOURCE])[:4][LANGUAGE[:4] == k], axis=0) for k in (1, 2)]
        )
        for name in names
    }
    alone = {name: first[name].copy() for name in names}
    for name in names:
        alone[name][[9, 13]] -= vectors[name]
    theta = jax.tree.map(jax.numpy.asarray, {"model": first | alone, "vectors": vectors})
    decay = {"model": jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), first)}
    decay["vectors"] = dict.fromkeys(names, True)
    direction = STAGE.optimizer.direction(decay)
    moments = direction.init(theta)
    for number, batch in enumerate(batches()):
        # The first step's gradient is that of rows which are not tied yet.
        def loss(theta, batch=batch["lm"], start=number == 0):
            params = {"model": joined(theta)}
            if start:
                away = jax.tree.map(lambda a, b: jax.lax.stop_gradient(a - b), first, params["model"])
                params = {"model": jax.tree.map(jax.numpy.add, params["model"], away)}
            total, _, _ = CausalLM().loss(model, params, {}, batch, jax.random.key(0))
            return total / batch["weights"].sum()

        update, moments = direction.update(jax.grad(loss)(theta), moments, theta)
        theta = jax.tree.map(lambda p, d: p - STAGE.schedule.schedule(STEPS)(0) * d, theta, update)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(joined(theta)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in names:
        own = found[name][TOKEN] - found[name][SOURCE]
        np.testing.assert_allclose(own[:3], np.broadcast_to(own[0], own[:3].shape), atol=1e-6)
        assert np.abs(own[0] - own[3]).max() > 1e-3  # languages have vectors of their own
        assert np.abs(found[name] - first[name]).max() > 1e-3


def test_a_mesh_of_eight_devices_gives_the_same_rows():
    model = llama()
    _, one = trained(model, TIES)
    _, many = trained(model, TIES, sharding.make_mesh((2, 2, 2)))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_without_ties_every_row_is_its_own():
    _, found = trained(llama(), None)
    own = found["head"][TOKEN] - found["head"][SOURCE]
    assert np.abs(own[0] - own[1]).max() > 0.1
