from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.data.sampling.hashing import draw32, hash64, permute, uniform


def test_hash_broadcasts_and_depends_on_order_and_values():
    rows = np.arange(5)
    table = hash64(7, rows[:, None], np.arange(3))
    assert table.shape == (5, 3) and table.dtype == np.uint64
    assert len(np.unique(table)) == 15
    assert table[2, 1] == hash64(7, 2, 1)
    assert hash64(1, 2) != hash64(2, 1)
    assert hash64("a", -1) == hash64("a", np.int64(-1)) != hash64("b", -1)


def test_hash_is_fixed():
    """Changing the hash changes every run's data: this is a format. Sums run over without a warning."""
    with np.errstate(over="raise"):
        assert int(hash64(0)) == 16294208416658607535
    assert int(hash64(1, "rows", 10**12)) == int(hash64(np.uint64(1), "rows", np.array([10**12]))[0])


def test_draws_and_permutations_are_fixed():
    assert float(uniform(3, 5)) == 0.8061697810074383
    drawn = [[0, 33350994, 83415710], [2492178918, 2803216774, 197629295]]
    assert draw32(np.array([0, 7], np.uint32), 3).tolist() == drawn
    assert permute(np.arange(7), 7, 5).tolist() == [1, 2, 3, 5, 0, 6, 4]
    assert int(permute(123456789, 10**12, 2)) == 865612116810


def test_uniform_is_uniform():
    values = uniform(3, np.arange(100_000))
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, 100, (0, 1))[0]
    assert abs(((counts - 1000) ** 2 / 1000).sum() - 99) < 5 * np.sqrt(2 * 99)


def test_draws_do_not_depend_on_the_count_and_are_uniform():
    keys = hash64(1, np.arange(300)).astype(np.uint32)
    draws = draw32(keys, 512)
    assert np.array_equal(draws[:, :100], draw32(keys, 100))
    assert np.array_equal(draws[5:9], draw32(keys[5:9], 512))
    counts = np.bincount((draws >> 24).ravel(), minlength=256)
    mean = draws.size / 256
    assert ((counts - mean) ** 2 / mean).sum() < 255 + 5 * np.sqrt(2 * 255)
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("size", [1, 2, 3, 7, 97, 1000, 4097])
def test_permute_is_a_bijection(size):
    image = permute(np.arange(size), size, 5)
    assert np.array_equal(np.sort(image), np.arange(size))
    if size > 90:
        assert not np.array_equal(image, permute(np.arange(size), size, 6))
        assert np.mean(image == np.arange(size)) < 0.1


def test_permute_takes_arrays_of_sizes_and_seeds():
    index, size, seed = np.array([0, 1, 5]), np.array([1, 2, 10**12]), np.array([3, 4, 5], np.uint64)
    together = permute(index, size, seed)
    assert [int(x) for x in together] == [int(permute(*item)) for item in zip(index, size, seed, strict=True)]
    with pytest.raises(ValueError, match="outside"):
        permute(3, 3, 0)


def test_permute_places_items_evenly():
    """Over many seeds each of 5 items lands on each of 5 places equally often."""
    seeds = np.arange(20_000)
    for item in range(5):
        counts = np.bincount(permute(item, 5, hash64(seeds)), minlength=5)
        assert np.all(np.abs(counts - 4000) < 5 * np.sqrt(3200))
