"""Word alignment in padded batches equals that of each pair alone; degenerate input gives defined, finite results."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.alignment.extraction import above, alignment_probabilities, itermax, mutual_argmax, normalise
from xalign_jax.alignment.linear_maps import least_squares, procrustes, residual
from xalign_jax.alignment.losses import consistency_loss, pointer_loss, self_training_loss

SIZES = ((7, 6), (3, 9), (2, 5), (1, 1), (0, 4), (8, 8))


def _batch() -> tuple[list[np.ndarray], jnp.ndarray, jnp.ndarray, jnp.ndarray]:
    """Similarities of pairs of sentences, alone and padded to (8,9) with junk."""
    rng = np.random.default_rng(0)
    alone = [rng.normal(size=size).astype(np.float32) for size in SIZES]
    padded = np.full((len(SIZES), 8, 9), 99.0, np.float32)
    for row, matrix in zip(padded, alone, strict=True):
        row[: matrix.shape[0], : matrix.shape[1]] = matrix
    rows, columns = (np.asarray(side)[:, None] for side in zip(*SIZES, strict=True))
    return alone, jnp.asarray(padded), jnp.asarray(np.arange(8) < rows), jnp.asarray(np.arange(9) < columns)


def _slow_itermax(similarity: np.ndarray, max_count: int, alpha: float) -> set[tuple[int, int]]:
    """Pair by pair, as its definition words it."""
    m, n = similarity.shape

    def mutual(matrix: np.ndarray) -> set[tuple[int, int]]:
        best = [int(np.argmax(matrix[i])) for i in range(m)]
        return {(i, j) for i, j in enumerate(best) if int(np.argmax(matrix[:, j])) == i}

    links = mutual(similarity)
    for _ in range(max_count - 1):
        rows, columns = ({link[side] for link in links} for side in (0, 1))
        if min(m, n) <= 2 or len(rows) == m or len(columns) == n:
            break
        free = np.asarray([[(i not in rows) + (j not in columns) for j in range(n)] for i in range(m)])
        new = mutual(similarity * np.choose(free, (0.0, alpha, 1.0)))
        links |= {(i, j) for i, j in new if free[i, j]}
    return links


def test_padding_takes_no_part():
    alone, padded, source, target = _batch()
    together = normalise(padded, source, target)
    links = mutual_argmax(together.rows, together.columns, source, target)
    for row, matrix in enumerate(alone):
        m, n = matrix.shape
        masks = (jnp.ones(m, bool), jnp.ones(n, bool))
        single = normalise(jnp.asarray(matrix), *masks)
        for both, one in ((together.rows, single.rows), (together.columns, single.columns)):
            np.testing.assert_allclose(both[row, :m, :n], one, rtol=1e-5)
            assert float(jnp.sum(jnp.abs(both[row]))) == pytest.approx(float(jnp.sum(jnp.abs(one))), rel=1e-5)
        assert int(together.raised[row]) == int(single.raised) == (matrix <= 0).sum()
        if m and n:
            np.testing.assert_array_equal(links[row, :m, :n], mutual_argmax(single.rows, single.columns, *masks))
        assert int(links[row].sum()) == int(links[row, :m, :n].sum())


@pytest.mark.parametrize(("max_count", "alpha"), [(1, 0.9), (2, 0.9), (4, 0.6)])
def test_itermax_links_what_the_wording_says(max_count, alpha):
    alone, padded, source, target = _batch()
    positive = jnp.exp(padded)
    links = itermax(positive, source, target, max_count=max_count, alpha=alpha)
    for row, matrix in enumerate(alone):
        wanted = _slow_itermax(np.exp(matrix), max_count, alpha) if matrix.size else set()
        assert {tuple(link) for link in np.argwhere(links[row]).tolist()} == wanted, SIZES[row]


def test_probabilities_leave_excluded_tokens_out():
    rng = np.random.default_rng(1)
    source, target = (jnp.asarray(rng.normal(size=(2, size, 4)), jnp.float32) for size in (5, 6))
    source_mask = jnp.asarray([[0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
    target_mask = jnp.asarray([[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0]], bool)
    by_source, by_target = alignment_probabilities(source, target, source_mask, target_mask)
    np.testing.assert_allclose(by_source[0].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(by_target[0].sum(-2), 1, rtol=1e-6)
    there = source_mask[:, :, None] & target_mask[:, None, :]
    assert not np.any(above(by_source, by_target) & ~there)
    consistency = consistency_loss(by_source, by_target, source_mask, target_mask)
    for loss in (consistency, self_training_loss(by_source, by_target, there, source_mask, target_mask)):
        assert np.isfinite(loss)


def test_a_pointer_without_terms_is_zero_and_has_no_gradient():
    """Empty windows, partners outside the window and padding are no terms."""
    query, key = jnp.ones((2, 3, 4)), jnp.arange(40.0).reshape(2, 5, 4)
    window = jnp.asarray([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
    partner = jnp.asarray([[0, 2, 3], [1, 1, 1_000_000]])
    valid = jnp.asarray([[True, False, False], [True, True, True]])

    def loss(query):
        return pointer_loss(query, key, partner, window, valid).loss

    assert [float(value) for value in pointer_loss(query, key, partner, window, valid)] == [0, 0, 0]
    np.testing.assert_array_equal(jax.grad(loss)(query), 0)
    some = pointer_loss(query, key, partner, window, jnp.ones_like(valid))
    assert (int(some.terms), int(some.correct)) == (2, 1)
    # Keys 2 and 3 differ by 4 in each of 4 dimensions: scores differ by 16 / sqrt(4).
    np.testing.assert_allclose(some.loss, 2 * np.log1p(np.exp(-8)) + 8, rtol=1e-6)


def test_linear_maps_find_the_map():
    rng = np.random.default_rng(2)
    source = rng.normal(size=(50, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(procrustes(source, source @ rotation), rotation, atol=1e-12)
    anything = rng.normal(size=(6, 3))
    np.testing.assert_allclose(least_squares(source, source @ anything), anything, atol=1e-12)
    few = least_squares(source[:4], source[:4] @ anything)
    assert residual(source[:4], source[:4] @ anything, few) < 1e-12
    assert np.linalg.norm(few) < np.linalg.norm(anything)
