"""Corruption: its shares and its limits. The masked-LM loss equals a dense one, and is the same on eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import LAYERS, V, assert_same_on_eight_devices, bound, loss_of, small_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives import masked_lm
from xalign_jax.objectives.masked_lm import MaskedLM
from xalign_jax.objectives.parts.corruption import Corruption, corrupt
from xalign_jax.runtime.sharding import make_mesh

SPECIAL = np.arange(V) < 5
MASK, KEY = 4, jax.random.key(3)


@pytest.fixture(scope="module")
def model():
    return build(XLMRoberta(LAYERS, 16, 2, 32, 64, init_std=0.2), V, special=SPECIAL, mask_id=MASK)


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}


def mlm_batch(rows: int, length: int = 16):
    """Rows of two segments between special pieces, then padding."""
    rng = np.random.default_rng(0)
    segments = np.repeat([1, 2, 0], [length // 2, length // 4, length - length // 2 - length // 4])[None].repeat(
        rows, 0
    )
    tokens = np.where(segments > 0, rng.integers(5, V, (rows, length)), 0)
    tokens[:, [0, length // 2]] = 3
    positions = np.arange(length) - np.where(segments == 2, length // 2, 0)
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    return {name: array.astype(np.int32) for name, array in batch.items()}


def corrupted(tokens, segment_ids, key=KEY, **fields):
    settings = Corruption(**fields)
    run = jax.jit(lambda k, t, s: corrupt(k, t, s, settings, SPECIAL, MASK))
    return jax.device_get(run(key, tokens, segment_ids))


@pytest.mark.parametrize("exact", [False, True])
def test_shares_of_a_large_batch(exact):
    tokens = np.random.default_rng(0).integers(0, V, (512, 128)).astype(np.int32)
    segments = np.repeat([1, 2, 3, 0], 32)[None].repeat(512, 0)
    found, chosen = corrupted(tokens, segments, rate=0.3, exact=exact, mask=0.6, random=0.3)
    eligible = (segments > 0) & ~SPECIAL[tokens]
    assert not chosen[~eligible].any()
    np.testing.assert_array_equal(found[~chosen], tokens[~chosen])
    assert abs(chosen.sum() / eligible.sum() - 0.3) < 0.01
    fate, original = found[chosen], tokens[chosen]
    assert abs(np.mean(fate == MASK) - 0.6) < 0.02
    assert abs(np.mean((fate != MASK) & (fate != original)) - 0.3 * (1 - 1 / (V - 5))) < 0.02
    drawn = np.bincount(fate[(fate != MASK) & (fate != original)], minlength=V)
    assert not drawn[SPECIAL].any() and drawn[~SPECIAL].min() > 0.5 * drawn[~SPECIAL].mean()
    other, _ = corrupted(tokens, segments, jax.random.key(4), rate=0.3, exact=exact)
    assert (other != found).any(), "another key, another choice"


def test_exact_counts_per_segment_and_uniform_positions():
    lengths = [1, 2, 7, 20, 30]
    segments = np.repeat(np.arange(1, 6), lengths)[None].repeat(2048, 0)
    tokens = np.full(segments.shape, 9, np.int32)
    tokens[:, 3] = 2  # special: segment 3 has 6 ordinary tokens
    _, chosen = corrupted(tokens, segments, exact=True)
    for segment, n in enumerate([1, 2, 6, 20, 30], 1):
        counts = chosen[:, segments[0] == segment].sum(1)
        assert set(counts) <= {int(0.15 * n), int(0.15 * n) + 1}
        assert abs(counts.mean() - 0.15 * n) < 0.05
    shares = chosen[:, segments[0] == 5].mean(0)
    assert shares.min() > 0.1 and shares.max() < 0.2
    pair = corrupted(np.full((1, 4), 9, np.int32), np.array([[1, 1, 3, 3]]), rate=1.0, exact=True)
    assert pair.chosen.all(), "segment numbers may have gaps"


def test_loss_is_the_cross_entropy_of_the_chosen_tokens(model, params):
    batch, objective = mlm_batch(8), MaskedLM(Corruption(rate=0.4))
    total, metrics, memory = loss_of(objective, model, params, {}, batch, KEY)
    tokens, chosen = corrupted(batch["tokens"], batch["segment_ids"], rate=0.4)

    @jax.jit
    def dense(own):
        h = model.bind(own).hidden(Inputs(tokens, batch["positions"], batch["segment_ids"]), levels=(LAYERS,))[LAYERS]
        logits = model.bind(own).head_input(h) @ model.bind(own).head_weight().T + model.bind(own).head_bias()
        at_target = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], 2)[..., 0]
        return at_target, jnp.argmax(logits, -1) == batch["tokens"]

    at_target, hits = jax.device_get(dense(params["model"]))
    np.testing.assert_allclose(total, -at_target[chosen].sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], hits[chosen].mean(), rtol=1e-5)
    assert objective.count(model, batch, KEY) == chosen.sum() > 0
    assert metrics["count_excess"] == 0 and memory == {}


def test_excess_positions_keep_their_token_and_are_not_scored(model, params, monkeypatch):
    monkeypatch.setattr(masked_lm, "DEVIATIONS", -3.0)
    batch, objective = mlm_batch(8), MaskedLM(Corruption(rate=0.4, mask=1.0, random=0.0))
    total, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    chosen = corrupted(batch["tokens"], batch["segment_ids"], rate=0.4, mask=1.0, random=0.0).chosen
    plan, scored = jax.jit(lambda b: (objective._plan(model, b, KEY), objective.count(model, b, KEY)))(batch)
    assert metrics["count_excess"] == chosen.sum() - scored > 0
    assert (plan.tokens == MASK).sum() == scored
    np.testing.assert_array_equal(plan.tokens[plan.tokens != MASK], batch["tokens"][plan.tokens != MASK])
    assert jnp.isfinite(total)


def test_nothing_chosen_gives_zero(model, params):
    batch = mlm_batch(8)
    for empty in (batch | {"segment_ids": 0 * batch["segment_ids"]}, batch | {"tokens": 0 * batch["tokens"]}):
        (total, metrics), grads = jax.jit(
            jax.value_and_grad(lambda p, b: MaskedLM().loss(bound(model, p), b, {}, KEY)[:2], has_aux=True)
        )(params, empty)
        assert total == 0 and metrics["accuracy"] == 0 and MaskedLM().count(model, empty, KEY) == 0
        assert not any(g.any() for g in jax.tree.leaves(grads))


def test_types_reach_the_model(params):
    typed = build(XLMRoberta(LAYERS, 16, 2, 32, 64, types=3), V, special=SPECIAL, mask_id=MASK)
    own = {"model": jax.jit(typed.init)(jax.random.key(0))}
    batch = mlm_batch(8)
    loss = jax.jit(lambda b: MaskedLM().loss(bound(typed, own), b, {}, KEY)[0])
    zero = batch | {"types": 0 * batch["tokens"]}
    assert loss(batch) == loss(zero) != loss(zero | {"types": zero["types"] + 2})


def test_what_cannot_be_trained_is_refused(model):
    with pytest.raises(UserError, match="@Llama"):
        MaskedLM().init(KEY, small_model())
    with pytest.raises(UserError, match="no mask piece"):
        MaskedLM().init(KEY, build(model.config, V))
    assert MaskedLM().init(KEY, model) == ({}, {})
    with pytest.raises(UserError, match=r"Corruption\.rate = 0"):
        Corruption(rate=0)
    with pytest.raises(UserError, match=r"Corruption\.mask = 0\.95"):
        Corruption(mask=0.95)
    with pytest.raises(UserError, match="no ordinary pieces"):
        corrupt(KEY, jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), jnp.int32), Corruption(), np.ones(V, bool), MASK)


def test_groups_of_positions_are_those_of_the_mesh():
    """Twelve rows on eight devices, of which four divide rows: three rows form a group, not all twelve."""
    assert masked_lm._groups(12, 512) == 1
    assert masked_lm._groups(12, 4096) == 6 and masked_lm._groups(12, 4097) == masked_lm._groups(12, 9999) == 12
    if jax.device_count() != 8:
        pytest.skip("needs the 8 simulated devices of tests/conftest.py")
    with jax.set_mesh(make_mesh((2, 2, 2))):
        assert masked_lm._groups(12, 512) == 4


@pytest.mark.parametrize("exact", [False, True])
def test_one_device_equals_eight(model, params, exact):
    assert_same_on_eight_devices(MaskedLM(Corruption(rate=0.5, exact=exact)), model, params, mlm_batch(8))
