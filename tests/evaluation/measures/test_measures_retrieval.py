"""Retrieval and MEXA: planted alignment, equal texts, strictness, and what must change nothing."""

from __future__ import annotations

import imports
import numpy as np
import pytest
from house import ROOT

from xalign_jax.alignment.neighbours import MARGINS, cosines
from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures.mexa import mexa, neuronxa
from xalign_jax.evaluation.measures.retrieval import retrieval, xsim


def _pair(n: int = 120, width: int = 24, noise: float = 0.9, seed: int = 0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n, width))
    return source, source + noise * rng.normal(size=source.shape)


@pytest.mark.parametrize("score", MARGINS)
def test_planted_pairs_are_found_and_shuffled_ones_are_not(score):
    source, target = _pair(noise=0.1)
    found = retrieval(source, target, score=score)
    assert found.forward == found.backward == 1.0 and found.duplicates == (0, 0)
    assert xsim(source, target, score=score) == 0.0
    assert retrieval(source, np.roll(target, 1, axis=0), score=score).forward == 0.0


@pytest.mark.parametrize("score", MARGINS)
def test_retrieval_by_its_definition(score):
    """Pair by pair; xsim reads only the k nearest, csls all candidates."""
    source, target = _pair()
    matrix, k = cosines(source, target), 4
    around = np.sort(matrix, 1)[:, -k:].mean(1)[:, None] + np.sort(matrix, 0)[-k:].mean(0)
    scores = {"absolute": matrix, "ratio": matrix / (around / 2), "distance": matrix - around / 2}
    wanted = scores.get(score, 2 * matrix - around)
    if score in ("ratio", "distance"):
        forward = np.where(matrix >= np.sort(matrix, 1)[:, [-k]], wanted, -np.inf)
        backward = np.where(matrix >= np.sort(matrix, 0)[[-k]], wanted, -np.inf)
    else:
        forward = backward = wanted
    found = retrieval(source, target, score=score)
    assert found.forward == np.mean(forward.argmax(1) == np.arange(120))
    assert found.backward == np.mean(backward.argmax(0) == np.arange(120))
    assert xsim(source, target, score=score) == pytest.approx(100 * (1 - found.forward))


def test_equal_texts_are_equally_right_and_counted():
    source, target = _pair(6, noise=0.0)
    target[[1, 2]] = target[[2, 1]]
    texts = ["a", "b", "b", "c", "d", "d"]
    assert retrieval(source, target).forward == pytest.approx(4 / 6)
    found = retrieval(source, target, target_texts=texts, source_texts=np.arange(6))
    assert found.forward == 1.0 and found.backward == pytest.approx(4 / 6) and found.duplicates == (0, 2)
    assert found.backward_hits.tolist() == [True, False, False, True, True, True]
    assert xsim(source, target, target_texts=texts) == 0.0
    assert xsim(source, target) == pytest.approx(100 * 2 / 6)


def test_mexa_by_its_definition():
    source, target = _pair()
    matrix = cosines(source, target)
    others = np.where(np.eye(120, dtype=bool), -np.inf, matrix)
    wanted = (np.diag(matrix) > others.max(1)) & (np.diag(matrix) > others.max(0))
    found = mexa(source, target)
    np.testing.assert_array_equal(found.hits, wanted)
    both = retrieval(source, target)
    assert found.score == wanted.mean() <= min(both.forward, both.backward) and found.n == 120


def test_mexa_is_strict():
    """A repeated sentence ties with its copy, so both fail, wherever the copy stands."""
    source, _ = _pair(1500)
    for first, second in ((0, 1), (5, 1499), (700, 701)):
        target = source.copy()
        target[second] = target[first]
        assert np.flatnonzero(~mexa(source, target).hits).tolist() == [first, second]
    assert mexa(np.ones((5, 3)), np.ones((5, 3))).score == 0.0


def test_mexa_falls_to_chance_for_unrelated_vectors():
    """1/(2n - 1), because the diagonal must beat 2n - 2 others."""
    rng = np.random.default_rng(0)
    scores = [mexa(rng.normal(size=(8, 512)), rng.normal(size=(8, 512))).score for _ in range(150)]
    assert np.mean(scores) == pytest.approx(1 / 15, abs=0.03)


def test_mexa_keeps_under_rotation_length_and_a_common_order():
    source, target = _pair()
    wanted = mexa(source, target)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))[0]
    order = np.random.default_rng(2).permutation(120)
    np.testing.assert_array_equal(mexa(3 * source @ rotation, target @ rotation).hits, wanted.hits)
    np.testing.assert_array_equal(mexa(source[order], target[order]).hits, wanted.hits[order])
    assert mexa(target, source).score == wanted.score


def test_neuronxa_reads_signs_or_values():
    source, target = _pair(noise=0.3)
    assert neuronxa(source, target).score == neuronxa(np.sign(source), 5 * target).score
    assert neuronxa(source, target).score != neuronxa(source, target, states="value").score
    assert neuronxa(source, target, states="value").score == mexa(source, target).score


@pytest.mark.parametrize("measure", [mexa, retrieval, xsim, neuronxa])
def test_bad_input_is_one_line(measure):
    source, target = _pair(5)
    broken = target.copy()
    broken[4, 0] = np.inf
    for pair, message in (
        ((source, target[:3]), f"{measure.__name__}: source has 5 rows and target has 3; row i must translate row i"),
        ((source[:1], target[:1]), "source has 1 rows; the measure needs at least 2"),
        ((source, target[:, :3]), "source has width 24 and target has width 3"),
        ((source, broken), "row 4 of target is not finite; drop it or encode it again"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            measure(*pair)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="one label for each of 5 rows"):
        retrieval(source, target, target_texts=["a"])
    with pytest.raises(UserError, match="score = 'cosine'"):
        retrieval(source, target, score="cosine")


def test_measures_need_neither_models_nor_training():
    own = [one for one in imports.read(ROOT) if one.source.startswith("xalign_jax.evaluation.measures.") and one.inside]
    assert {".".join(one.module.split(".")[1:3]) for one in own} <= {"evaluation.measures"} | {
        f"alignment.{name}" for name in ("checked", "linear_maps", "neighbours")
    }
    assert {one.source.rpartition(".")[2] for one in own} >= {"retrieval", "mexa", "pools", "statistics"}
