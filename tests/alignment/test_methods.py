"""Each method of word alignment links what its definition says, in padded batches as alone."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.alignment.extraction import directed_argmax, mutual_argmax, unit_cosines
from xalign_jax.alignment.methods import DIRECTED, METHODS, Extraction, extract, links
from xalign_jax.alignment.symmetrise import (
    SYMMETRISATIONS,
    grow_diag_final_and,
    heaviest_matching,
    symmetrise,
    word_links,
)
from xalign_jax.alignment.transport import sinkhorn
from xalign_jax.errors import UserError

SIZES = ((5, 4), (3, 6), (1, 1), (6, 7))


@pytest.fixture(scope="module")
def states():
    """States of pairs of sentences, alone and padded to (6,7) with junk, and their masks."""
    rng = np.random.default_rng(0)
    alone = [(rng.normal(size=(m, 8)), rng.normal(size=(n, 8))) for m, n in SIZES]
    source, target = np.full((4, 6, 8), 9.0, np.float32), np.full((4, 7, 8), 9.0, np.float32)
    for row, (s, t) in enumerate(alone):
        source[row, : len(s)], target[row, : len(t)] = s, t
    rows, columns = (np.asarray(side)[:, None] for side in zip(*SIZES, strict=True))
    return alone, source, target, np.arange(6) < rows, np.arange(7) < columns


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_no_link_and_no_probability(states, method):
    alone, source, target, source_mask, target_mask = states
    extraction = Extraction(method, threshold=0.1)
    found = extract(source, target, source_mask, target_mask, extraction)
    together = links(*map(np.asarray, found[:2]), source_mask, target_mask, extraction)
    for row, (s, t) in enumerate(alone):
        masks = np.ones((1, len(s)), bool), np.ones((1, len(t)), bool)
        one = extract(np.float32(s)[None], np.float32(t)[None], *masks, extraction)
        single = links(*map(np.asarray, one[:2]), *masks, extraction)[0]
        inside = (row, slice(len(s)), slice(len(t)))
        np.testing.assert_array_equal(together[inside], single)
        assert together[row].sum() == single.sum() > 0
        np.testing.assert_allclose(found.probability[inside], one.probability[0], atol=1e-5)
    assert np.all((np.asarray(found.probability) >= 0) & (np.asarray(found.probability) <= 1 + 1e-6))


def test_similarities_are_those_of_simalign():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    wanted = [[(x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j]) + 1) / 2 for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(unit_cosines(jnp.asarray(x), jnp.asarray(y)), wanted, rtol=1e-5)


def test_the_matching_is_the_heaviest_of_all():
    rng = np.random.default_rng(2)
    weights = rng.random((4, 5))
    found = heaviest_matching(weights[None], np.ones((1, 4), bool), np.ones((1, 5), bool))[0]
    best = max(itertools.permutations(range(5), 4), key=lambda columns: weights[range(4), columns].sum())
    assert [tuple(link) for link in np.argwhere(found)] == list(enumerate(best))


def test_transport_plans_have_their_marginals_and_equal_those_of_pot():
    rng = np.random.default_rng(3)
    similarity = rng.uniform(-1, 1, (2, 5, 6)).astype(np.float32)
    source_mask, target_mask = np.arange(5) < np.array([[5], [3]]), np.arange(6) < np.array([[6], [4]])
    plan = np.asarray(sinkhorn(jnp.asarray(similarity), source_mask, target_mask, regularisation=0.1, iterations=300))
    for row, (m, n) in enumerate(((5, 6), (3, 4))):
        assert plan[row].sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(plan[row, :m, :n].sum(1), 1 / m, atol=1e-6)
        np.testing.assert_allclose(plan[row, :m, :n].sum(0), 1 / n, atol=1e-4)
    # A regularisation so small that exp underflows without logarithms stays finite.
    assert np.isfinite(sinkhorn(jnp.asarray(similarity), source_mask, target_mask, regularisation=1e-3)).all()
    ot = pytest.importorskip("ot", reason="POT is not installed")
    wanted = ot.sinkhorn(np.full(5, 0.2), np.full(6, 1 / 6), -similarity[0].astype(np.float64), 0.1)
    np.testing.assert_allclose(plan[0], wanted, atol=1e-6)


def test_sentences_without_tokens_have_no_plan_and_no_link():
    mask, none = np.ones((1, 3), bool), np.zeros((1, 2), bool)
    assert not np.asarray(sinkhorn(jnp.ones((1, 3, 2)), mask, none)).any()
    for method in METHODS:
        extraction = Extraction(method)
        found = extract(np.ones((1, 3, 4), np.float32), np.ones((1, 2, 4), np.float32), mask, none, extraction)
        assert not links(*map(np.asarray, found[:2]), mask, none, extraction).any()
        assert not np.asarray(found.probability).any()


def test_intersection_lies_in_grow_diag_which_lies_in_the_union():
    rng = np.random.default_rng(4)
    similarity = rng.random((20, 7, 9)).astype(np.float32)
    masks = np.ones((20, 7), bool), np.ones((20, 9), bool)
    forward, backward = map(np.asarray, directed_argmax(jnp.asarray(similarity), jnp.asarray(similarity), *masks))
    by = {how: symmetrise(forward, backward, how) for how in SYMMETRISATIONS}
    assert (by["intersection"] <= by["grow-diag-final-and"]).all() and (by["grow-diag-final-and"] <= by["union"]).all()
    assert by["intersection"].sum() < by["grow-diag-final-and"].sum() < by["union"].sum()
    for direction in ("forward", "backward"):
        assert (by["intersection"] <= by[direction]).all() and (by[direction] <= by["union"]).all()
    # Every source word has one link forward, and every target word one backward.
    assert (forward.sum(2) == 1).all() and (backward.sum(1) == 1).all()
    both = mutual_argmax(jnp.asarray(similarity), jnp.asarray(similarity), *masks)
    np.testing.assert_array_equal(by["intersection"], both)


def _moses(forward, backward):
    """Grow-diag-final-and over all points again and again, as its first description words it."""
    m, n = forward.shape
    found = {(i, j) for i in range(m) for j in range(n) if forward[i, j] and backward[i, j]}
    union = {(i, j) for i in range(m) for j in range(n) if forward[i, j] or backward[i, j]}
    around = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))

    def rows():
        return {i for i, _ in found}

    def columns():
        return {j for _, j in found}

    before = -1
    while before != len(found):
        before = len(found)
        for i, j in itertools.product(range(m), range(n)):
            for a, b in ((i + x, j + y) for x, y in around) if (i, j) in found else ():
                if (a, b) in union and (a not in rows() or b not in columns()):
                    found.add((a, b))
    for direction in (forward, backward):
        for i, j in itertools.product(range(m), range(n)):
            if direction[i, j] and i not in rows() and j not in columns():
                found.add((i, j))
    return found


def test_grow_diag_final_and_is_that_of_moses():
    rng = np.random.default_rng(5)
    for _ in range(30):
        forward, backward = rng.random((2, 6, 8)) < 0.2
        found = grow_diag_final_and(forward, backward)
        assert {tuple(link) for link in np.argwhere(found).tolist()} == _moses(forward, backward)


def test_words_are_linked_if_any_of_their_tokens_are():
    # Two pairs: words of 2 + 1 and 1 + 2 tokens; the second pair has padding.
    source, target = np.array([[0, 0, 1], [0, -1, -1]]), np.array([[0, 1, 1], [0, 1, -1]])
    chosen = np.zeros((2, 3, 3), bool)
    chosen[0, 0, 1] = chosen[0, 1, 2] = chosen[0, 2, 0] = chosen[1, 0, 1] = True
    probability = np.arange(18).reshape(2, 3, 3) / 18
    found = word_links(chosen, probability, source, target)
    assert list(zip(found.row, found.source, found.target, strict=True)) == [(0, 0, 1), (0, 1, 0), (1, 0, 1)]
    # Tokens (0,1) and (1,2) make one link, with the higher probability.
    np.testing.assert_allclose(found.probability, [5 / 18, 6 / 18, 10 / 18])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "guess"}, "one of argmax"),
        ({"symmetrise": "both"}, "one of intersection"),
        ({"method": "itermax", "symmetrise": "union"}, "has no directions"),
        ({"method": "ot", "regularisation": 0.0}, "above 0"),
    ],
)
def test_unknown_methods_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        Extraction(**values)
    assert Extraction(method=DIRECTED[0], symmetrise="union")
