"""Maps between spaces: against scikit-learn, SciPy and POT; planted maps are found and help held-out pairs."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.alignment.barycentre import barycentre, sinkhorn
from xalign_jax.alignment.linear_maps import canonical, least_squares, procrustes, ridge, whitened
from xalign_jax.alignment.maps import (
    LinearMap,
    canonical_maps,
    centring,
    load_maps,
    meta_embedding,
    regression,
    rotation,
    save_maps,
    summed,
)
from xalign_jax.alignment.neighbours import neighbours, unit
from xalign_jax.alignment.self_learning import self_learning
from xalign_jax.errors import UserError


def _planted(n: int = 300, width: int = 10, noise: float = 0.3, seed: int = 0):
    """A target that is the source turned, moved and blurred."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    source = rng.normal(size=(n, width)) + 1.0
    return source, source @ turn + noise * rng.normal(size=source.shape) + 2 * rng.normal(size=width), turn


def _accuracy(source: np.ndarray, target: np.ndarray) -> float:
    return float(np.mean(neighbours(source, target).indices[:, 0] == np.arange(len(source))))


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_ridge_is_that_of_scikit_learn(shape):
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=(shape[0], 5))
    np.testing.assert_allclose(ridge(x, y, 2.5), linear.Ridge(2.5, fit_intercept=False).fit(x, y).coef_.T, atol=1e-10)
    np.testing.assert_allclose(ridge(x, y, 1e-9), least_squares(x, y), atol=1e-5)


def test_canonical_correlations_are_those_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.cross_decomposition")
    rng = np.random.default_rng(0)
    x, _, _ = _planted(400, 4)
    y = x @ rng.normal(size=(4, 6)) + rng.normal(size=(400, 6))
    x, y = x - x.mean(0), y - y.mean(0)
    left, right, found = canonical(x, y)
    peer = decomposition.CCA(n_components=4, scale=False, max_iter=9000, tol=1e-14).fit(x, y)
    for k, (a, b) in enumerate(zip(*(side.T for side in peer.transform(x, y)), strict=True)):
        assert found[k] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-4)
        assert abs(np.corrcoef(a, x @ left[:, k])[0, 1]) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose((x @ left).T @ (x @ left), np.eye(4), atol=1e-10)
    np.testing.assert_allclose((x @ left).T @ (y @ right), np.diag(found), atol=1e-10)


def test_the_advanced_map_is_that_of_vecmap():
    """Step by step as artetxem/vecmap maps: whiten, rotate, re-weight, undo the whitening."""
    x, z, _ = _planted()
    x, z = x - x.mean(0), z - z.mean(0)

    def whitening(side: np.ndarray) -> np.ndarray:
        _, values, axes = np.linalg.svd(side, full_matrices=False)
        return axes.T @ np.diag(1 / values) @ axes

    wx1, wz1 = whitening(x), whitening(z)
    xw, zw = x @ wx1, z @ wz1
    wx2, values, wz2 = np.linalg.svd(xw.T @ zw)
    wz2 = wz2.T
    xw, zw = xw @ wx2 * values**0.5, zw @ wz2 * values**0.5
    wanted = (xw @ wx2.T @ np.linalg.inv(wx1) @ wx2, zw @ wz2.T @ np.linalg.inv(wz1) @ wz2)
    for side, weight, mapped in zip((x, z), whitened(x, z), wanted, strict=True):
        np.testing.assert_allclose(side @ weight, mapped, atol=1e-8)


@pytest.mark.parametrize("fit", [rotation, regression, canonical_maps])
def test_maps_fitted_on_some_pairs_help_others(fit):
    source, target, _ = _planted()
    first, second = fit(source[:200], target[:200])
    before, base = _accuracy(source[200:], target[200:]), centring(source[:200], target[:200])
    plain = _accuracy(base[0](source[200:]), base[1](target[200:]))
    assert _accuracy(first(source[200:]), second(target[200:])) > 0.9 > 0.3 > max(before, plain)


def test_centring_alone_undoes_an_offset():
    source, _, _ = _planted()
    target = source + 0.3 * np.random.default_rng(1).normal(size=source.shape) + 9 * np.eye(10)[0]
    first, second = centring(source[:200], target[:200])
    assert _accuracy(source[200:], target[200:]) < 0.7
    assert _accuracy(first(source[200:]), second(target[200:])) > 0.9


def test_a_rotation_is_found_whatever_the_lengths():
    source, _, turn = _planted()
    first, second = rotation(source, 7 * source @ turn + 3)
    np.testing.assert_allclose(first.weight, turn, atol=1e-8)
    np.testing.assert_allclose(unit(first(source)), unit(second(7 * source @ turn + 3)), atol=1e-8)
    np.testing.assert_array_equal(second.weight, np.eye(10))


def test_least_squares_of_fewer_pairs_than_dimensions_has_least_norm():
    source, target, _ = _planted(6)
    found = regression(source, target, centred=False)[0]
    np.testing.assert_allclose(found.weight, np.linalg.pinv(source) @ target, atol=1e-8)
    np.testing.assert_array_equal(found.centre, 0)
    smaller = regression(source, target, centred=False, strength=5.0)[0]
    assert np.linalg.norm(smaller.weight) < np.linalg.norm(found.weight)


def test_canonical_maps_keep_what_correlates():
    source, target, _ = _planted()
    noisy = np.hstack([source, 30 * np.random.default_rng(3).normal(size=source.shape)])
    first, second = canonical_maps(noisy[:200], target[:200], dimensions=8, power=1.0)
    assert first.weight.shape == (20, 8) and second.weight.shape == (10, 8)
    assert _accuracy(first(noisy[200:]), second(target[200:])) > 0.7


def test_self_learning_grows_a_small_dictionary():
    source, target, _ = _planted(250, 20, noise=0.15)
    order = np.random.default_rng(2).permutation(250)
    target = target[order]
    right = np.argsort(order)
    seeds = np.stack([np.arange(10), right[:10]], axis=1)
    found = self_learning(source, target, seeds, seed=0, patience=2, keep=0.5)
    again = self_learning(source, target, seeds, seed=0, patience=2, keep=0.5)
    np.testing.assert_array_equal(found.source.weight, again.source.weight)
    mapped = neighbours(found.source(source), found.target(target)).indices[:, 0]
    # The seeds alone do not fix the rotation: there are fewer of them than dimensions.
    sides = [unit(fitted(side)) for fitted, side in zip(centring(source, target), (source, target), strict=True)]
    turn = procrustes(sides[0][:10], sides[1][right[:10]])
    alone = neighbours(sides[0] @ turn, sides[1]).indices[:, 0]
    assert np.mean(mapped == right) > 0.95 > 0.8 > np.mean(alone == right)
    assert np.mean(right[found.dictionary[:, 0]] == found.dictionary[:, 1]) > 0.95 and found.rounds > 3
    cut = self_learning(source, target, seeds, seed=0, patience=2, keep=1.0, cutoff=220)
    assert cut.dictionary.max() < 220 and cut.rounds < found.rounds + 10


def test_a_random_draw_belongs_to_a_word_and_not_to_its_block(monkeypatch):
    from xalign_jax.alignment import self_learning as module

    source, target, _ = _planted(130)
    seeds = np.stack([np.arange(15)] * 2, axis=1)
    found = self_learning(source, target, seeds, seed=0, keep=0.3, most_rounds=2)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(
        self_learning(source, target, seeds, seed=0, keep=0.3, most_rounds=2).dictionary, found.dictionary
    )
    other = self_learning(source, target, seeds, seed=1, keep=0.3, most_rounds=2)
    assert (other.dictionary != found.dictionary).any()


@pytest.mark.parametrize("epsilon", [1.0, 0.02])
def test_plans_are_those_of_pot(transport, epsilon):
    rng = np.random.default_rng(0)
    cost = rng.random((12, 17))
    wanted = transport.sinkhorn(
        np.full(12, 1 / 12), np.full(17, 1 / 17), cost, epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-12
    )
    found = sinkhorn(cost, epsilon=epsilon, rounds=20000)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_allclose(found.sum(0), 1 / 17)
    np.testing.assert_allclose(found.sum(1), 1 / 12, atol=1e-8)


def test_the_barycentre_is_that_of_pot_where_nothing_rotates(transport):
    rng = np.random.default_rng(0)
    clouds = {name: rng.normal(size=(count, 3)) + k for k, (name, count) in enumerate((("a", 20), ("b", 25)))}
    prepared = [unit(cloud) - unit(cloud).mean(0) for cloud in clouds.values()]
    points = rng.normal(size=(10, 3))
    found = barycentre(
        clouds, support=points, epsilon=0.5, rounds=5, rotate=False, weights={"a": 1, "b": 3}, sinkhorn_rounds=5000
    )
    wanted = transport.bregman.free_support_sinkhorn_barycenter(
        prepared, [np.full(len(c), 1 / len(c)) for c in prepared], points, 0.5, weights=np.asarray([0.25, 0.75]),
        numItermax=5, numInnerItermax=5000, stopThr=0, method="sinkhorn_log",
    )  # fmt: skip
    np.testing.assert_allclose(found.support, wanted, atol=1e-5)


def test_a_barycentre_turns_several_languages_to_one_space():
    """No pair is given; a start that is a little off is corrected for all languages together."""
    rng = np.random.default_rng(1)
    meaning = rng.normal(size=(150, 5)) * [3, 2, 1.5, 1, 0.5] + 0.3
    clouds, start = {}, {}
    for name in ("en", "de", "hi"):
        turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        clouds[name] = meaning @ turn + 0.02 * rng.normal(size=meaning.shape)
        start[name] = np.linalg.qr(turn.T + 0.15 * rng.normal(size=(5, 5)))[0]
        start[name] *= np.sign(np.sum(start[name] * turn.T, axis=0))
    found = barycentre(clouds, start, epsilon=0.02, rounds=8, sinkhorn_rounds=200)
    mapped = {name: found.maps[name](clouds[name]) for name in clouds}
    before = {name: LinearMap(start[name], found.maps[name].centre, True)(clouds[name]) for name in clouds}
    for a, b in (("en", "de"), ("de", "hi"), ("en", "hi")):
        assert _accuracy(mapped[a], mapped[b]) > 0.9 > _accuracy(before[a], before[b])
    assert found.cost[-1] < found.cost[0]
    for name in clouds:
        np.testing.assert_allclose(found.maps[name].weight.T @ found.maps[name].weight, np.eye(5), atol=1e-10)


def test_meta_embeddings_join_models():
    """Two models that each see half of the meaning; their sum tells all words apart."""
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(300, 12))
    sets = [meaning[:, :6] @ rng.normal(size=(6, 8)), meaning[:, 6:] @ rng.normal(size=(6, 9))]
    joined = summed(meta_embedding(sets, kind="concatenate"), sets)
    assert joined.shape == (300, 17)
    centred = [unit(side) - unit(side).mean(0) for side in sets]
    np.testing.assert_allclose(joined, np.hstack(centred), atol=1e-12)
    small = summed(meta_embedding(sets, kind="svd", dimensions=12), sets)
    np.testing.assert_allclose(small @ small.T, joined @ joined.T, atol=0.3)
    left, values, _ = np.linalg.svd(np.hstack(centred), full_matrices=False)
    np.testing.assert_allclose(np.abs(small), np.abs((left * values)[:, :12]), atol=1e-8)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    turned = [sets[0], sets[0] @ turn]
    np.testing.assert_allclose(summed(meta_embedding(turned), turned), centred[0], atol=1e-8)
    maps = meta_embedding([side[:200] for side in sets], kind="svd", dimensions=5)
    assert summed(maps, [side[200:] for side in sets]).shape == (100, 5)


def test_saved_maps_are_loaded_as_they_were(tmp_path):
    source, target, _ = _planted()
    maps = dict(zip(("en", "de:informal"), rotation(source, target), strict=True))
    maps["meta"] = meta_embedding([source, target])[1]
    save_maps(tmp_path / "maps", maps)
    loaded = load_maps(tmp_path / "maps")
    assert list(loaded) == ["en", "de:informal", "meta"]
    for name, fitted in maps.items():
        np.testing.assert_array_equal(loaded[name](source), fitted(source))


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "array", "other", "cut", "lacking"])
def test_files_without_maps_are_refused(tmp_path, damage):
    path = tmp_path / "maps.npz"
    save_maps(path, {"en": LinearMap(np.eye(2), np.zeros(2))})
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "array":
        np.save(path.with_suffix(".npy"), np.eye(2))
        path.write_bytes(path.with_suffix(".npy").read_bytes())
    elif damage in ("other", "lacking"):
        np.savez(path, **{"weight:en" if damage == "lacking" else "vectors": np.eye(2)})
    else:
        path.write_bytes({"empty": b"", "text": b"no maps\n", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match=r"maps\.npz: (no such file|not a file of maps|holds no maps)") as caught:
        load_maps(path)
    assert "\n" not in str(caught.value)


def test_bad_input_is_one_line():
    source, target, _ = _planted(30)
    seeds = np.asarray([[0, 0]])
    cases = [
        (lambda: rotation(source[:9], target[:9]), "rotation: 9 pairs for 10 dimensions; give at least 10"),
        (lambda: canonical_maps(source[:10], target[:10]), "canonical_maps: 10 pairs for 10 dimensions"),
        (lambda: canonical_maps(source[:, [0, 0]], target), "source has width 2 but only 1 independent columns"),
        (lambda: canonical_maps(source, target, dimensions=11), r"dimensions = 11; it must lie in \[1, 10\]"),
        (lambda: regression(source, target, strength=-1), r"strength = -1; it must lie in \[0, inf\]"),
        (lambda: regression(source, target[:5]), "source has 30 rows and target has 5"),
        (lambda: rotation(source, target)[0](source[:, :4]), "the vectors have width 4, the map was fitted on 10"),
        (lambda: self_learning(source, target, [[0, 30]], seed=0), r"seed pair \(0, 30\) lies outside 30 and 30 words"),
        (lambda: self_learning(source, target, np.zeros((0, 2)), seed=0), "seeds has shape"),
        (
            lambda: self_learning(source, target, [[5, 5]], seed=0, cutoff=4),
            "no seed pair is among the 4 most frequent",
        ),
        (lambda: self_learning(source[:5], target, seeds, seed=0), "5 words for 10 dimensions"),
        (lambda: self_learning(source, target, seeds, seed=0, keep=0.0), "keep = 0.0"),
        (lambda: barycentre({"en": source}), "1 languages; at least two are needed"),
        (lambda: barycentre({"en": source, "de": target[:, :4]}), "de has width 4, en has width 10"),
        (lambda: barycentre({"en": source, "de": target}, {"en": np.eye(10)}), "start has no rotation of de"),
        (lambda: barycentre({"en": source, "de": target}, weights={"en": 1}), "weights must hold a number above 0"),
        (lambda: meta_embedding([source]), "1 sets; at least two are needed"),
        (lambda: meta_embedding([source, target], kind="svd"), "needs dimensions"),
        (lambda: meta_embedding([source, target[:, :3]]), "source has width 10 and target has width 3"),
        (lambda: meta_embedding([source, target], kind="sum"), "kind = 'sum'; choose from average"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
