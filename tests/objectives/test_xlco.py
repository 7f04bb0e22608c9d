"""XlCo, its queue and momentum encoder."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import bound, loss_of, small_model
from sentence_cases import KEY, R, S, sentence_batch, sentence_model, vectors

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.parts import queue as ring
from xalign_jax.objectives.parts.corruption import Corruption
from xalign_jax.objectives.parts.momentum import ConstantMomentum, LinearMomentum, PowerMomentum
from xalign_jax.objectives.parts.sentences import side, swapped
from xalign_jax.objectives.translation_ranking import TranslationRanking
from xalign_jax.objectives.xlco import XlCo


@pytest.fixture(scope="module")
def model():
    return sentence_model()


def _start(objective, model, seed=0):
    params = {"model": jax.jit(model.init)(jax.random.key(seed))}
    heads, memory = objective.init(KEY, model)
    params["heads"] = heads
    if "encoder" in memory:
        memory = memory | {"encoder": jax.tree.map(lambda x: 0.9 * x, params)}
    return params, memory


PLAIN = XlCo(level=1, queue=16, corruption=None)


def test_the_published_form_is_the_formula_over_own_key_and_queue(model):
    batch = sentence_batch()
    params, memory = _start(PLAIN, model)
    past = jax.random.normal(KEY, (16, 16))
    group = jnp.arange(100, 116)[:, None].repeat(2, 1)
    memory["queue"] |= {"keys": past, "group": group, "text": group.astype(jnp.uint32)}
    loss, metrics, after = loss_of(PLAIN, model, params, memory, batch, KEY)
    weights = params["heads"]["xlco"]["projection"], memory["encoder"]["heads"]["xlco"]["projection"]
    q = vectors(model, params["model"], side(batch, "")) @ weights[0]
    k = vectors(model, memory["encoder"]["model"], side(batch, "key_")) @ weights[1]
    q, k = q[:-1], k[:-1]
    own = jnp.sum(q * k, 1, keepdims=True) / 0.25
    expected = jnp.sum(jax.nn.logsumexp(jnp.concatenate([own, q @ past.T / 0.25], 1), 1) - own[:, 0])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert PLAIN.count(model, batch, KEY) == R * S - 1
    np.testing.assert_allclose(after["queue"]["keys"][: R * S - 1], k, rtol=1e-5)
    np.testing.assert_array_equal(after["queue"]["keys"][R * S - 1 :], past[R * S - 1 :])
    assert metrics["queue_norm"] > 0


def _rows_of(model, params, batch, which, pooling="first"):
    """The projected vectors of one side without the absent last item."""
    return (
        vectors(model, params["model"], side(batch, which), pooling=pooling) @ params["heads"]["xlco"]["projection"]
    )[:-1]


def test_metrics_are_of_all_pairs_of_the_batch_and_cosines_are_of_unit_vectors(model):
    batch = sentence_batch()
    objective = dataclasses.replace(PLAIN, negatives="both", cosine=True, momentum=None, pooling="mean")
    params, memory = _start(objective, model)
    past = 3 * jax.random.normal(KEY, (16, 16))
    memory["queue"] |= {"keys": past, "group": jnp.arange(100, 132).reshape(16, 2)}
    loss, metrics, _ = loss_of(objective, model, params, memory, batch, KEY)
    q, k = (_rows_of(model, params, batch, which, "mean") for which in ("", "key_"))
    q, k = (np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True)) for x in (q, k))
    cosine, others = q @ k.T, q @ np.asarray(past).T
    logits = np.concatenate([cosine, others], 1) / 0.25
    np.testing.assert_allclose(loss, np.sum(np.log(np.exp(logits).sum(1)) - np.diag(logits)), rtol=1e-5)
    right = np.diag(cosine) > np.where(np.eye(len(q)), -9, logits[:, : len(q)] * 0.25).max(1)
    right &= np.diag(cosine) > others.max(1)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["positive_similarity"], np.diag(cosine).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_similarity"], cosine.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["queue_norm"], np.sqrt(np.sum(np.square(past), 1).mean()), rtol=1e-5)


def test_vectors_are_first_states_or_means_over_a_segments_tokens_that_are_not_special(model):
    batch, params = sentence_batch(), {"model": jax.jit(model.init)(KEY)}
    batch |= {"tokens": batch["tokens"].at[0, 1].set(1)}  # one token is left to the first segment
    found, first = (
        np.asarray(vectors(model, params["model"], side(batch, ""), pooling=name)).reshape(R, S, -1)
        for name in ("mean", "first")
    )
    states = jax.jit(lambda b: model.bind(params["model"]).hidden(Inputs.of(b), levels=(1,))[1])(batch)
    states = np.array(states).reshape(R, S, 4, -1)  # bos x x eos
    states[3, 2] = 0  # absent
    expected = states[:, :, 1:3].mean(2)
    expected[0, 0] = states[0, 0, 2]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first, states[:, :, 0], rtol=1e-4, atol=1e-6)


def test_both_views_are_corrupted_each_by_its_own_key(model):
    """If every ordinary token is masked, the vectors are known. If half of them are, two equal sides differ."""
    batch = sentence_batch()
    params, memory = _start(PLAIN, model)
    masked = {name: jnp.where(batch[name] >= 5, 4, batch[name]) for name in ("tokens", "key_tokens")}
    all_of_them = dataclasses.replace(PLAIN, corruption=Corruption(rate=1.0, mask=1.0, random=0.0))
    found, _, after = loss_of(all_of_them, model, params, memory, batch, KEY)
    expected, _, queue = loss_of(PLAIN, model, params, memory, batch | masked, KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(after["queue"]["keys"], queue["queue"]["keys"], rtol=1e-5, atol=1e-7)
    half = dataclasses.replace(PLAIN, pooling="mean", momentum=None, cosine=True, both_directions=True, queue=32)
    half = dataclasses.replace(half, corruption=Corruption(rate=0.5, mask=1.0, random=0.0))
    same = batch | {"key_" + name: batch[name] for name in ("tokens", "positions", "segment_ids", "text")}
    _, metrics, after = loss_of(half, model, params, half.init(KEY, model)[1], same, KEY)
    assert metrics["positive_similarity"] < 0.99
    first, second = (after["queue"]["keys"][n * 11 : n * 11 + 11] for n in (0, 1))
    assert jnp.abs(first - second).max() > 0.01  # each direction draws anew


def test_no_gradient_reaches_the_key_encoder_or_the_queue_and_true_ones_the_rest(model):
    batch = sentence_batch()
    for momentum, own_keys in ((None, True), (ConstantMomentum(), False)):
        objective = dataclasses.replace(PLAIN, negatives="both", momentum=momentum)
        params, memory = _start(objective, model)
        floats = {name: value for name, value in memory.items() if name in ("encoder",)}

        def loss(p, floats, objective=objective, memory=memory):
            return objective.loss(bound(model, p), batch, memory | floats, KEY)[0]

        grads, into_memory = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, floats)
        assert jnp.abs(grads["heads"]["xlco"]["projection"]).max() > 0
        assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(into_memory))
        key_only = jnp.setdiff1d(batch["key_tokens"], batch["tokens"])
        assert bool(jnp.any(grads["model"]["embedding"][key_only] != 0)) == own_keys


def test_group_and_text_take_a_key_out_of_batch_and_queue(model):
    batch = sentence_batch()
    objective = dataclasses.replace(PLAIN, negatives="both", queue=16)
    params, memory = _start(objective, model)
    alone = dataclasses.replace(PLAIN, negatives="queue")
    same = batch | {"group": jnp.where(batch["group"] >= 0, 5, -1)}
    assert float(loss_of(objective, model, params, memory, same, KEY)[0]) == pytest.approx(0.0, abs=1e-4)
    _, _, after = loss_of(alone, model, params, memory, batch, KEY)  # now the queue holds this batch's own keys
    assert float(loss_of(alone, model, params, after, batch, KEY)[0]) > 1.0
    assert float(loss_of(alone, model, params, after, same | {"key_text": batch["key_text"]}, KEY)[0]) > 0.0
    one_text = batch | {"key_text": jnp.ones_like(batch["key_text"])}
    _, _, after = loss_of(alone, model, params, memory, one_text, KEY)
    assert float(loss_of(alone, model, params, after, one_text, KEY)[0]) == pytest.approx(0.0, abs=1e-4)


def test_another_translation_of_the_same_sentence_is_no_negative(model):
    """In English-centred corpora, several items have one English sentence, in the batch and in the queue."""
    batch = sentence_batch()
    repeated = batch | {"text": jnp.ones_like(batch["text"])}  # one sentence, translated otherwise each time
    params, memory = _start(PLAIN, model)
    _, _, after = loss_of(PLAIN, model, params, memory, repeated, KEY)
    other = repeated | {"group": jnp.where(batch["group"] >= 0, batch["group"] + 500, -1)}
    other |= {"key_text": batch["key_text"] + jnp.uint32(1)}
    both = dataclasses.replace(PLAIN, negatives="both")
    for views in (other, swapped(other)):
        assert float(loss_of(both, model, params, after, views, KEY)[0]) == pytest.approx(0.0, abs=1e-4)
    distinct = other | {"text": batch["text"] + jnp.uint32(1)}
    assert float(loss_of(both, model, params, after, distinct, KEY)[0]) > 1.0
    ranking = TranslationRanking(temperature=0.1)
    heads = {"model": params["model"], "heads": {}}
    assert float(loss_of(ranking, model, heads, {}, other, KEY)[0]) == pytest.approx(0.0, abs=1e-4)


def test_mixup_rows_carry_two_groups(model):
    batch = sentence_batch(parts=2)
    params, memory = _start(PLAIN, model)
    _, _, after = loss_of(PLAIN, model, params, memory, batch, KEY)
    np.testing.assert_array_equal(after["queue"]["group"][: R * S - 1], batch["group"].reshape(-1, 2)[:-1])
    second = batch | {"group": jnp.where(batch["group"] >= 0, batch["group"].at[..., 0].set(999), -1)}
    only_second = loss_of(PLAIN, model, params, after, second, KEY)[0]
    assert np.isfinite(only_second) and only_second < loss_of(PLAIN, model, params, after, batch | {"group": batch["group"] + 500}, KEY)[0]  # fmt: skip


def test_both_directions_sum_and_push_both_sides(model):
    batch = sentence_batch()
    both = dataclasses.replace(PLAIN, both_directions=True, queue=32)
    params, memory = _start(both, model)
    loss, _, after = loss_of(both, model, params, memory, batch, KEY)
    single = dataclasses.replace(both, both_directions=False)
    parts = [loss_of(single, model, params, memory, b, KEY)[0] for b in (batch, swapped(batch))]
    np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)
    assert _filled(after["queue"]) == 2 * (R * S - 1) == both.count(model, batch, KEY)


def _filled(queue):
    """The number of places that hold a key."""
    return int(jnp.sum(queue["group"][:, 0] >= 0))


def test_the_queue_is_a_ring_of_present_keys():
    queue = ring.empty(5, 2)
    for start in (0, 3):
        keys = jnp.arange(start, start + 4.0)[:, None].repeat(2, 1)
        group = jnp.array([start, -1, start + 2, start + 3])[:, None]
        queue = ring.push(queue, keys, group, group.astype(jnp.uint32))
    assert queue["keys"][:, 0].tolist() == [6, 2, 3, 3, 5]
    assert queue["group"][:, 0].tolist() == [6, 2, 3, 3, 5]
    assert queue["group"][:, 1].tolist() == [-1] * 5  # no second part
    assert int(queue["next"]) == 1 and _filled(queue) == 5


def test_prefill_copies_the_parameters_and_fills_from_the_first_batches(model):
    objective = dataclasses.replace(PLAIN, queue=30)
    params, memory = _start(objective, model)
    memory = objective.prefill(bound(model, params), memory, (sentence_batch(seed) for seed in range(100)), KEY)
    jax.tree.map(np.testing.assert_array_equal, memory["encoder"], params)
    assert _filled(memory["queue"]) == 30
    k = vectors(model, params["model"], side(sentence_batch(1), "key_"))
    found = memory["queue"]["keys"][11:22]
    np.testing.assert_allclose(found, (k @ params["heads"]["xlco"]["projection"])[:-1], rtol=1e-4, atol=1e-6)
    empty = sentence_batch(absent=[(r, s) for r in range(R) for s in range(S)])
    with pytest.raises(UserError, match="holds no pair"):
        objective.prefill(bound(model, params), _start(objective, model)[1], iter([empty]), KEY)
    loss = loss_of(objective, model, params, memory, empty, KEY)[0]
    assert loss == 0 and objective.count(model, empty, KEY) == 0


def test_a_queue_that_is_full_reads_no_further_batch(model):
    """A batch has 11 keys. Without a projection they are the encoder's own vectors."""
    objective = dataclasses.replace(PLAIN, queue=22, projection=False)
    params, memory = _start(objective, model)
    assert params["heads"] == {} == memory["encoder"]["heads"]
    read = []
    memory = objective.prefill(
        bound(model, params), memory, (read.append(n) or sentence_batch(n) for n in range(9)), KEY
    )
    assert read == [0, 1] and _filled(memory["queue"]) == 22
    expected = np.concatenate([vectors(model, params["model"], side(sentence_batch(n), "key_"))[:-1] for n in read])
    np.testing.assert_allclose(memory["queue"]["keys"], expected, rtol=1e-4, atol=1e-6)


def test_the_key_encoder_follows_the_optimised_parameters(model):
    objective = dataclasses.replace(PLAIN, momentum=LinearMomentum(0.5, 1.0, 2))
    params, memory = _start(objective, model)
    old = memory["encoder"]["model"]["embedding"]
    after_update = jax.jit(objective.after_update)
    now = bound(model, params)
    moved = after_update(now, memory)
    np.testing.assert_allclose(
        moved["encoder"]["model"]["embedding"], 0.5 * old + 0.5 * params["model"]["embedding"], rtol=1e-6
    )
    again = after_update(now, after_update(now, moved))
    assert int(again["updates"]) == 3
    third = after_update(now, moved)  # 0.75 of the old, then 1: it stays
    jax.tree.map(np.testing.assert_array_equal, again["encoder"], third["encoder"])
    assert [float(PowerMomentum(1.0).at(jnp.int32(t))) for t in (0, 1, 3)] == [0.0, 0.5, 0.75]
    assert float(ConstantMomentum(0.25).at(jnp.int32(9))) == 0.25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": 3}, "levels 0 to 2"),
        ({"pooling": "middle"}, "first, mean, last"),
    ],
)
def test_what_the_model_lacks_is_refused(model, change, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(PLAIN, **change).init(KEY, model)


def test_the_first_token_of_a_causal_model_is_refused():
    for objective in (PLAIN, TranslationRanking()):
        with pytest.raises(UserError, match=r"pooling = 'first': a causal model"):
            objective.init(KEY, small_model())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"negatives": "all"}, "XlCo.negatives"),
        ({"negatives": "batch"}, "XlCo.queue = 131072"),
        ({"temperature": 0.0}, "XlCo.temperature"),
        ({"momentum": 0.999}, "XlCo.momentum = 0.999"),
        ({"corruption": 0.15}, "XlCo.corruption = 0.15"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        XlCo(level=1, **values)


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_shares_of_momentum_lie_between_0_and_1(bad):
    for settings in ({"first": bad}, {"last": bad}, {"steps": 0}):
        with pytest.raises(UserError, match=r"LinearMomentum\.(first|last|steps) = "):
            LinearMomentum(**settings)
    with pytest.raises(UserError, match=r"ConstantMomentum\.value"):
        ConstantMomentum(bad)
    with pytest.raises(UserError, match=r"PowerMomentum\.exponent"):
        PowerMomentum(0.0)
    for share in (0.0, 1.0):
        assert ConstantMomentum(share).at(jnp.int32(0)) == share == LinearMomentum(share, share, 1).at(jnp.int32(3))


def test_a_step_fits_the_queue_exactly(model):
    for both, slots in ((False, 16), (True, 8)):
        objective = dataclasses.replace(PLAIN, both_directions=both)
        objective.check(model, {"group": np.zeros((slots, 1, 1))})
        with pytest.raises(UserError, match=r"XlCo\.queue = 16: smaller"):
            objective.check(model, {"group": np.zeros((slots + 1, 1, 1))})
    dataclasses.replace(PLAIN, queue=0, negatives="batch").check(model, {"group": np.zeros((99, 1, 1))})
