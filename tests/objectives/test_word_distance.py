"""The distance of translations' rows: its value on known rows, and equal numbers on eight devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from objective_cases import V, assert_same_on_eight_devices, bound, loss_of, small_model

from xalign_jax.objectives.word_distance import WordDistance

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(KEY), "heads": {}}


def batch(words, concepts):
    """A batch whose rows have one word and one empty slot each."""
    length = max(map(len, words))
    rows = {key: np.zeros((len(words), length), np.int32) for key in ("tokens", "positions", "segment_ids")}
    for r, word in enumerate(words):
        rows["tokens"][r, : len(word)], rows["segment_ids"][r, : len(word)] = word, 1
        rows["positions"][r, : len(word)] = np.arange(len(word))
    nothing = np.full(len(words), -1)
    languages = np.arange(len(words)) % 2
    found = {"concept": np.stack([concepts, nothing], 1), "language": np.stack([languages, 0 * languages], 1)}
    rows["own_tokens"] = np.where(languages[:, None] > 0, rows["segment_ids"], 0)
    return rows | {key: value.astype(np.int32) for key, value in found.items()}


def test_equal_words_have_no_distance_and_opposite_ones_all_of_it(model, params):
    table = np.asarray(params["model"]["embedding"]).copy()
    table[2], table[4] = -table[1], table[3]
    own = {"model": params["model"] | {"embedding": table, "head": table}, "heads": {}}
    for words, expected in (([[1], [2]], 1.0), ([[3], [4]], 0.0), ([[3, 3], [4]], 0.0), ([[1, 2], [1, 2]], 0.0)):
        found = batch(words, [7, 7])
        loss, metrics, _ = loss_of(WordDistance(), model, own, {}, found, KEY)
        assert WordDistance().count(model, found, KEY) == 2
        np.testing.assert_allclose(loss / 2, expected, atol=1e-6)
        np.testing.assert_allclose([metrics["embedding/distance"], metrics["head/distance"]], expected, atol=1e-6)


def test_it_is_the_distance_to_the_mean_of_a_concept(model, params):
    words, concepts = [[1, 2], [3], [4], [5, 6, 7], [8]], [0, 0, 0, 3, 3]
    loss, _, _ = loss_of(WordDistance(), model, params, {}, batch(words, concepts), KEY)
    expected = []
    for table in (np.asarray(params["model"][name]) for name in ("embedding", "head")):
        v = np.stack([table[word].mean(0) for word in words])
        means = [v[:3].mean(0)] * 3 + [v[3:].mean(0)] * 2
        expected.append(((v - means) ** 2).sum() / (v**2).sum(1).mean())
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)


def test_a_language_may_lie_beside_another(model, params):
    table = np.asarray(params["model"]["embedding"]).copy()
    table[[2, 4, 6]] = table[[1, 3, 5]] + np.linspace(-1, 1, table.shape[1])
    own = {"model": params["model"] | {"embedding": table, "head": table}, "heads": {}}
    found = batch([[1], [2], [3], [4], [5], [6]], [0, 0, 1, 1, 2, 2])
    apart, beside = (loss_of(WordDistance(offset), model, own, {}, found, KEY)[0] for offset in (False, True))
    assert apart > 0.1
    np.testing.assert_allclose(beside, 0.0, atol=1e-6)
    table[6] += 1.0  # one word leaves its language's offset
    assert loss_of(WordDistance(True), model, own, {}, found, KEY)[0] > 0.01


def test_anchored_words_stay_and_the_others_come(model, params):
    words, concepts = [[1], [2], [3], [4]], [0, 0, 1, 1]

    def loss(tables, anchored):
        own = {"model": params["model"] | tables, "heads": {}}
        return loss_of(WordDistance(anchored=anchored), model, own, {}, batch(words, concepts), KEY)[0]

    tables = {name: params["model"][name] for name in ("embedding", "head")}
    assert loss(tables, True) == loss(tables, False)
    gradients = [jax.jit(jax.grad(loss), static_argnums=1)(tables, anchored) for anchored in (True, False)]
    for name in tables:
        anchored, free = (np.asarray(gradient[name]) for gradient in gradients)
        assert not anchored[[1, 3]].any() and np.abs(free[[1, 3]]).max() > 0  # odd tokens are the first language's
        np.testing.assert_allclose(anchored[[2, 4]], free[[2, 4]], rtol=1e-6)


def test_a_word_moves_by_the_tokens_that_are_its_languages_own(model, params):
    found = batch([[1], [1, 2]], [0, 0])
    found["own_tokens"][1, 0] = 0  # 1 is the first language's in a word of the second, too

    def loss(table):
        model_params = params["model"] | {"embedding": table, "head": table}
        return WordDistance(anchored=True).loss(bound(model, {"model": model_params}), found, {}, KEY)[0]

    gradient = np.asarray(jax.jit(jax.grad(loss))(params["model"]["embedding"]))
    assert np.flatnonzero(np.abs(gradient).sum(1)).tolist() == [2]


@pytest.mark.parametrize("offset", [False, True])
def test_the_size_of_rows_gets_no_gradient(model, params, offset):
    """The loss is a square over a constant. So its derivative along the rows is twice its value, not 0."""
    found = batch([[1], [2], [3], [4]], [0, 0, 1, 1])
    tables = {name: params["model"][name] for name in ("embedding", "head")}

    def loss(tables):
        return WordDistance(offset).loss(model.bind(params["model"] | tables), found, {}, KEY)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(tables)
    slope = sum(np.sum(gradient[name] * tables[name]) for name in tables)
    assert value > 0.1
    np.testing.assert_allclose(slope, 2 * value, rtol=1e-4)


@pytest.mark.parametrize("offset", [False, True])
def test_eight_devices_equal_one(model, params, offset):
    rng = np.random.default_rng(0)
    words = [rng.integers(1, V, rng.integers(1, 5)) for _ in range(16)]
    assert_same_on_eight_devices(WordDistance(offset), model, params, batch(words, np.arange(16) // 2))
