"""A trained map between the words of two languages: the formula, what gets a gradient, the step towards orthogonality."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, R, S, linked_states, sentence_batch, sentence_model, unit

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Feed
from xalign_jax.objectives.linear_words import WORD_MAP, LinearWords
from xalign_jax.parametrizations.orthogonal import Orthogonal
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime.sharding import make_mesh
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import make_step

OBJECTIVE = LinearWords(level=1)


def pairs(seed=0):
    batch = sentence_batch(seed)
    for number, which in enumerate(("", "key_")):
        batch[f"{which}token_language"] = jnp.where(batch[f"{which}segment_ids"] > 0, number, -1)
    return batch


@pytest.fixture(scope="module")
def mapped(params):
    """The encoder, and a map that is neither the identity nor orthogonal."""
    weight = np.eye(16) + 0.2 * np.random.default_rng(3).standard_normal((16, 16))
    return params | {"heads": {WORD_MAP: {"level_1": jnp.asarray(weight, jnp.float32)}}}


def test_it_is_the_formula_and_starts_as_the_distance(model, params, mapped):
    batch = pairs()
    a, b = linked_states(model, params, batch)
    weight = np.asarray(mapped["heads"][WORD_MAP]["level_1"], np.float64)
    loss, metrics, _ = loss_of(OBJECTIVE, model, mapped, {}, batch, KEY)
    assert OBJECTIVE.count(model, batch, KEY) == R * S - 1
    assert metrics["count_links"] == len(a) > 8 and metrics["languages"] == 1
    np.testing.assert_allclose(loss, np.mean(((a - b @ weight) ** 2).sum(1)) * (R * S - 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["cosine"], (unit(a) * unit(b @ weight)).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["stretch"], np.abs(weight.T @ weight - np.eye(16)).max(), rtol=1e-5)
    fresh = params | {"heads": OBJECTIVE.init(KEY, model)[0]}
    plain, metrics, _ = loss_of(OBJECTIVE, model, fresh, {}, batch, KEY)
    np.testing.assert_allclose(plain, np.mean(((a - b) ** 2).sum(1)) * (R * S - 1), rtol=1e-5)
    assert metrics["stretch"] == 0


def test_only_the_map_gets_a_gradient_and_it_is_the_dense_one(model, params, mapped):
    batch = pairs()
    a, b = linked_states(model, params, batch)
    weight = np.asarray(mapped["heads"][WORD_MAP]["level_1"], np.float64)
    found = jax.jit(jax.grad(lambda p: OBJECTIVE.loss(bound(model, p), batch, {}, KEY)[0]))(mapped)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["model"]))
    expected = 2 * b.T @ (b @ weight - a) / len(a) * (R * S - 1)
    np.testing.assert_allclose(found["heads"][WORD_MAP]["level_1"], expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_rows_in_parts_is_that_of_all_rows(mapped):
    """`Runtime.accumulate`: the rows go through the encoder in two parts, and one mean is over the links of both."""

    def gradient(model):
        found = jax.jit(jax.grad(lambda p: OBJECTIVE.loss(bound(model, p), pairs(), {}, KEY)[0]))(mapped)
        return np.asarray(found["heads"][WORD_MAP]["level_1"])

    whole, parts = gradient(sentence_model()), gradient(sentence_model(chunks=2))
    assert np.linalg.norm(whole) > 0
    assert np.linalg.norm(parts - whole) <= 1e-5 * np.linalg.norm(whole)


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, mapped):
    rows = [pairs(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(OBJECTIVE, model, mapped, batch)


def test_an_update_ends_with_the_published_step_and_leaves_the_encoder(model, mapped):
    """Without a rate, only the step is left. It brings the map nearer to an orthogonal one each time."""
    stream, beta = Stream("pairs", Feed(), OBJECTIVE, R), 0.05
    stage = Stage("bitext", 2, (stream,), AdamW(weight_decay=0.0), WarmupConstant(peak=0.0))
    coordinates, mesh = Orthogonal(beta=beta).bind(model, None), make_mesh((8, 1, 1))
    own = jax.tree.map(jnp.array, mapped)  # which `begin` may overwrite
    current = state.begin(stage, coordinates, model, 0, mesh, params=own)
    expected = np.asarray(mapped["heads"][WORD_MAP]["level_1"], np.float64)
    step = jax.jit(make_step(stage, coordinates, model, 0, 0, {"pairs": ("en", "de")}))
    far = [np.abs(np.linalg.svd(expected, compute_uv=False) - 1).max()]
    for _ in range(2):
        expected = (1 + beta) * expected - beta * expected @ expected.T @ expected
        current, metrics = step(current, {"pairs": pairs()})
        after = coordinates.params(current.free, current.fixed)
        np.testing.assert_allclose(after["heads"][WORD_MAP]["level_1"], expected, atol=1e-5)
        far.append(np.abs(np.linalg.svd(expected, compute_uv=False) - 1).max())
    assert metrics["finite"] and far[0] > far[1] > far[2]
    jax.tree.map(np.testing.assert_array_equal, after["model"], mapped["model"])


def test_bad_settings_are_refused(model):
    with pytest.raises(UserError, match=r"LinearWords\.level = 3: the model has levels 0 to 2"):
        LinearWords(level=3).init(KEY, model)
    with pytest.raises(UserError, match=r"LinearWords\.guide = 'itermax'"):
        LinearWords(level=1, guide="itermax")
    with pytest.raises(UserError, match=r"@LinearWords\(\): it links the words"):
        OBJECTIVE.check(model, {"group": jnp.zeros((2, 3, 1))})
    with pytest.raises(UserError, match=r"an array of shape \(2, 16, 32\) is no matrix"):
        Orthogonal(("up",)).bind(model, None).after_update({"up": jnp.ones((2, 16, 32))}, jnp.zeros(()))
