from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.data.feeds.packing import pack


def plain_first_fit(sizes: np.ndarray, length: int, slots: int) -> list[tuple[int, int, tuple[int, ...]]]:
    used: list[tuple[tuple[int, ...], int]] = []
    found = [(0, 0, (0,))] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i].sum()):
        size = sizes[item].tolist()
        fits = [n < slots and all(p + s <= length for p, s in zip(at, size, strict=True)) for at, n in used]
        row = [*fits, True].index(True)
        if row == len(used):
            used.append(((0,) * len(size), 0))
        places, taken = used[row]
        found[item] = row, taken, places
        used[row] = tuple(p + s for p, s in zip(places, size, strict=True)), taken + 1
    return found


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(("length", "slots"), [(32, 3), (32, 100), (17, 1)])
def test_packing_is_first_fit_longest_first(views, length, slots):
    sizes = np.random.default_rng(views).integers(1, 18, (300, views))
    row, slot, place = pack(sizes, length, slots)
    got = list(zip(row.tolist(), slot.tolist(), map(tuple, place.tolist()), strict=True))
    assert got == plain_first_fit(sizes, length, slots)


def test_one_item_a_row_where_nothing_fits_beside_it():
    row, slot, place = pack(np.full((5, 1), 9), 16, 4)
    assert sorted(row) == list(range(5)) and not slot.any() and not place.any()


@pytest.mark.parametrize("slots", [3, 100])
def test_items_in_their_order_packed_into_some_rows(slots):
    """Without what lies beyond, the first rows are those of a packing that has no others."""
    sizes = np.random.default_rng(0).integers(1, 18, (200, 1))
    row, slot, place = pack(sizes, 32, slots, longest_first=False)
    expected, used, taken = [], [0] * 20, [0] * 20
    for item, (size,) in enumerate(sizes.tolist()):
        fits = [u + size <= 32 and n < slots for u, n in zip(used, taken, strict=True)]
        if any(fits):
            found = fits.index(True)
            expected.append((item, found, taken[found], used[found]))
            used[found], taken[found] = used[found] + size, taken[found] + 1
    got = zip(range(200), row.tolist(), slot.tolist(), place[:, 0].tolist(), strict=True)
    assert [item for item in got if item[1] < 20] == expected
