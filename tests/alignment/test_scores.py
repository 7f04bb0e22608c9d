"""Scores of links against gold links, their intervals, and the calibration of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.alignment.scores import calibration_error, counts, fit_calibration, interval, scores


def test_scores_follow_their_definitions():
    # A = 4 links, 2 of them sure, 1 possible; 3 sure ones in all.
    total = counts([(0, 0), (1, 1), (2, 3), (9, 9)], sure=[(0, 0), (1, 1), (2, 2)], possible=[(2, 3)])
    assert total.tolist() == [4, 3, 2, 3]
    found = scores(total)
    assert (found.precision, found.recall) == (3 / 4, 2 / 3)
    assert found.f1 == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert found.aer == pytest.approx(1 - (2 + 3) / (4 + 3))


def test_sure_links_count_as_possible_and_repetitions_once():
    assert (
        counts([(0, 0), (0, 0)], [(0, 0)], []).tolist() == counts([(0, 0)], [(0, 0)], [(0, 0)]).tolist() == [1, 1, 1, 1]
    )


def test_the_error_rate_is_one_less_f1_where_all_links_are_sure():
    rng = np.random.default_rng(0)
    gold, links = ([tuple(link) for link in rng.integers(0, 6, (9, 2)).tolist()] for _ in range(2))
    found = scores(counts(links, gold, []))
    assert found.aer == pytest.approx(1 - found.f1)


def test_no_links_and_no_gold_are_defined():
    assert scores(counts([], [(0, 0)], [])) == (0, 0, 0, 1)
    assert scores(counts([], [], [])).aer == 1


def test_the_interval_holds_the_score_and_narrows_with_more_sentences():
    rng = np.random.default_rng(1)
    hit = rng.integers(0, 6, 400)
    sentences = np.stack([np.full(400, 6), np.full(400, 6), hit, hit], 1)
    few, many = interval(sentences[:40]), interval(sentences)
    aer = scores(sentences.sum(0)).aer
    assert many[0, 3] < aer < many[1, 3]
    assert many[1, 3] - many[0, 3] < 0.5 * (few[1, 3] - few[0, 3])
    np.testing.assert_array_equal(many, interval(sentences))


def test_a_calibration_finds_the_true_probabilities():
    rng = np.random.default_rng(2)
    raw = rng.random(20_000)
    true = 1 / (1 + np.exp(-(0.5 * np.log(raw / (1 - raw)) + 1)))
    correct = rng.random(20_000) < true
    fitted = fit_calibration(raw, correct)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.5, 1), abs=0.06)
    assert calibration_error(fitted(raw), correct) < 0.02 < calibration_error(raw, correct)
    # All correct: finite, and near 1.
    assert 0.9 < fit_calibration(raw[:50], np.ones(50, bool))(np.array([0.5]))[0] <= 1


def test_the_calibration_error_is_the_mean_gap_of_bins():
    # Two bins: 4 links of .25 of which 2 are correct, 1 of .95 that is correct.
    error = calibration_error(np.array([0.25] * 4 + [0.95]), np.array([True, True, False, False, True]))
    assert error == pytest.approx((4 * 0.25 + 1 * 0.05) / 5)
