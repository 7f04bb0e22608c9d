"""Translation ranking."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import bound, loss_of
from sentence_cases import KEY, R, S, sentence_batch, sentence_model, vectors

from xalign_jax.errors import UserError
from xalign_jax.objectives.parts.sentences import side
from xalign_jax.objectives.translation_ranking import TranslationRanking


@pytest.fixture(scope="module")
def model():
    return sentence_model()


def test_translation_ranking_is_labse_s_formula(model):
    batch = sentence_batch()
    objective = TranslationRanking(temperature=0.1, margin=0.3)
    params = {"model": jax.jit(model.init)(KEY), "heads": {}}
    x, y = (np.asarray(vectors(model, params["model"], side(batch, w), level=2))[:-1] for w in ("", "key_"))
    cosine = (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
    logits = (cosine - 0.3 * np.eye(len(x))) / 0.1
    expected = sum(np.sum(np.log(np.exp(s).sum(1)) - np.diag(s)) for s in (logits, logits.T))
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["positive_cosine"], np.diag(cosine).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["mean_cosine"], cosine.mean(), rtol=1e-4)
    right = [np.diag(c) > np.where(np.eye(len(x)), -9, c).max(1) for c in (cosine, cosine.T)]
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-6)
    after = dataclasses.replace(objective, level=2, margin_after_temperature=True)
    shifted = [c / 0.1 - 0.3 * np.eye(len(x)) for c in (cosine, cosine.T)]
    expected_after = sum(np.sum(np.log(np.exp(s).sum(1)) - np.diag(s)) for s in shifted)
    np.testing.assert_allclose(loss_of(after, model, params, {}, batch, KEY)[0], expected_after, rtol=1e-5)
    assert loss_of(dataclasses.replace(after, level=1), model, params, {}, batch, KEY)[0] != expected_after
    assert objective.count(model, batch, KEY) == R * S - 1
    one_way = loss_of(dataclasses.replace(objective, both_directions=False), model, params, {}, batch, KEY)[0]
    np.testing.assert_allclose(one_way, np.sum(np.log(np.exp(logits).sum(1)) - np.diag(logits)), rtol=1e-5)


def test_several_positives_are_labse_s_sum_over_all_translations(model):
    """Whole groups of 2, 4 and 5 sentences: a dense form with every translation as a positive."""
    batch = {name: array for name, array in sentence_batch().items() if not name.startswith("key_")}
    own = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1])
    text = np.arange(12, dtype=np.uint32)
    text[1], text[7] = 50, 50  # a sentence of group 2 reads like one of group 0: neither group repels it
    batch |= {"group": jnp.asarray(own.reshape(R, S, 1), jnp.int32), "text": jnp.asarray(text.reshape(R, S, 1))}
    objective = TranslationRanking(temperature=0.1, margin=0.3)
    params = {"model": jax.jit(model.init)(KEY), "heads": {}}
    x = np.asarray(vectors(model, params["model"], side(batch, ""), level=2), np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-30
    expected, pairs = 0.0, 0
    for a in range(11):
        others = [b for b in range(11) if b != a]
        translations = [p for p in others if own[p] == own[a]]
        known = {text[a], *(text[p] for p in translations)}
        candidates = [b for b in others if b in translations or text[b] not in known]
        logit = {b: (x[a] @ x[b] - 0.3 * (b in translations)) / 0.1 for b in candidates}
        normaliser = np.log(sum(np.exp(value) for value in logit.values()))
        expected += sum(normaliser - logit[p] for p in translations)
        pairs += len(translations)
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert objective.count(model, batch, KEY) == pairs == 2 * 1 + 4 * 3 + 5 * 4
    positive = [x[a] @ x[p] for a in range(11) for p in range(11) if p != a and own[p] == own[a]]
    np.testing.assert_allclose(metrics["positive_cosine"], np.mean(positive), rtol=1e-4)
    grad = jax.grad(lambda p: objective.loss(bound(model, p), batch, {}, KEY)[0])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    # One pass over the sentences instead of two.
    assert objective.flops(model, batch) < objective.flops(model, sentence_batch())


def test_documents_of_several_sentences_are_refused(model):
    objective = TranslationRanking()
    objective.check(model, {"group": np.zeros((2, 3, 1))})
    objective.check(model, {"group": np.zeros((2, 3, 2)), "key_tokens": np.zeros((2, 8))})
    with pytest.raises(UserError, match=r"@TranslationRanking\(\): it compares sentences"):
        objective.check(model, {"group": np.zeros((2, 3, 2))})
