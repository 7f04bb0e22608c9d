"""Neighbours found block by block equal those of the whole matrix; ties, hubs and bad input are defined."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.alignment import neighbours as module
from xalign_jax.alignment.neighbours import best, by_margin, cosines, csls, density, margin, neighbours, unit
from xalign_jax.errors import UserError


def _sides(queries: int, candidates: int, width: int = 16, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)).astype(np.float32) for count in (queries, candidates))


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("block", [None, (128, 128), (256, 1024)])
def test_blocks_give_what_the_whole_matrix_gives(k, block):
    """The widest block is wide enough for chunks, the others are not."""
    queries, candidates = _sides(300, 1500)
    found, wanted = neighbours(queries, candidates, k, block=block), best(cosines(queries, candidates), k)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


@pytest.mark.parametrize("block", [None, (128, 128)])
def test_the_first_of_equals_wins_in_every_block(block):
    queries, candidates = _sides(5, 1500)
    candidates[[7, 8, 130, 900, 1499]] = queries[0]
    candidates[[3, 140]] = 2 * queries[1]
    found = neighbours(queries, candidates, 4, block=block)
    assert found.indices[0].tolist() == [7, 8, 130, 900]
    assert found.indices[1, :2].tolist() == [3, 140]
    np.testing.assert_array_equal(neighbours(queries, np.ones((700, 16)), 3, block=block).indices, [[0, 1, 2]] * 5)


def test_fewer_candidates_than_neighbours_are_all_returned():
    queries, candidates = _sides(4, 3)
    for found in (neighbours(queries, candidates, 10), best(cosines(queries, candidates), 10)):
        np.testing.assert_array_equal(np.sort(found.indices), [[0, 1, 2]] * 4)
        assert np.isfinite(found.scores).all()


def test_length_and_rotation_of_vectors_change_nothing():
    queries, candidates = _sides(40, 60)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    wanted = csls(queries, candidates, 3, hood=5)
    found = csls(7 * queries @ rotation, candidates @ rotation / 9, 3, hood=5)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


def test_csls_and_margins_by_hand():
    queries, candidates = _sides(9, 7)
    matrix = cosines(queries, candidates)
    near = -np.sort(-matrix, axis=1)[:, :3].mean(1)[:, None], -np.sort(-matrix, axis=0)[:3].mean(0)
    wanted = 2 * matrix - near[0] - near[1]
    found = csls(queries, candidates, 7, hood=3)
    np.testing.assert_allclose(found.scores, np.take_along_axis(wanted, found.indices, 1), atol=1e-5)
    np.testing.assert_array_equal(found.indices, np.argsort(-wanted, axis=1))
    np.testing.assert_allclose(margin(matrix, *near, "csls"), 2 * margin(matrix, *near, "distance"), atol=1e-6)
    np.testing.assert_allclose(margin(matrix, *near, "ratio"), matrix / np.maximum((near[0] + near[1]) / 2, 1e-6))
    forward, backward = best(matrix, 3), best(matrix.T, 3)
    np.testing.assert_allclose(density(forward)[:, None], near[0], rtol=1e-5)
    ordered = by_margin(forward, backward, "distance")
    for q in range(9):
        kept = np.argsort(-matrix[q])[:3]
        assert ordered.indices[q].tolist() == kept[np.argsort(-wanted[q][kept])].tolist()


def test_a_hub_wins_by_cosine_and_loses_by_csls():
    """A vector between all others is nearest to each of them once noise hides the translations."""
    rng = np.random.default_rng(3)
    source = rng.normal(size=(200, 20)) + 1.5
    target = source + rng.normal(size=source.shape)
    target[0] = 1.5
    plain, corrected = (found.indices[:, 0] for found in (neighbours(source, target), csls(source, target)))
    assert np.mean(plain == 0) > 0.1 and np.mean(corrected == 0) < 0.05
    assert np.mean(corrected == np.arange(200)) > np.mean(plain == np.arange(200)) + 0.05


def test_neighbours_are_those_of_faiss():
    faiss = pytest.importorskip("faiss")
    queries, candidates = _sides(257, 3001, 48)
    index = faiss.IndexFlatIP(48)
    index.add(unit(candidates))
    scores, places = index.search(unit(queries), 10)
    found = neighbours(queries, candidates, 10)
    np.testing.assert_allclose(found.scores, scores, atol=2e-6)
    # Only candidates whose cosines differ in the last bit may change places.
    assert (found.indices == places).mean() > 0.999


@pytest.mark.parametrize("penalized", [False, True])
def test_shortlists_give_what_exact_search_gives(monkeypatch, penalized):
    """Queries with more equals than their shortlist holds are searched again."""
    monkeypatch.setattr(module, "SHORTLIST_FROM", 1000)
    monkeypatch.setattr(module, "fast_bfloat16", lambda: True)
    queries, candidates = _sides(300, 1501)
    candidates[[7, 8, 1500]] = queries[0]
    candidates[100:500] = queries[1]
    queries[2], candidates[900] = 0, 0
    penalty = np.random.default_rng(1).random(1501) * 0.1 * penalized
    again = []
    exact = module._exact
    monkeypatch.setattr(module, "_exact", lambda q, *rest: again.append(len(q)) or exact(q, *rest))
    found = neighbours(queries, candidates, 3, penalty=penalty)
    wanted = neighbours(queries, candidates, 3, penalty=penalty, block=(512, 1536))
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
    if not penalized:
        assert found.indices[:2].tolist() == [[7, 8, 1500], [100, 101, 102]]
        assert again[0] < 20


def test_a_shortlist_is_certain_only_beyond_the_rounding():
    """Candidates that bfloat16 cannot tell apart fill more chunks than are kept."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(1, 32)).astype(np.float32)
    near = query + 1e-3 * rng.normal(size=(4096, 32)).astype(np.float32)
    penalty = np.zeros(4096)
    assert not module.shortlists.search(query, near, penalty, 2)[1].any()
    spread = rng.normal(size=(4096, 32)).astype(np.float32)
    spread[[5, 77]] = near[:2]
    (_, index), sure = module.shortlists.search(query, spread, penalty, 2)
    assert sure.all() and set(index[0]) == {5, 77}


def test_only_a_block_of_the_matrix_is_held(monkeypatch, tmp_path):
    """The sides may be memory maps, of which one block is read at a time."""
    queries, candidates = _sides(700, 900)
    maps = []
    for name, side in (("q", queries), ("c", candidates)):
        side.astype(np.float16).tofile(tmp_path / name)
        maps.append(np.memmap(tmp_path / name, np.float16, "r", shape=side.shape))
    shapes = []
    merge = module._merge
    monkeypatch.setattr(
        module, "_merge", lambda *parts: shapes.append((parts[2].shape, parts[3].shape)) or merge(*parts)
    )
    found = neighbours(*maps, 2, block=(256, 256))
    assert max(rows for both in shapes for rows, _ in both) == 256 and len(shapes) == 3 * 4
    np.testing.assert_array_equal(found.indices, neighbours(*map(np.asarray, maps), 2).indices)


def test_bad_input_is_one_line():
    queries, candidates = _sides(4, 5)
    broken = candidates.copy()
    broken[3, 2] = np.nan
    cases = [
        ((queries, broken), "row 3 of candidates is not finite"),
        ((queries, candidates[:, :4]), "queries have width 16, candidates 4"),
        ((queries[:0], candidates), "queries has 0 rows"),
        ((queries, candidates.astype(str)), r"candidates holds <U\d+; it must hold real numbers"),
        ((queries[0], candidates), r"queries has shape \(16,\)"),
        ((queries, candidates, 0), r"k = 0; it must lie in \[1, inf\]"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            neighbours(*arguments)
    with pytest.raises(UserError, match="penalty has 3 rows; 5 are needed"):
        neighbours(queries, candidates, penalty=np.zeros(3))
    with pytest.raises(UserError, match="kind = 'cosine'; choose from absolute, ratio"):
        margin(queries, 0, 0, "cosine")
