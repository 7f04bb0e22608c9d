"""A small model, batches for it, and the comparison of one device with eight."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.runtime.sharding import global_batch, make_mesh, parameter_shardings

V, LAYERS = 64, 2


def small_model(**changes):
    shape = dict(layers=LAYERS, width=16, heads=2, kv_heads=2, mlp_width=32, init_std=0.2)
    return build(Llama(**(shape | changes)), V)


def lm_batch(rows: int, length: int = 12):
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, V, (rows, length)).astype(np.int32),
        "targets": rng.integers(0, V, (rows, length)).astype(np.int32),
        "weights": rng.choice([0.0, 1.0], (rows, length), p=[0.2, 0.8]).astype(np.float32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "segment_ids": np.ones((rows, length), np.int32),
    }


def bound(model, params):
    """The model with the parameters {"model": ..., "heads": optional}."""
    return model.bind(params["model"], params.get("heads", {}))


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_of(objective, model, params, state, batch, rng):
    """`objective.loss` as one compiled program, as a training step runs it."""
    return objective.loss(bound(model, params), batch, state, rng)


def assert_same_on_eight_devices(objective, model, params, batch):
    """The loss must agree within 1e-5 (relative), and the gradient within 1e-5 of its norm.

    The mesh is 2 x 2 x 2: (data, fsdp, tensor).
    """
    if jax.device_count() != 8:
        pytest.skip("needs the 8 simulated devices of tests/conftest.py")

    def loss(p, b):
        return objective.loss(bound(model, p), b, {}, jax.random.key(0))[0]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    count_of = jax.jit(lambda b: objective.count(model, b, jax.random.key(0)))
    value, grads = value_and_grad(params, batch)
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        spread = jax.device_put(params["model"], parameter_shardings(model.logical_axes(), params["model"], mesh))
        rows = len(next(iter(batch.values())))
        sharded = global_batch(lambda s: {k: v[s] for k, v in batch.items()}, rows, mesh)
        other, other_grads = value_and_grad({"model": spread, "heads": params.get("heads", {})}, sharded)
        count = count_of(sharded)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    assert count == count_of(batch)
    pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True))
    norm = np.sqrt(sum(np.sum(np.square(a)) for a, _ in pairs))
    assert norm > 0
    for a, b in pairs:
        assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * norm
