"""Aligned words: the three forms on the links of the model, and the distance to the start."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, R, S, linked_states, sentence_batch, unit

from xalign_jax.errors import UserError
from xalign_jax.objectives.aligned_words import FORMS, AlignedWords


def cross_entropy(scores, right):
    return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), right])


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_its_formula(model, params, form):
    batch = sentence_batch()
    a, b = linked_states(model, params, batch)
    n, t = len(a), 0.2
    if form == "distance":
        expected = np.mean(((a - b) ** 2).sum(1))
    elif form == "weak":
        scores = unit(a) @ unit(b).T / t
        expected = (cross_entropy(scores, np.arange(n)) + cross_entropy(scores.T, np.arange(n))) / 2
    else:
        z = unit(np.concatenate([a, b]))
        expected = cross_entropy(z @ z.T / t - 1e6 * np.eye(2 * n), (np.arange(2 * n) + n) % (2 * n))
    objective = AlignedWords(level=1, form=form, temperature=t)
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    assert objective.count(model, batch, KEY) == R * S - 1
    assert metrics["count_links"] == n > 8
    np.testing.assert_allclose(loss, expected * (R * S - 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["cosine"], (unit(a) * unit(b)).sum(1).mean(), rtol=1e-5)


@pytest.mark.slow
def test_the_distance_to_the_start(model, params):
    batch, objective = sentence_batch(), AlignedWords(level=1, form="distance", stay=2.0)
    own = bound(model, params)
    state = objective.prefill(own, objective.init(KEY, model)[1], [], KEY)
    assert jax.tree.structure(state["start"]) == jax.tree.structure(objective.state_axes(model, state)["start"],
                                                                    is_leaf=lambda x: isinstance(x, tuple))  # fmt: skip
    plain = dataclasses.replace(objective, stay=0.0)

    def loss(objective, p):
        return objective.loss(bound(model, p), batch, state, KEY)[0]

    # At the start, the distance is 0 and so is its gradient.
    gradients = [jax.jit(jax.grad(lambda p, o=o: loss(o, p)))(params) for o in (objective, plain)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), *gradients)
    moved = {"model": jax.tree.map(lambda x: x + 0.01, params["model"]), "heads": {}}
    size = sum(x.size for x in jax.tree.leaves(params["model"]))
    found, without = (loss_of(o, model, moved, state, batch, KEY) for o in (objective, plain))
    np.testing.assert_allclose(found[1]["moved"], 0.01 * np.sqrt(size), rtol=1e-4)
    np.testing.assert_allclose(found[0] - without[0], 2 * (R * S - 1) * found[1]["moved"], rtol=1e-4)


def test_a_batch_without_a_link_has_no_loss(model, params):
    batch = sentence_batch()
    batch["text"] = batch["key_text"]
    loss, metrics, _ = loss_of(AlignedWords(level=1, form="strong"), model, params, {}, batch, KEY)
    assert (loss, metrics["count_links"], metrics["count_identical"]) == (0, 0, R * S - 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_equal_on_eight_devices(model, params, form):
    rows = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(AlignedWords(level=2, form=form), model, params, batch)


def test_bad_settings(model):
    with pytest.raises(UserError, match=r"AlignedWords.level = 3: the model has levels 0 to 2"):
        AlignedWords(level=3).init(KEY, model)
    with pytest.raises(UserError, match=r"AlignedWords.guide = 'itermax': must be one of argmax, ot"):
        AlignedWords(level=1, guide="itermax")
    with pytest.raises(UserError, match=r"AlignedWords.form = 'near': must be one of"):
        AlignedWords(level=1, form="near")
    with pytest.raises(UserError, match=r"@AlignedWords\(\): it links the words"):
        AlignedWords(level=1).check(model, {"group": jnp.zeros((2, 3, 1))})
