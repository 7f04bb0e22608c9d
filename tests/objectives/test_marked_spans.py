"""Marked spans: runs of linked tokens become answers, the loss is its formula, and the best span is the one of a search."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marked_cases import ROWS, T, marked_batch, with_head
from objective_cases import bound, loss_of
from sentence_cases import KEY

from xalign_jax.alignment.spans import HEAD, answers, best_spans
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.marked_spans import MarkedSpans


def runs(linked):
    """[(first, last)] of the linked tokens that stand side by side; (0, 0) if none is linked."""
    found = []
    for at in np.flatnonzero(linked == 1).tolist():
        if found and found[-1][1] == at - 1:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found or [(0, 0)]


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum())


@pytest.mark.parametrize("level", [1, None])
def test_the_loss_is_cross_entropy_of_the_first_and_the_last_token_of_each_answer(model, params, level):
    objective, batch = MarkedSpans(level), marked_batch()
    params = with_head(objective, model, params)
    params["heads"][HEAD]["weight"] *= 50  # so that scores differ
    states = jax.jit(lambda p: bound(model, p).hidden(Inputs.of(batch), levels=(level or 2,))[level or 2])(params)
    loss, answered, hits, split = 0.0, 0, np.zeros(2), 0
    for row in range(ROWS):
        for number in (1, 2):
            own = batch["segment_ids"][row] == number
            linked = batch["linked"][row, own]
            # (2,n) scores of starts and of ends; the sentence and what is not judged do not compete.
            scores = (
                np.asarray(params["heads"][HEAD]["weight"], np.float64) @ np.asarray(states, np.float64)[row, own].T
            )
            scores[:, (linked < 0) & (np.arange(len(linked)) > 0)] = -np.inf
            for answer in (found := runs(linked)):
                loss -= sum(log_softmax(scores[end])[answer[end]] for end in (0, 1)) / 2
                hits += scores.argmax(1) == answer
            answered, split = answered + len(found), split + (len(found) > 1)
    given, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(given, loss, rtol=1e-5)
    assert objective.count(model, batch, KEY) == answered > 2 * ROWS and metrics["count_split"] == split > 0
    np.testing.assert_allclose([metrics["start"], metrics["end"]], hits / answered, rtol=1e-6)
    np.testing.assert_allclose(metrics["answers"], answered / (2 * ROWS), rtol=1e-6)


def test_words_have_an_answer_for_each_run_and_no_answer_at_the_first_token():
    linked = np.array([[-1, -1, 0, 1, 1, -1, 1, -1, -1, 0, -1, -1]])
    positions = np.array([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 0, 0]])
    segments = np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0]])
    found = answers(linked, positions, segments)
    assert np.flatnonzero(found.starts).tolist() == [3, 6, 7] and np.flatnonzero(found.ends).tolist() == [4, 6, 7]
    assert found.places.tolist() == [[1, 0, 1, 1, 1, 0, 1, 2, 0, 2, 0, 0]]
    assert (found.words, found.split) == (2, 1)


def test_a_batch_without_a_word_has_neither_loss_nor_gradient(model, params):
    objective, batch = MarkedSpans(1), marked_batch()
    batch |= {"linked": np.full((ROWS, T), -1, np.int32), "segment_ids": np.zeros((ROWS, T), np.int32)}
    params = with_head(objective, model, params)
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    assert loss == objective.count(model, batch, KEY) == metrics["start"] == metrics["count_split"] == 0
    gradient = jax.jit(jax.grad(lambda p: objective.loss(bound(model, p), batch, {}, KEY)[0]))(params)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_the_best_span_is_the_one_that_a_search_finds():
    random = np.random.default_rng(0)
    states, translation = random.normal(size=(60, 9, 4)).astype(np.float32), np.zeros((60, 9), bool)
    for row in translation:
        begin, end = sorted(random.choice(np.arange(2, 10), 2, replace=False))
        row[begin:end] = True
    weight = 2 * random.normal(size=(2, 4)).astype(np.float32)
    given = np.asarray(jax.jit(best_spans)(states, {"weight": weight}, translation))
    expected = np.zeros((60, 9))
    for row, own in enumerate(translation):
        scores = np.where(own | (np.arange(9) == 0), weight @ states[row].T, -np.inf)
        start, end = (np.exp(log_softmax(one)) for one in scores)
        at = np.flatnonzero(own)
        best = max((start[i] * end[j], i, j) for i in at for j in at if i <= j)
        if best[0] > start[0] * end[0]:
            expected[row, best[1] : best[2] + 1] = best[0]
    np.testing.assert_allclose(given, expected, rtol=1e-4)
    assert 10 < np.count_nonzero(expected.any(1)) < 50 and np.count_nonzero(expected) > 1.2 * expected.any(1).sum()


def test_scores_that_are_not_finite_stay_visible():
    translation = jnp.asarray([[False, False, True, True]])
    found = best_spans(jnp.full((1, 4, 2), jnp.nan), {"weight": jnp.ones((2, 2))}, translation)
    assert np.isnan(found).any()
