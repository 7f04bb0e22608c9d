"""CAMLM's table of classes leaks nothing, exactly. BTMLM reads the pseudo tokens that its first pass writes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import V, assert_same_on_eight_devices, bound, loss_of

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models import attention
from xalign_jax.models.bert import Bert
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.btmlm import BTMLM
from xalign_jax.objectives.camlm import CAMLM, cross_attention
from xalign_jax.objectives.parts.corruption import Corruption

SPECIAL = np.arange(V) < 5
MASK, KEY = 4, jax.random.key(3)
LAYERS, T = 2, 20
RATE = Corruption(rate=0.4)


def model_of(shape=XLMRoberta, layers=LAYERS, **settings):
    return build(shape(layers, 16, 2, 32, 64, init_std=0.2), V, special=SPECIAL, mask_id=MASK, **settings)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}


def pairs(rows: int):
    """Rows of "bos x eos y eos" twice, x and y of 4 and 3 tokens, and two places of padding."""
    rng = np.random.default_rng(0)
    segments = np.repeat([1, 2, 0], [9, 9, 2])[None].repeat(rows, 0)
    language = np.tile(np.repeat([0, 1, 0, 1, -1], [5, 4, 5, 4, 2]), (rows, 1))
    tokens = np.where(segments > 0, rng.integers(5, V, (rows, T)), 0)
    tokens[:, [0, 9]], tokens[:, [4, 8, 13, 17]] = 3, 1
    positions = np.where(segments > 0, np.arange(T) - np.where(segments == 2, 9, 0), 0)
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments, "token_language": language}
    return {name: array.astype(np.int32) for name, array in batch.items()}


def table(batch, chosen):
    """The table of the module, entry by entry."""
    seen = np.zeros((len(chosen), T, T), bool)
    for b, q, k in np.ndindex(seen.shape):
        if batch["segment_ids"][b, q] == batch["segment_ids"][b, k]:
            same = batch["token_language"][b, q] == batch["token_language"][b, k]
            seen[b, q, k] = q == k or (not chosen[b, k] and (same != chosen[b, q]))
    return seen


def test_the_loss_is_the_cross_entropy_under_the_table(model, params):
    batch, objective = pairs(4), CAMLM(RATE)
    total, metrics, state = loss_of(objective, model, params, {}, batch, KEY)
    found = jax.device_get(jax.jit(lambda b: objective.corrupted(model, b, KEY))(batch))
    seen = table(batch, found["chosen"])
    np.testing.assert_array_equal(cross_attention(batch["segment_ids"], batch["token_language"], found["chosen"]), seen)

    @jax.jit
    def dense(own):
        inputs = Inputs(found["tokens"], batch["positions"], batch["segment_ids"], seen=jnp.asarray(seen))
        h = model.bind(own).hidden(inputs, levels=(LAYERS,))[LAYERS]
        logits = model.bind(own).head_input(h) @ model.bind(own).head_weight().T + model.bind(own).head_bias()
        return jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], 2)[..., 0]

    at_target = jax.device_get(dense(params["model"]))
    np.testing.assert_allclose(total, -at_target[found["chosen"]].sum(), rtol=1e-5)
    assert objective.count(model, batch, KEY) == found["chosen"].sum() > 0
    assert metrics["count_blind"] == (found["chosen"] & (seen.sum(2) == 1)).sum() and state == {}


@pytest.mark.parametrize(
    "kind", ["plain", "blocks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bfloat16", "bert"))]
)
def test_no_gradient_reaches_the_side_of_the_masked_token_exactly(kind, monkeypatch):
    if kind == "blocks":
        monkeypatch.setattr(attention, "QUERIES_CPU", 8)
    settings = {"blocks": {"remat": True, "chunks": 2}, "bfloat16": {"dtype": jnp.bfloat16}}.get(kind, {})
    model = model_of(Bert if kind == "bert" else XLMRoberta, **settings)
    batch = pairs(2)
    chosen = np.zeros((2, T), bool)
    chosen[:, [1, 3, 6, 10, 15, 16]] = True
    tokens = np.where(chosen, MASK, batch["tokens"])
    seen = cross_attention(batch["segment_ids"], batch["token_language"], chosen)

    def loss(shift, query):
        """The cross-entropy of one token of both rows, where the embeddings are shifted by (2,T,width)."""
        own = model.bind(weights)
        inputs = Inputs(tokens, batch["positions"], batch["segment_ids"], seen=seen)
        edit = {0: lambda x: x + shift[: len(x)].astype(x.dtype)}  # parts of one row are shifted alike
        logits = own.head_input(own.hidden(inputs, levels=(LAYERS,), edit=edit)[LAYERS][:, query]) @ own.head_weight().T
        return -jax.nn.log_softmax(logits.astype(jnp.float32))[:, 9].sum()

    weights = jax.jit(model.init)(jax.random.key(0))
    gradient = jax.jit(jax.grad(loss))
    for query in (1, 6, 15):
        found = np.asarray(gradient(jnp.zeros((2, T, 16)), query))
        reaches = np.abs(found).max(2) > 0
        # Directly and through all layers: the other side's visible tokens, and the token itself.
        own, same = batch["token_language"][0] == batch["token_language"][0, query], batch["segment_ids"][0]
        expected = (same == same[query]) & ~chosen[0] & ~own
        expected[query] = True
        np.testing.assert_array_equal(reaches.any(0), expected)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [CAMLM(RATE), BTMLM(RATE, pseudo=4)])
def test_the_same_on_eight_devices(objective):
    model = model_of(layers=1)
    params = {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}
    assert_same_on_eight_devices(objective, model, params, pairs(8))


@pytest.mark.slow
@pytest.mark.parametrize("objective", [CAMLM(RATE), BTMLM(RATE, pseudo=4)])
def test_the_same_in_parts(objective, params):
    """`Runtime.accumulate`: the rows go through the model in two parts."""
    batch, gradients = pairs(4), []
    for chunks in (1, 2):
        model = model_of(chunks=chunks)
        gradient = jax.grad(lambda p, m=model: objective.loss(bound(m, p), batch, {}, KEY)[0])
        gradients.append(jax.jit(gradient)(params))
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_fused_kernel_never_reads_a_rule(monkeypatch):
    """The kernel reads segments and order, not the mask, and would show everything in a segment."""

    class Called(Exception):
        pass

    def kernel(*arrays, **settings):
        raise Called

    monkeypatch.setattr(attention, "fits", lambda query, key: True)
    monkeypatch.setattr(attention, "attend_fused", kernel)
    x = jnp.ones((1, 4, 2, 8))
    plain = attention.mutual_context(jnp.ones((1, 4), jnp.int32))
    with pytest.raises(Called):
        jax.eval_shape(lambda x: attention.attend(x, x, x, plain), x)
    ruled = plain.limited(jnp.eye(4, dtype=bool)[None])
    assert jax.eval_shape(lambda x: attention.attend(x, x, x, ruled), x).shape == x.shape


def test_a_row_without_a_partner_sees_itself_and_is_counted(model, params):
    batch, objective = pairs(4), CAMLM(RATE)
    batch["token_language"] = np.zeros_like(batch["token_language"])
    total, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    assert np.isfinite(total) and metrics["count_blind"] == objective.count(model, batch, KEY) > 0
    with pytest.raises(UserError, match=r"@CAMLM\(\): it reads pairs; bind a TranslationFeed"):
        CAMLM().check(model, {"tokens": batch["tokens"]})


def test_pseudo_tokens_are_the_best_of_the_first_pass_and_constants_of_the_second():
    model = model_of(layers=1)
    params = {"model": jax.jit(model.init)(jax.random.key(0)), "heads": {}}
    batch, objective = pairs(4), BTMLM(Corruption(rate=0.4), pseudo=5)
    found = jax.device_get(jax.jit(lambda b: objective.corrupted(model, b, KEY))(batch))
    inputs = objective.extended(model, batch)
    np.testing.assert_array_equal(inputs.segment_ids[:, T:], np.tile([1, 2, 1, 2, 1], (4, 1)))
    np.testing.assert_array_equal(inputs.positions[:, T:], np.tile([9, 9, 10, 10, 11], (4, 1)))
    assert (objective.extended(model, batch | {"segment_ids": 0 * batch["segment_ids"]}).segment_ids == 0).all()
    restarted = BTMLM(pseudo=5, restart=True).extended(model, batch).positions
    np.testing.assert_array_equal(restarted[0, T:], [0, 0, 1, 1, 2])

    @jax.jit
    def first(own):
        # The plain form: each placeholder alone behind its text.
        best = []
        for j in range(5):
            keep = np.r_[0:T, T + j]
            alone = Inputs(*(column[:, keep] for column in inputs[:3]), seen=inputs.seen[:, keep][:, :, keep])
            h = own.head_input(own.hidden(alone, levels=(1,))[1][:, T]) @ own.head_weight().T + own.head_bias()
            best.append(jnp.argmax(jnp.where(SPECIAL, -jnp.inf, h), 1))
        return jnp.stack(best, 1)

    pseudo = first(model.bind(params["model"]))

    def second(own):
        tokens = np.concatenate([found["tokens"], pseudo], 1)
        h = model.bind(own).hidden(Inputs(tokens, *inputs[1:3]), levels=(1,))[1][:, :T]
        logits = model.bind(own).head_input(h) @ model.bind(own).head_weight().T + model.bind(own).head_bias()
        at_target = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][..., None], 2)[..., 0]
        return -jnp.sum(at_target, where=found["chosen"])

    expected, expected_gradient = jax.jit(jax.value_and_grad(second))(params["model"])
    (total, metrics), gradient = jax.jit(
        jax.value_and_grad(lambda p: objective.loss(bound(model, {"model": p}), batch, {}, KEY)[:2], has_aux=True)
    )(params["model"])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert metrics["pseudo_distinct"] == len(np.unique(pseudo)) / pseudo.size
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_rows_that_are_too_long_and_typed_rows_are_refused(model):
    batch = pairs(2)
    with pytest.raises(
        UserError, match=r"BTMLM\.pseudo = 60: rows of 20 tokens would have 80, more than XLMRoberta\.max"
    ):
        BTMLM(pseudo=60).check(model, batch)
    with pytest.raises(UserError, match="pseudo tokens have no language"):
        BTMLM().check(model, batch | {"types": batch["tokens"]})
    with pytest.raises(UserError, match=r"BTMLM\.pseudo = 0"):
        BTMLM(pseudo=0)
