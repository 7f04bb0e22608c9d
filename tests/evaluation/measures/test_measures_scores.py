"""Pools, classifiers, clusters, answers, likelihoods, lexicons and intervals, against oracles and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from xalign_jax.alignment.neighbours import cosines
from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures import pools, statistics
from xalign_jax.evaluation.measures.clusters import calign, colap, concepts
from xalign_jax.evaluation.measures.consistency import answer_consistency, rank_consistency
from xalign_jax.evaluation.measures.languages import discriminant, identifiability
from xalign_jax.evaluation.measures.lexicon_induction import lexicon_induction
from xalign_jax.evaluation.measures.likelihood import bits_per_byte, information_parity, utf8_bytes
from xalign_jax.evaluation.measures.pools import pool_retrieval
from xalign_jax.evaluation.measures.statistics import bootstrap_mean, bootstrap_ratio, correlation

LANGUAGES = ("en", "de", "hi")


def _pool(bias: float, noise: float = 0.3, groups: int = 40, width: int = 16):
    """Queries and answers of every group in three languages, with an offset of each language."""
    rng = np.random.default_rng(0)
    meaning, offset = rng.normal(size=(groups, width)), rng.normal(size=(3, width))
    sides = [
        np.concatenate([meaning + bias * offset[k] + noise * rng.normal(size=meaning.shape) for k in range(3)])
        for _ in range(2)
    ]
    group, language = np.tile(np.arange(groups), 3), np.repeat(LANGUAGES, groups)
    return (*sides, group, group, language, language)


@pytest.mark.parametrize("at_once", [2**24, 500])
def test_average_precision_is_that_of_scikit_learn(at_once, monkeypatch):
    metrics = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(pools, "SCORES_AT_ONCE", at_once)
    arguments = _pool(0.7)
    found, scores, group = pool_retrieval(*arguments), cosines(*arguments[:2]), arguments[2]
    wanted = [metrics.average_precision_score(group == g, s) for g, s in zip(group, scores, strict=True)]
    np.testing.assert_allclose(found.average_precision, wanted, rtol=1e-5)
    language = arguments[4]
    assert found.same_language_bias == pytest.approx(np.mean(language[scores.argmax(1)] == language))
    assert found.expected_bias == pytest.approx(1 / 3)


def test_a_space_of_separate_languages_has_bias_and_low_precision():
    neutral, apart = pool_retrieval(*_pool(0.0)), pool_retrieval(*_pool(5.0))
    assert neutral.mean_average_precision > 0.95 and neutral.same_language_bias < 0.55
    assert apart.mean_average_precision < 0.6 and apart.same_language_bias == 1.0


def test_pools_refuse_queries_without_answers():
    queries, answers, group, _, language, _ = _pool(0.0)
    with pytest.raises(UserError, match="query 3 has no right answer in the pool"):
        pool_retrieval(queries, answers, group, np.where(group == 3, 4, group), language, language)
    with pytest.raises(UserError, match="answer_group has shape"):
        pool_retrieval(queries, answers, group, group[:3], language, language)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_the_classifier_is_that_of_scikit_learn(shrinkage):
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 300)
    vectors = rng.normal(size=(300, 6)) * [1, 2, 1, 1, 3, 1] + 0.6 * label[:, None]
    weight, bias, kinds = discriminant(vectors, label, shrinkage=shrinkage)
    peer = analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(vectors, label)
    np.testing.assert_allclose(weight.T, peer.coef_, rtol=1e-6)
    np.testing.assert_allclose(bias, peer.intercept_, rtol=1e-6)
    assert kinds.tolist() == [0, 1, 2]


def test_language_is_found_where_it_is_planted_and_not_by_content():
    """Vectors that hold the segment alone: a split by rows would let the classifier know held-out segments."""
    rng = np.random.default_rng(2)
    meaning = rng.normal(size=(200, 12))
    neutral = np.concatenate([meaning, meaning])
    language, group = np.repeat(["en", "de"], 200), np.tile(np.arange(200), 2)
    apart = neutral + 2.5 * (language == "de")[:, None]
    found = identifiability(apart, language, group, seed=0)
    assert found.accuracy > 0.95 and found.chance == 0.5 and found.fitted == 200 and len(found.hits) == 200
    assert identifiability(neutral, language, group, seed=0).accuracy == pytest.approx(0.5, abs=0.1)
    again = identifiability(apart, language, group, seed=0)
    np.testing.assert_array_equal(found.hits, again.hits)
    assert identifiability(apart[:, :, None].repeat(40, 2).reshape(400, -1), language, group, seed=0).accuracy > 0.95


def test_classifiers_refuse_what_they_cannot_fit():
    vectors = np.random.default_rng(0).normal(size=(8, 20))
    with pytest.raises(UserError, match="all rows are of one language"):
        identifiability(vectors, np.zeros(8), seed=0)
    with pytest.raises(UserError, match="all rows are of one group"):
        identifiability(vectors, np.arange(8) % 2, np.zeros(8), seed=0)
    with pytest.raises(UserError, match=r"no segment in \d is left to fit"):
        identifiability(vectors, np.arange(8) % 2, np.arange(8) % 2, seed=0)
    with pytest.raises(UserError, match=r"8 rows of width 20 have no invertible covariance; raise shrinkage"):
        discriminant(vectors, np.arange(8) % 2, shrinkage=0.0)


def test_concepts_are_the_planted_clusters():
    rng = np.random.default_rng(0)
    planted = np.arange(60) % 4
    vectors = 8 * np.eye(4, 10)[planted] + rng.normal(size=(60, 10))
    found = concepts(vectors, 4)
    assert len(set(zip(planted, found, strict=True))) == 4 and set(found) == {0, 1, 2, 3}
    with pytest.raises(UserError, match="concepts: vectors has 3 rows; the measure needs at least 4"):
        concepts(vectors[:3], 4)


def test_calign_by_hand():
    source = ["red", "blue", "green", "cat", "dog", "one", "red"]
    target = ["rot", "blau", "grün", "Katze", "Hund", "Haus", "Baum", "Berg", "See", "Fluss", "Tal"]
    tables = {"red": ["rot"], "blue": ["blau"], "green": ["weiß", "grün"], "cat": ["Katze"], "dog": ["Köter", "Hund"]}
    source_concepts = [0, 0, 0, 1, 1, 2, 0]
    target_concepts = [0, 0, 0] + [1] * 8
    found = calign(source, source_concepts, target, target_concepts, tables)
    # The animals' target concept has eight words: two are fewer than .4 of eight. "one" is a concept of one word.
    assert found.hits.tolist() == [True, False] and found.score == 0.5
    assert calign(source, source_concepts, target, target_concepts, tables, size=0.2).score == 1.0
    tables["green"] = ["weiß"]
    assert calign(source, source_concepts, target, target_concepts, tables, size=0.2).hits.tolist() == [False, True]
    assert calign(source, source_concepts, target, target_concepts, tables, size=0.2, share=0.6).score == 1.0
    with pytest.raises(UserError, match="no source concept has more than 3 distinct words"):
        calign(source, source_concepts, target, target_concepts, tables, least=3)
    with pytest.raises(UserError, match="target_concepts has shape"):
        calign(source, source_concepts, target, [0], tables)


def test_colap_by_hand():
    numbers = np.asarray([5, 5, 5, 5, 7, 7, 7, 7, 9])
    languages = np.asarray(["en", "de", "en", "de", "en", "en", "en", "de", "de"])
    assert colap(numbers, languages).hits.tolist() == [True, False, False]
    assert colap(numbers, languages, share=0.25).score == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="all words are of one language"):
        colap(numbers, np.zeros(9))
    with pytest.raises(UserError, match=r"share = 0.6; it must lie in \[0, 0.5\]"):
        colap(numbers, languages, share=0.6)


def test_rank_consistency_by_its_definition():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
    weights = np.exp(np.arange(6, 0, -1)) / np.exp(np.arange(6, 0, -1)).sum()
    orders = np.argsort(-first), np.argsort(-second)
    wanted = [
        sum(weights[j - 1] * len({*orders[0][i][:j]} & {*orders[1][i][:j]}) / j for j in range(1, 7)) for i in range(5)
    ]
    np.testing.assert_allclose(rank_consistency(first, second), wanted)
    np.testing.assert_allclose(rank_consistency(first, 3 * first + 1), 1.0)


def test_answers_by_hand():
    first = np.asarray([[3.0, 1, 2], [3, 1, 2], [1, 2, 3], [1, 2, 3]])
    second = np.asarray([[9.0, 0, 1], [0, 9, 1], [0, 1, 9], [9, 0, 1]])
    found = answer_consistency(first, second, np.asarray([0, 1, 0, 2]))
    assert found.same == 0.5 and found.overlap == pytest.approx(1 / 3) and found.n == 4
    assert np.isnan(answer_consistency(first, second, np.asarray([1, 2, 0, 1])).overlap)
    with pytest.raises(UserError, match="right answers must be columns 0 to 2"):
        answer_consistency(first, second, np.asarray([0, 1, 0, 3]))
    with pytest.raises(UserError, match="at least two are needed"):
        rank_consistency(first[:, :1], second[:, :1])


def test_likelihoods_by_hand():
    assert utf8_bytes(["abc", "где", "日本"]).tolist() == [3, 6, 6]
    # One bit a byte is ln 2 nats a byte.
    assert bits_per_byte(np.log(2) * np.asarray([3, 12]), utf8_bytes(["abc", "где日本"])) == pytest.approx(1.0)
    assert information_parity([4.0, 8.0], [2.0, 4.0]) == 2.0
    for measure, columns, message in (
        (bits_per_byte, ([1.0], [0]), "the texts have no bytes"),
        (bits_per_byte, ([1.0, 2.0], [1]), "bytes has 1 rows; 2 are needed"),
        (information_parity, ([1.0, np.inf], [1.0, 1.0]), "row 1 of nats is not finite"),
        (information_parity, ([1.0], [0.0]), "must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            measure(*columns)


def _lexicon(n: int = 300, noise: float = 0.0):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(n, 20))
    target = source + noise * rng.normal(size=source.shape)
    return source, target, [f"s{i}" for i in range(n)], [f"t{i}" for i in range(n)]


@pytest.mark.parametrize("score", ["csls", "cosine"])
def test_lexicons_are_induced(score):
    source, target, source_words, target_words = _lexicon(noise=0.8)
    pairs = [(f"s{i}", f"t{i}") for i in range(0, 100)]
    found = lexicon_induction(source, target, source_words, target_words, pairs, score=score)
    matrix = cosines(source, target)
    if score == "csls":
        matrix = 2 * matrix - np.sort(matrix, 1)[:, -10:].mean(1)[:, None] - np.sort(matrix, 0)[-10:].mean(0)
    ranks = (matrix > np.diag(matrix)[:, None]).sum(1)[:100]
    assert found.precision == {k: pytest.approx(np.mean(ranks < k)) for k in (1, 5, 10)}
    assert found.asked == 100 and found.coverage == 1.0 and found.identical == 0
    assert 0.3 < found.precision[1] < found.precision[10]


def test_any_translation_counts_and_missing_words_lower_coverage():
    source, target, source_words, target_words = _lexicon()
    target[[0, 1]] = target[[1, 0]]
    target_words[5] = "s5"
    pairs = [("s0", "t9"), ("s0", "t1"), ("s1", "t2"), ("gone", "t4"), ("s4", "gone"), ("s5", "s5")]
    found = lexicon_induction(source, target, source_words, target_words, pairs, at=(1,))
    assert found.hits[1].tolist() == [True, False, True] and found.coverage == 3 / 5 and found.identical == 1
    found = lexicon_induction(source, target, source_words, target_words, pairs, at=(1,), keep_identical=False)
    assert found.precision == {1: 0.5} and found.asked == 2
    with pytest.raises(UserError, match="none of 1 pairs has both words in the vocabularies"):
        lexicon_induction(source, target, source_words, target_words, pairs[3:4])
    with pytest.raises(UserError, match="source_words has 1 words for 300 vectors"):
        lexicon_induction(source, target, ["s0"], target_words, pairs)


def test_intervals_cover_and_repeat(monkeypatch):
    """95 % intervals of 200 samples hold the true ratio in about 95 % of them."""
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        below = rng.integers(1, 20, 80)
        inside += (lambda e: e.low <= 0.4 <= e.high)(
            bootstrap_ratio(rng.binomial(below, 0.4), below, seed=1, draws=300)
        )
    assert 0.89 <= inside / 200 <= 0.99
    values = np.random.default_rng(0).normal(size=400)
    first = bootstrap_mean(values, seed=3)
    assert first == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert first.value == pytest.approx(values.mean()) and first.n == 400
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    monkeypatch.setattr(statistics, "COUNTS_AT_ONCE", 7 * 400)
    assert bootstrap_mean(values, seed=3) == first


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_correlations_are_those_of_scipy(method):
    rng = np.random.default_rng(0)
    measure = rng.integers(0, 9, 30).astype(float)
    outside = measure**3 + 60 * rng.normal(size=30)
    oracle = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}[method]
    found = correlation(measure, outside, seed=0, method=method)
    assert found.value == pytest.approx(oracle(measure, outside)[0])
    peer = scipy.stats.bootstrap(
        (measure, outside), lambda a, b: oracle(a, b)[0], paired=True, vectorized=False, n_resamples=500,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=0.06)
    assert found == correlation(measure, outside, seed=0, method=method)
    assert correlation(measure, -5 * measure, seed=0, method=method).value == pytest.approx(-1)


def test_statistics_refuse_what_has_no_figure():
    with pytest.raises(UserError, match="correlation: 3 rows; at least 4 are needed"):
        correlation([1, 2, 3], [1, 2, 3], seed=0)
    with pytest.raises(UserError, match="all values of outside are equal"):
        correlation([1, 2, 3, 4], [1, 1, 1, 1], seed=0)
    with pytest.raises(UserError, match="outside has 3 rows; 4 are needed"):
        correlation([1, 2, 3, 4], [1, 2, 3], seed=0)
    with pytest.raises(UserError, match="outside holds <U1; it must hold real numbers"):
        correlation([1, 2, 3, 4], ["a", "b", "c", "d"], seed=0)
    with pytest.raises(UserError, match="bootstrap: 1 rows; at least 2 are needed"):
        bootstrap_mean([1.0], seed=0)
    with pytest.raises(UserError, match="the denominators sum to 0"):
        bootstrap_ratio([1.0, 2.0], [0.0, 0.0], seed=0)
