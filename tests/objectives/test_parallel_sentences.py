"""Parallel sentences: the two-way head is its formula, on pairs of which the group ids say who translates whom."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of, small_model
from sentence_cases import KEY, R, S, T, sentence_batch, sentence_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.parallel_sentences import HEAD, ParallelSentences


def pairs_batch(seed=0):
    """Rows of three segments; the groups of both texts are equal in every other slot. One slot is empty."""
    batch = {name: array for name, array in sentence_batch(seed).items() if not name.startswith("key_")}
    first = np.asarray(batch["group"])[..., 0]
    second = np.where(np.arange(R * S).reshape(R, S) % 2, first, first + 100)
    return batch | {"group": np.stack([first, np.where(first < 0, -1, second)], axis=-1)}


def with_head(objective, model, params):
    """Parameters with a head whose biases are not 0."""
    head = objective.init(KEY, model)[0][HEAD]
    return params | {"heads": {HEAD: {n: a + 0.3 * jax.random.normal(KEY, a.shape) for n, a in head.items()}}}


@pytest.mark.parametrize("level", [1, None])
def test_the_loss_is_the_cross_entropy_of_a_two_way_head(model, params, level):
    objective, batch = ParallelSentences(level), pairs_batch()
    params = with_head(objective, model, params)
    states = jax.jit(lambda p: bound(model, p).hidden(Inputs.of(batch), levels=(level or 2,))[level or 2])(params)
    head = {name: np.asarray(array, np.float64) for name, array in params["heads"][HEAD].items()}
    terms, right = [], []
    for row in range(R):
        for slot in range(S):
            one, other = batch["group"][row, slot]
            if one >= 0:
                h = np.asarray(states, np.float64)[row, slot * T // S]
                logits = np.tanh(h @ head["dense"] + head["dense_bias"]) @ head["out"] + head["out_bias"]
                terms.append(np.log(np.exp(logits).sum()) - logits[int(one == other)])
                right.append(logits.argmax() == (one == other))
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, sum(terms), rtol=1e-5)
    assert objective.count(model, batch, KEY) == len(terms) == R * S - 1
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-6)
    np.testing.assert_allclose(metrics["parallel"], 5 / (R * S - 1), rtol=1e-6)


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    parts = [pairs_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    objective = ParallelSentences(2)
    assert_same_on_eight_devices(objective, model, with_head(objective, model, params), batch)


@pytest.mark.slow
def test_gradients_are_equal_when_rows_go_in_parts(model, params):
    objective, batch = ParallelSentences(2), pairs_batch()
    params = with_head(objective, model, params)

    def gradient(network):
        return jax.jit(jax.grad(lambda p: objective.loss(bound(network, p), batch, {}, KEY)[0]))(params)

    whole, parts = gradient(model), gradient(sentence_model(chunks=2))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), whole, parts)


def test_models_and_batches_that_do_not_suit_are_refused(model):
    with pytest.raises(UserError, match=r"ParallelSentences.level = 3: the model has levels 0 to 2"):
        ParallelSentences(3).init(KEY, model)
    with pytest.raises(UserError, match=r"a causal model's first token has seen no other"):
        ParallelSentences().init(KEY, small_model())
    plain = {name: array for name, array in pairs_batch().items() if name != "group"}
    for batch in (plain, sentence_batch(), plain | {"group": np.zeros((R, S, 1))}):
        with pytest.raises(UserError, match=r"bind a TranslationFeed with TranslationFeed.mismatched = 0.5"):
            ParallelSentences().check(model, batch)
