from __future__ import annotations

import time

import numpy as np
import pytest

from xalign_jax.data.sampling.mixing import Blocks, Epochs
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.rates import BLOCK, block_counts, member_counts, member_rates
from xalign_jax.errors import UserError

TOKENS = {"en": 8000, "en_clone": 8000, "de": 1000, "facts": 50}


def test_explicit_rates_are_normalised_and_the_rest_is_zero():
    rates = member_rates(TOKENS, (("en", 8), ("de", 2)), alpha=1.0)
    assert rates == {"en": 0.8, "en_clone": 0.0, "de": 0.2, "facts": 0.0}


def test_proportional_temperature_and_uniform_rates():
    sizes = {"en": 8000, "de": 1000, "facts": 50}
    assert member_rates(sizes, (), 1.0, ("facts",)) == {"en": 8 / 9, "de": 1 / 9, "facts": 0.0}
    assert member_rates(sizes, (), 1 / 3, ("facts",))["en"] == pytest.approx(2 / 3)
    assert member_rates(sizes, (), 0.0, ("facts",))["en"] == 0.5


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"en": 0.0}, "sum to 0.0"),
        ({"en": -1.0, "de": 2.0}, "gives 'en' the rate -1.0; rates are numbers >= 0"),
        ({"en": float("nan")}, "gives 'en' the rate nan"),
        ({"en": float("inf")}, "gives 'en' the rate inf"),
        ({"en": 1e308, "de": 1e308}, "sum to inf"),
        ((("en", 1.0), ("en", 2.0)), "names a member twice"),
        ({"en": 1.0, "de": 0.0001}, "gives 'de' 0.0001: less than one row in 1000"),
    ],
)
def test_a_mixture_refuses_rates_that_none_can_have(rates, said):
    with pytest.raises(UserError, match=r"Mixture\.rates.*" + said):
        Mixture(tasks=("docs_en",), rates=rates)


@pytest.mark.parametrize("explicit", [(("fr", 1.0),), (("empty", 1.0),)])
def test_rates_that_do_not_fit_name_the_binding(explicit):
    with pytest.raises(UserError, match=r"Mixture\.rates"):
        member_rates(TOKENS | {"empty": 0}, explicit, 1.0)


def test_a_mixture_without_members_is_an_error():
    with pytest.raises(UserError, match=r"Mixture\.rates"):
        member_rates({}, (), 1.0)


def test_block_counts_are_exact_by_largest_remainder():
    for explicit in (True, False):
        assert block_counts({"a": 0.88, "b": 0.10, "c": 0.02}, explicit).tolist() == [880, 100, 20]
        assert block_counts({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, explicit).tolist() == [334, 333, 333]
        assert block_counts({"a": 0.0, "b": 1.0}, explicit).tolist() == [0, 1000]
    with pytest.raises(UserError, match=r"'b' 0.0001: less than one row in 1000; raise it or leave it out"):
        block_counts({"a": 0.9999, "b": 0.0001}, explicit=True)


def test_small_languages_have_a_row_at_least_where_alpha_decides():
    """About a hundred languages of which some have a millionth of the text."""
    sizes = {f"l{i}": round(1e9 * 0.8**i) + 10 for i in range(95)} | {"none": 0}
    rates = member_rates(sizes, (), 0.7)
    counts = block_counts(rates, explicit=False)
    assert counts.sum() == BLOCK and counts[:-1].min() == 1 and counts[-1] == 0
    exact, single = np.array(list(rates.values())) * BLOCK, counts == 1
    exact *= (BLOCK - single.sum()) / exact[~single].sum()
    assert np.all(np.abs(counts - exact)[counts > 1] <= 1)  # the others keep their proportions
    with pytest.raises(UserError, match="more than 1000 members"):
        block_counts({str(i): 1 / 1001 for i in range(1001)}, explicit=False)


def blocks(seed: int = 3) -> Blocks:
    return Blocks(np.array([600, 150, 230, 20]), np.array([0, 0, 1, 2]), seed)


def test_every_block_holds_exact_counts_in_another_order():
    member, _ = blocks().locate(np.arange(5 * BLOCK))
    for block in member.reshape(5, BLOCK):
        assert np.bincount(block).tolist() == [600, 150, 230, 20]
    assert len({block.tobytes() for block in member.reshape(5, BLOCK)}) == 5
    assert not np.array_equal(member, blocks(4).locate(np.arange(5 * BLOCK))[0])


def test_cursors_equal_brute_force_enumeration():
    """Each cursor hands out 0, 1, 2, ... in the order of the rows, whatever member of it asks."""
    member, cursor = blocks().locate(np.arange(4 * BLOCK))
    owner = blocks().cursor[member]
    for text, per_block in ((0, 750), (1, 230), (2, 20)):
        for block in range(4):
            mine = cursor[block * BLOCK : (block + 1) * BLOCK][owner[block * BLOCK : (block + 1) * BLOCK] == text]
            assert np.array_equal(mine, np.arange(block * per_block, (block + 1) * per_block))


def test_order_and_slicing_do_not_matter():
    rows = np.random.default_rng(0).permutation(3000)
    member, cursor = blocks().locate(np.arange(3000))
    other_member, other_cursor = blocks().locate(rows)
    assert np.array_equal(member[rows], other_member) and np.array_equal(cursor[rows], other_cursor)


def test_a_far_step_starts_as_fast_as_the_first():
    start = time.thread_time()  # of this thread alone: a busy machine does not count
    _, cursor = blocks().locate(np.arange(32) + 32 * 10**9)
    assert time.thread_time() - start < 0.1
    assert cursor.min() >= 32 * 10**6 * 20


def test_members_of_rate_0_have_no_rows():
    assert member_counts({"en": 90, "de": 10, "facts": 5}, (), 1.0, ("facts",)) == {"en": 900, "de": 100}


def test_a_cursor_reads_each_of_its_items_once_in_an_epoch_in_another_order_each_time():
    """Members 0 and 1 share a cursor of 400 items, which begins at item 100."""
    blocks = Blocks(np.array([600, 150, 250]), np.array([0, 0, 1]), 7)
    epochs = Epochs(blocks, np.array([100, 0]), np.array([400, 100]), np.array([3, 4], np.uint64))
    found = epochs.locate(np.arange(16 * BLOCK))
    orders = []
    for epoch in range(16 * 750 // 400):
        mine = found.item[(found.member < 2) & (found.epoch == epoch)]
        assert sorted(mine) == list(range(100, 500))
        orders.append(mine.tolist())
    assert orders[0] != orders[1]
    assert set(found.item[found.member == 2]) == set(range(100))
