"""The passes that probes share, compared with numpy on a model whose states are rows of tables."""

from __future__ import annotations

import types

import numpy as np
import pytest

from xalign_jax.alignment.neighbours import best, cosines, neighbours, unit
from xalign_jax.errors import UserError
from xalign_jax.evaluation import encode

SEQUENCES = [np.arange(10, 10 + n, dtype=np.int32) for n in (3, 1, 7, 5, 2)]


@pytest.fixture
def bigram(toy, tokenizer):
    """A model of two layers, its states by level (3, V, D), and its head rows."""
    embedding, head = np.random.default_rng(0).normal(size=(2, tokenizer.size, 4)).astype(np.float32)
    params = toy.params(embedding, head, layers=2)
    params["layers"] = params["layers"] * np.array([2.0, 3.0], np.float32)[:, None, None]
    return toy.model(tokenizer.size, 4, layers=2), params, np.stack([embedding, 2 * embedding, 6 * embedding]), head


def test_windows_may_be_as_long_as_the_model_and_no_longer():
    model = types.SimpleNamespace(max_length=64)
    encode.require_length(model, "Probe", 64)
    with pytest.raises(UserError, match=r"Probe\.length = 65: longer than the model's max_length = 64"):
        encode.require_length(model, "Probe", 65)


@pytest.mark.parametrize(("total", "expected"), [(5, [2, 2, 1]), (4, [2, 2]), (1, [1])])
def test_batches_have_one_shape_and_say_how_many_rows_are_real(total, expected):
    arrays = {"a": np.arange(total), "b": np.arange(total) * 10}
    found = list(encode.batches(arrays, 2, "test"))
    assert [real for _, real in found] == expected
    assert all(len(cut["a"]) == 2 and (cut["b"] == 10 * cut["a"]).all() for cut, _ in found)
    assert np.concatenate([cut["a"][:real] for cut, real in found]).tolist() == list(range(total))
    assert found[-1][0]["a"][-1] == total - 1  # filled with the last row


def test_sequences_are_padded_and_cut():
    found = encode.padded(SEQUENCES[:3], 4)
    assert found["tokens"].tolist() == [[10, 11, 12, 0], [10, 0, 0, 0], [10, 11, 12, 13]]
    assert found["segment_ids"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert found["positions"].tolist() == [[0, 1, 2, 3]] * 3
    assert all(array.dtype == np.int32 for array in found.values())
    assert encode.padded([], 4)["tokens"].shape == (0, 4)


def test_head_rows_are_means_over_a_sequences_tokens(bigram):
    model, params, _, head = bigram
    expected = np.stack([head[sequence[:6]].mean(0) for sequence in SEQUENCES])
    np.testing.assert_allclose(encode.pool_head(model.bind(params), SEQUENCES, 6, 2), expected, rtol=1e-5, atol=1e-6)


def test_text_vectors_of_a_causal_model_are_means_and_first_tokens(bigram, tokenizer):
    model, params, states, _ = bigram
    found = encode.text_vectors(model.bind(params), tokenizer, SEQUENCES, 6, 2, "test")
    expected = np.stack([[level[ids[:6]].mean(0) for ids in SEQUENCES] for level in states])
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["first"], np.stack([level[[10] * 5] for level in states]), rtol=1e-6)


def test_a_language_mean_is_over_tokens_and_not_over_windows(bigram):
    model, params, states, _ = bigram
    windows = encode.padded(SEQUENCES, 8)
    windows |= {"targets": np.zeros((5, 8), np.int32), "own": windows["segment_ids"] > 0}
    expected = states[:, np.concatenate(SEQUENCES)].mean(1)
    found = encode.language_means(model.bind(params), windows, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_scores_are_of_every_row_whatever_the_batch(bigram, monkeypatch):
    model, params, states, head = bigram
    monkeypatch.setattr(encode, "LOGITS_AT_ONCE", 3 * model.vocabulary_size)
    arrays = encode.padded(SEQUENCES, 8)
    arrays["targets"] = np.roll(arrays["tokens"], -1, axis=1)
    some = np.arange(model.vocabulary_size) % 3 == 0
    nll, log_mass = encode.score(model.bind(params), arrays, some, 2, "test")
    logits = states[2][arrays["tokens"]] @ head.T
    everything = np.log(np.exp(logits).sum(-1))
    at_target = np.take_along_axis(logits, arrays["targets"][..., None], 2)[..., 0]
    np.testing.assert_allclose(nll, everything - at_target, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_mass, np.log(np.exp(logits[..., some]).sum(-1)) - everything, rtol=1e-4, atol=1e-4)


def test_the_nearest_is_by_angle_and_the_first_of_equals():
    queries = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    candidates = np.array([[5.0, 5.0], [0.1, 0.0], [0.0, 1.0], [0.0, 3.0]])
    for near in (best(cosines(queries, candidates)), neighbours(queries, candidates)):
        assert near.indices[:, 0].tolist() == [1, 2, 0]
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
