"""Causal LM: the weighted sum over tokens, its count, and equal numbers on one device and on eight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import LAYERS, V, assert_same_on_eight_devices, lm_batch, loss_of, small_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.causal_lm import CausalLM


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}


def causal_loss(model, params, batch):
    return loss_of(CausalLM(), model, params, {}, batch, jax.random.key(0))[0]


def test_loss_is_the_weighted_sum_over_targets(model, params):
    batch = lm_batch(8)

    @jax.jit
    def log_probabilities(own):
        h = model.bind(own).hidden(Inputs(batch["tokens"], batch["positions"], batch["segment_ids"]), levels=(LAYERS,))[
            LAYERS
        ]
        return jax.nn.log_softmax(h @ own["head"].T)

    log_p = log_probabilities(params["model"])
    expected = -np.sum(batch["weights"] * np.take_along_axis(np.asarray(log_p), batch["targets"][..., None], 2)[..., 0])
    np.testing.assert_allclose(causal_loss(model, params, batch), expected, rtol=1e-5)
    assert CausalLM().count(None, batch, jax.random.key(0)) == batch["weights"].sum()
    assert CausalLM().init(jax.random.key(0), model) == ({}, {})


def test_what_has_weight_zero_does_not_matter(model, params):
    batch = lm_batch(8)
    other = batch | {"targets": np.where(batch["weights"] > 0, batch["targets"], 1).astype(np.int32)}
    np.testing.assert_allclose(causal_loss(model, params, batch), causal_loss(model, params, other), rtol=1e-6)
    assert causal_loss(model, params, batch | {"weights": 0 * batch["weights"]}) == 0


def test_untrained_loss_is_about_the_logarithm_of_the_vocabulary():
    model = small_model(init_std=0.02)
    params = {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}
    batch = lm_batch(8)
    assert abs(causal_loss(model, params, batch) / batch["weights"].sum() - np.log(V)) < 0.05


def test_clone_rows_tied_by_a_map_give_the_loss_of_the_base_rows(params):
    """Each row of the base vocabulary occurs twice, so the loss is log 2 above the base vocabulary's loss."""
    half = V // 2
    tied = build(small_model().config, V, row_map=np.arange(V) % half)
    base = {key: a % half if key in ("tokens", "targets") else a for key, a in lm_batch(8).items()}
    clone = {key: a + half if key in ("tokens", "targets") else a for key, a in base.items()}
    a, b = (causal_loss(tied, params, batch) for batch in (base, clone))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    alone = build(small_model().config, half)
    small = {"model": params["model"] | {k: params["model"][k][:half] for k in ("embedding", "head")}, "heads": {}}
    np.testing.assert_allclose(a, causal_loss(alone, small, base) + base["weights"].sum() * jnp.log(2.0), rtol=1e-5)


def test_a_model_that_sees_its_targets_is_refused():
    with pytest.raises(UserError, match=r"@XLMRoberta\(\): CausalLM needs"):
        CausalLM().init(jax.random.key(0), build(XLMRoberta(LAYERS, 16, 2, 32, 64), V))


def test_one_device_equals_eight(model, params):
    assert_same_on_eight_devices(CausalLM(), model, params, lm_batch(8))
