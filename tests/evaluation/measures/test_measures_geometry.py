"""Geometry, CKA, SVCCA, isomorphism and drift: against scikit-learn and SciPy, and what must change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from xalign_jax.alignment.neighbours import cosines, unit
from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures import geometry
from xalign_jax.evaluation.measures.drift import drift
from xalign_jax.evaluation.measures.geometry import alignment, gap, uniformity
from xalign_jax.evaluation.measures.isomorphism import eigenvector_similarity, relational_similarity
from xalign_jax.evaluation.measures.similarity import cka, hsic, minibatch_cka, svcca


def _pair(n: int = 60, width: int = 8, noise: float = 0.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n, width)) + 0.3
    return source, source + noise * rng.normal(size=source.shape)


def _rotation(width: int, seed: int = 5) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def test_alignment_and_uniformity_by_their_definition():
    x, y = map(unit, _pair())
    assert alignment(3 * x, y) == pytest.approx(np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]))
    assert alignment(x, y) == pytest.approx(2 - 2 * np.mean(np.diag(cosines(x, y))))
    terms = [np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    assert uniformity(x) == pytest.approx(np.log(np.mean(terms)))
    assert uniformity(np.ones((9, 4))) == pytest.approx(0.0) and alignment(np.ones((9, 4)), np.ones((9, 4))) == 0.0
    assert uniformity(np.asarray([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8.0)


@pytest.mark.parametrize("rows", [7, 512])
def test_the_gap_is_that_of_scikit_learn(rows, monkeypatch):
    metrics = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(geometry, "ROWS_AT_ONCE", rows)
    source, target = _pair(noise=1.5)
    target[3] = source[3] = source[4]
    matrix, own = cosines(source, target), np.eye(60, dtype=bool)
    found = gap(source, target)
    # A tie that rounding breaks is worth 2e-6.
    assert found.auc == pytest.approx(metrics.roc_auc_score(own.ravel(), matrix.ravel()), abs=5e-6)
    assert found.gap == pytest.approx(found.matched - found.mismatched)
    assert found.mismatched == pytest.approx(matrix[~own].mean())
    assert found.d_prime == pytest.approx((matrix[own].mean() - matrix[~own].mean()) / matrix[~own].std())
    same = gap(np.ones((4, 3)), np.ones((4, 3)))
    assert same.auc == 0.5 and np.isnan(same.d_prime) and same.gap == pytest.approx(0.0)


def test_anisotropy_moves_cosines_but_not_the_order():
    """A common offset lifts all cosines. AUC and d' stay high where the raw cosine says nothing."""
    source, target = _pair(noise=0.3)
    plain, moved = gap(source, target), gap(source + 6, target + 6)
    assert moved.mismatched > 0.95 > plain.mismatched and moved.gap < 0.1 * plain.gap
    assert moved.auc > 0.95 and moved.d_prime > 1.5


def _hsic_by_matrices(x: np.ndarray, y: np.ndarray) -> float:
    n, one = len(x), np.ones(len(x))
    a, b = (side @ side.T - np.diag((side**2).sum(1)) for side in (x, y))
    product = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
    return (np.trace(a @ b) + product - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))


def test_hsic_is_what_its_matrices_give():
    source, _ = _pair()
    target = np.random.default_rng(2).normal(size=(60, 5)) @ np.diag([1, 2, 3, 4, 5]) + 7
    assert hsic(source, target) == pytest.approx(_hsic_by_matrices(source, target))
    assert hsic(source, source) == pytest.approx(_hsic_by_matrices(source, source))


def test_biased_cka_by_centred_kernels():
    source, _ = _pair()
    target = np.random.default_rng(2).normal(size=(60, 5))
    centre = np.eye(60) - 1 / 60
    a, b = (centre @ side @ side.T @ centre for side in (source, target))
    wanted = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    assert cka(source, target, unbiased=False) == pytest.approx(wanted)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_ignores_rotation_length_offset_and_order(unbiased):
    source, target = _pair()
    wanted = cka(source, target, unbiased=unbiased)
    order = np.random.default_rng(3).permutation(60)
    moved = cka(4 * source[order] @ _rotation(8) + 9, 0.1 * target[order] @ _rotation(8, 6) - 2, unbiased=unbiased)
    assert moved == pytest.approx(wanted) and cka(target, source, unbiased=unbiased) == pytest.approx(wanted)
    assert cka(source, 3 * source @ _rotation(8), unbiased=unbiased) == pytest.approx(1.0)


def test_unbiased_cka_of_unrelated_vectors_is_0_where_the_biased_one_is_large():
    rng = np.random.default_rng(0)
    sides = [(rng.normal(size=(20, 200)), rng.normal(size=(20, 200))) for _ in range(30)]
    assert abs(np.mean([cka(*pair) for pair in sides])) < 0.05
    assert np.mean([cka(*pair, unbiased=False) for pair in sides]) > 0.8
    assert abs(minibatch_cka(sides)) < 0.05


def test_minibatches_come_near_the_whole():
    source, target = _pair(4000)
    pieces = [(source[i : i + 100], target[i : i + 100]) for i in range(0, 4000, 100)]
    assert minibatch_cka(pieces) == pytest.approx(cka(source, target), abs=0.01)


def test_svcca_is_the_mean_canonical_correlation_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.cross_decomposition")
    source, target = _pair(400, 5)
    x, y = decomposition.CCA(n_components=5, scale=False, max_iter=5000, tol=1e-12).fit_transform(source, target)
    wanted = np.mean([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(5)])
    assert svcca(source, target, variance=1.0) == pytest.approx(wanted, abs=1e-4)


def test_svcca_ignores_linear_maps_and_small_directions():
    source, target = _pair(300)
    wanted = svcca(source, target, variance=1.0)
    assert svcca(source @ np.diag(range(1, 9)) @ _rotation(8) + 3, target, variance=1.0) == pytest.approx(wanted)
    noise = 1e-4 * np.random.default_rng(1).normal(size=(300, 30))
    assert svcca(np.hstack([source, noise]), target) == pytest.approx(svcca(source, target), abs=1e-6)
    assert svcca(source, np.random.default_rng(7).normal(size=(300, 8))) < 0.3
    with pytest.raises(UserError, match=r"svcca: 12 rows for 8 \+ 8 dimensions"):
        svcca(source[:12], target[:12], variance=1.0)


def test_relational_similarity_is_pearson_of_the_lists():
    source, _ = _pair()
    target = np.random.default_rng(4).normal(size=(60, 5)) + 0.5 * source[:, :5]
    above = np.triu_indices(60, 1)
    lists = cosines(source, source)[above], cosines(target, target)[above]
    assert relational_similarity(source, target) == pytest.approx(scipy.stats.pearsonr(*lists)[0])
    assert relational_similarity(source, 5 * source @ _rotation(8)) == pytest.approx(1.0)
    with pytest.raises(UserError, match="all cosines of a side are equal"):
        relational_similarity(source, np.ones((60, 3)))


def test_eigenvector_similarity_by_its_definition():
    source, target = _pair(40)
    spectra = []
    for side in (source, target):
        cosine = cosines(side, side)
        adjacency = np.zeros((40, 40))
        for i in range(40):
            for j in sorted(set(range(40)) - {i}, key=lambda j: -cosine[i, j])[:3]:
                adjacency[i, j] = adjacency[j, i] = 1
        spectra.append(sorted(np.linalg.eigvals(np.diag(adjacency.sum(0)) - adjacency).real, reverse=True))
    ks = [next(k for k in range(1, 41) if sum(s[:k]) > 0.9 * sum(s)) for s in spectra]
    wanted = sum((a - b) ** 2 for a, b in list(zip(*spectra, strict=True))[: min(ks)])
    assert eigenvector_similarity(source, target, neighbours=3) == pytest.approx(wanted)
    order = np.random.default_rng(0).permutation(40)
    assert eigenvector_similarity(source, 2 * source[order] @ _rotation(8)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(UserError, match="eigenvector_similarity: source has 40 rows; the measure needs at least 41"):
        eigenvector_similarity(source, target, neighbours=40)


def test_drift_tells_a_rotation_from_a_change():
    before, _ = _pair()
    same = drift(before, before)
    assert same == pytest.approx((1, 0, 0, 1), abs=1e-6)
    turned = drift(before, before @ _rotation(8))
    assert turned.cosine < 0.5 and turned.relative > 0.5
    assert turned.rotated == pytest.approx(0, abs=1e-6) and turned.kept_neighbours == 1.0
    scaled = drift(before, 3 * before)
    assert scaled.cosine == pytest.approx(1) and scaled.relative == pytest.approx(2) and scaled.kept_neighbours == 1
    fresh = drift(before, np.random.default_rng(9).normal(size=before.shape))
    assert fresh.kept_neighbours == pytest.approx(10 / 59, abs=0.06) and fresh.rotated > 0.7
    repeated = np.repeat(before[:4], 15, axis=0)
    assert 0 <= drift(repeated, repeated, k=3).kept_neighbours <= 1


@pytest.mark.parametrize("measure", [cka, gap, alignment, drift, relational_similarity, svcca, eigenvector_similarity])
def test_bad_input_is_one_line(measure):
    source, target = _pair(30)
    broken = target.copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="source has 30 rows and target has 29") as caught:
        measure(source, target[:-1])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="row 2 of target is not finite"):
        measure(source, broken)


def test_what_has_no_figure_gives_none():
    source, target = _pair(30)
    with pytest.raises(UserError, match="cka: source has 3 rows; the measure needs at least 4"):
        cka(source[:3], target[:3])
    with pytest.raises(UserError, match="cka: all rows of target are equal"):
        cka(source, np.full((30, 4), 0.1))
    with pytest.raises(UserError, match="cka: no batch was given"):
        minibatch_cka([])
    with pytest.raises(UserError, match="uniformity: vectors has 1 rows"):
        uniformity(source[:1])
    with pytest.raises(UserError, match="drift: source has 11 rows; the measure needs at least 12"):
        drift(source[:11], target[:11])
