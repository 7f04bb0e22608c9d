"""Rates that change with the step, and caps: exact totals, cursors, and rows that are pure functions of their number."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from fakes import FakeTokenizer, checksum, make_store

from xalign_jax.data.corpus import Corpus, tells_facts
from xalign_jax.data.feeds import packing
from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed
from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.data.sampling.mixing import Blocks, member_rows
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.rates import BLOCK, capped
from xalign_jax.data.sampling.schedules import Linear, Piecewise
from xalign_jax.errors import UserError

LENGTH, SLOTS = 32, 4
SIZES = {"de": 1000, "en": 8000, "fr": 100}
LOW, HIGH = {"en": 0.9, "de": 0.1}, {"en": 0.1, "de": 0.9}
FEEDS = [
    WindowFeed(LENGTH),
    TextFeed(LENGTH, SLOTS),
    TranslationFeed(LENGTH, SLOTS, 14),
    ContrastFeed(LENGTH, SLOTS, 30),
]
FEEDS += [ContrastFeed(LENGTH, SLOTS, 14, mixup=True)]
CONSTANT = LOW
PIECEWISE = Piecewise(((0, LOW), (250_500, {"en": 1, "fr": 2}), (250_900, HIGH), (700_000, {"en": 0.5, "de": 0.5})))
LINEAR = Linear(((0, LOW), (333_333, HIGH), (800_000, {"en": 0.2, "fr": 0.7, "de": 0.1})))


def mixture(rates=(), **settings) -> Mixture:
    return Mixture(("texts",), rates=rates, **settings)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """300 texts in each of three languages that translate each other; German ones are short, French ones long."""
    rng, stores = np.random.default_rng(0), {}
    for language, least in (("de", 2), ("en", 5), ("fr", 15)):
        texts = [np.append(rng.integers(10, 200, rng.integers(least, least + 10)), 1) for _ in range(300)]
        store = make_store(np.concatenate(texts).astype(np.uint16), language)
        hashes = rng.integers(1, 2**32, 300, dtype=np.uint32)
        stores[language] = dataclasses.replace(store, group=np.arange(300, dtype=np.int32), text_hash=hashes)
    return Corpus(FakeTokenizer([f"▁w{i}" for i in range(240)]), {"texts": {"train": stores}}, None, None)


@pytest.fixture
def small_blocks(monkeypatch):
    """An eighth of the usual work of packing."""
    monkeypatch.setattr(packing, "ITEMS", 512)


def exact_rows(rates, rows: int) -> np.ndarray:
    """(3,) rows of de, en, fr among the first `rows`, as the sum of each row's exact rates."""
    at = np.arange(rows) + 0.5
    if isinstance(rates, dict):
        return rows * np.array([rates.get(name, 0) for name in SIZES])
    shares = np.array([[dict(value).get(name, 0) for name in SIZES] for value in rates.values], np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    if isinstance(rates, Linear):
        return np.array([np.interp(at, rates.starts, column).sum() for column in shares.T])
    return shares[np.searchsorted(rates.starts, at, side="right") - 1].sum(axis=0)


def realised(feed, source, first: int, last: int) -> np.ndarray:
    """(3,) rows (or items of a packed feed) of de, en, fr from first to last - 1."""
    numbers = np.arange(first, last)
    found = source.windows(numbers)[0] if isinstance(feed, WindowFeed) else source._source.items(numbers).language
    names = source.languages
    counts = np.bincount(found.ravel(), minlength=len(names))
    return np.array([counts[names.index(name)] if name in names else 0 for name in SIZES])


@pytest.mark.parametrize("feed", FEEDS[:2], ids=["windows", "packed"])
@pytest.mark.parametrize("rates", [CONSTANT, PIECEWISE, LINEAR], ids=["constant", "piecewise", "linear"])
def test_a_million_rows_hold_the_exact_shares(corpus, small_blocks, feed, rates):
    source = feed.build(corpus, mixture(rates), 64, 3)
    # A packed feed's rates are of items: a point at row r lies at the item that row r begins with.
    scale = 1.0 if isinstance(feed, WindowFeed) else source._row_units
    if not isinstance(rates, dict):
        rates = rates.in_rows(lambda row: round(row * scale))
    total = np.zeros(3)
    for first in range(0, 10**6, 10**5):
        total += realised(feed, source, first, first + 10**5)
        rows, exact = first + 10**5, exact_rows(rates, first + 10**5)
        share = exact / rows
        assert (np.abs(total - exact) <= 4 * np.sqrt(rows * share * (1 - share)) + 1e-6).all()
        assert (np.abs(total - exact) <= rows / BLOCK).all()
        if isinstance(rates, Linear):  # what rounding owes is made up; a point within a block may cost a row each
            assert (np.abs(total - exact) <= 3.5).all()


@pytest.mark.parametrize("rates", [PIECEWISE, LINEAR])
def test_each_block_holds_the_shares_of_its_rows(rates):
    found = member_rows(SIZES, mixture(rates))
    blocks = Blocks(found.counts, np.arange(3), 1, found.start)
    for block in (0, 1, 249, 250, 251, 333, 600, 799, 800, 5000):
        member, _ = blocks.locate(block * BLOCK + np.arange(BLOCK))
        exact = exact_rows(rates, (block + 1) * BLOCK) - exact_rows(rates, block * BLOCK)
        assert np.abs(np.bincount(member, minlength=3) - exact).max() <= 2  # one to round, one that is owed


def test_cursors_hand_out_each_index_once_while_rates_change():
    """Members 0 and 1 share a cursor. In the order of the rows it hands out 0, 1, 2, ..."""
    rates = Linear(((0, {"de": 0.5, "en": 0.5}), (4500, {"en": 0.2, "fr": 0.8}), (9000, {"de": 1})))
    found = member_rows(SIZES, mixture(rates))
    blocks = Blocks(found.counts, np.array([0, 0, 1]), 5, found.start)
    member, index = blocks.locate(np.arange(12 * BLOCK))
    for cursor in (0, 1):
        mine = index[blocks.cursor[member] == cursor]
        assert np.array_equal(mine, np.arange(len(mine)))
    some = np.random.default_rng(0).permutation(12 * BLOCK)[:500]
    assert all(np.array_equal(a[some], b) for a, b in zip((member, index), blocks.locate(some), strict=True))


def test_long_ramps_need_little_memory_and_a_far_row_little_time():
    found = member_rows(SIZES, mixture(Linear(((0, LOW), (10**10, HIGH)))))
    assert len(found.start) == 1001 and found.counts[0].tolist() == [100, 900]
    blocks = Blocks(found.counts, np.arange(2), 1, found.start)
    blocks.locate(np.arange(32))
    start = time.thread_time()  # of this thread alone: a busy machine does not count
    member, index = blocks.locate(np.arange(32) + 32 * 10**9)
    assert time.thread_time() - start < 0.1
    # On average over the ramp, and after it, one of ten and nine of ten rows.
    assert np.abs(index[member == 0] - (0.5e10 + 0.9 * 2.2e10)).max() < 1e7


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("kind", [Piecewise, Linear])
def test_a_schedule_of_equal_points_reads_the_rows_of_constant_rates(corpus, small_blocks, feed, kind):
    # Thirds do not fill whole rows of a block: rounding is the same as well.
    rates, other = {"de": 1, "en": 1, "fr": 1}, {"de": 2, "en": 2, "fr": 2}
    for constant, changing in (
        (mixture(rates), mixture(kind(((0, rates), (1500, other))))),
        (mixture(alpha=0.3), mixture(alpha=kind(((0, 0.3), (1500, 0.3))))),
    ):
        expected, found = (feed.build(corpus, made, 64, 3) for made in (constant, changing))
        for first in (0, 64 * 20, 64 * 10**6):
            assert checksum(found.batch(first, slice(None))) == checksum(expected.batch(first, slice(None)))


CHANGING = [
    mixture(Piecewise(((0, LOW), (500, HIGH), (2100, {"en": 0.3, "fr": 0.7})))),
    mixture(Linear(((0, LOW), (3000, HIGH))), cap=4),
    mixture(alpha=Linear(((0, 0.7), (1500, 0.5), (3000, 0.3)))),
]


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("changing", CHANGING, ids=["piecewise", "linear", "alpha"])
def test_hosts_that_read_slices_read_the_whole_batch(corpus, small_blocks, feed, changing):
    """Batches 0 to 99 and batch 1,000,000, whole and by 1, 2 and 8 hosts that each have a feed of their own."""
    rows = 32
    whole = feed.build(corpus, changing, rows, 3)
    expected = {step: checksum(whole.batch(step * rows, slice(None))) for step in (*range(100), 10**6)}
    assert len(set(expected.values())) == 101
    for hosts in (1, 2, 8):
        feeds = [feed.build(corpus, changing, rows, 3) for _ in range(min(hosts, 2))]
        for step in reversed(expected):  # another order than above
            cuts = [slice(h * rows // hosts, (h + 1) * rows // hosts) for h in range(hosts)]
            parts = [feeds[h % len(feeds)].batch(step * rows, cut) for h, cut in enumerate(cuts)]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            assert checksum(joined) == expected[step]


@pytest.mark.parametrize(
    ("feed", "expected"),
    [
        (FEEDS[0], (2787720968, 3647841691, 480227269)),
        (FEEDS[1], (4008645887, 2707539207, 2451101231)),
        (FEEDS[3], (1688341947, 994170658, 315558982)),
    ],
    ids=["windows", "texts", "contrast"],
)
def test_batches_of_changing_rates_are_fixed(corpus, feed, expected):
    """A run that goes on after an update reads what it would have read: this is a format."""
    found = (feed.build(corpus, changing, 32, 7).batch(32 * 50, slice(None)) for changing in CHANGING)
    assert tuple(map(checksum, found)) == expected


def test_blocks_of_packed_rows_have_room_for_the_longest_language(corpus, small_blocks):
    """French texts are three times as long as German ones, and come last."""
    feed = TextFeed(LENGTH, SLOTS).build(corpus, mixture(Piecewise(((0, {"de": 1}), (2000, {"fr": 1})))), 64, 3)
    alone = TextFeed(LENGTH, SLOTS).build(corpus, mixture({"fr": 1}), 64, 3)
    assert feed.block_rows == alone.block_rows
    late = feed.batch(64 * 10**4, slice(None))
    assert {feed.languages[k] for k in np.unique(late["token_language"]) if k >= 0} == {"fr"}
    assert feed.shares(0) == {"de": 1.0, "fr": 0.0} and feed.shares(1900)["de"] == 1 and feed.shares(4000)["fr"] == 1


def test_rates_at_a_row_are_told_where_they_change(corpus):
    feed = WindowFeed(LENGTH).build(corpus, mixture(LINEAR), 64, 3)
    assert feed.shares(0)["en"] == pytest.approx(0.9, abs=2e-3)
    assert feed.shares(10**7) == {"de": 0.1, "en": 0.2, "fr": 0.7}
    assert WindowFeed(LENGTH).build(corpus, mixture(LOW), 64, 3).changing is False


def filled(rates: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Water-filling by bisection: the level at which min(level * rate, limit) sums to 1."""
    low, high = 0.0, 1e9
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(level * rates, limit).sum() < 1 else (low, level)
    return np.minimum(high * rates, limit)


@pytest.mark.parametrize("cap", [1.0, 1.5, 4.0, 100.0])
def test_a_cap_is_water_filling(cap):
    rng = np.random.default_rng(int(cap))
    for _ in range(20):
        rates, sizes = rng.dirichlet(np.full(12, 0.5)), rng.integers(1, 10**6, 12)
        found = capped(rates, sizes, cap)
        np.testing.assert_allclose(found, filled(rates, cap * sizes / sizes.sum()), rtol=1e-6, atol=1e-12)
    kept = capped(np.array([0.5, 0.3, 0.2, 0.0]), np.array([10, 1000, 0, 50]), 2.0)  # the third one has no cap
    np.testing.assert_allclose(kept, [0.8 * 20 / 1010, 0.8 * 990 / 1010, 0.2, 0.0])


def test_a_cap_lowers_small_languages_and_says_so():
    found = member_rows(SIZES, mixture(alpha=0.0, cap=2.0))
    assert dict(zip(found.names, found.counts[0].tolist(), strict=True)) == {"de": 220, "en": 758, "fr": 22}
    assert found.lowered == ("de from 33.3% to 22.0%", "fr from 33.3% to 2.2%")
    # A cap below one row in 1,000 leaves that one row. Facts are repeated on purpose and have no cap.
    sizes = {"en": 10**6, "sw": 10, "facts": 5}
    found = member_rows(sizes, mixture({"en": 0.7, "sw": 0.2, "facts": 0.1}, cap=3), only_explicit=("facts",))
    assert found.counts.tolist() == [[899, 1, 100]]
    free = member_rows(SIZES, mixture(alpha=0.5, cap=1e6))
    assert not free.lowered and free.counts.tolist() == member_rows(SIZES, mixture(alpha=0.5)).counts.tolist()
    uncapped = Linear(((0, {"en": 0.9, "de": 0.1}), (10_000, {"en": 0.1, "de": 0.9})))
    ramp = member_rows(SIZES, mixture(uncapped, cap=3))
    assert ramp.counts[-1, 0] == 333 and ramp.lowered == ("de from 90.0% to 33.3%",)


@pytest.mark.parametrize("kind", [Piecewise, Linear])
@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((), r"= \(\): expected pairs"),
        (0.5, "= 0.5: expected a list"),
        ((0, 0.7), "expected pairs"),
        (((1, LOW),), "begins at step 1: give the value at step 0"),
        (((0, LOW), (-5, LOW)), "has the step -5: steps are whole numbers"),
        (((0, LOW), (0.5, LOW)), "has the step 0.5: steps are whole numbers"),
        (((0, LOW), (9, LOW), (9, LOW)), "has step 9 after step 9: steps must rise"),
        (((0, LOW), (9, LOW), (8, LOW)), "has step 8 after step 9: steps must rise"),
    ],
)
def test_wrong_points_name_their_binding(kind, points, said):
    with pytest.raises(UserError, match=rf"^{kind.__name__}\.points.*{said}"):
        kind(points)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rates": Linear(((0, LOW), (9, {"en": 0.0})))}, r"Mixture\.rates at step 9 sum to 0"),
        ({"rates": Linear(((0, LOW), (9, {})))}, r"Mixture\.rates at step 9 sum to 0"),
        (
            {"rates": Piecewise(((0, LOW), (9, {"en": 2, "de": -1})))},
            r"Mixture\.rates at step 9 gives 'de' the rate -1",
        ),
        (
            {"rates": Piecewise(((0, LOW), (9, {"en": 1, "de": 1e-5})))},
            r"rates at step 9 gives 'de' 1e-05: less than one",
        ),
        ({"rates": Piecewise(((0, 0.7),))}, r"Mixture\.rates at step 0 = 0.7: expected a dict"),
        ({"alpha": Linear(((0, 0.7), (9, 1.3)))}, r"Mixture\.alpha at step 9 = 1.3: must lie in \[0, 1\]"),
        ({"alpha": Linear(((0, 0.7), (9, "low")))}, r"Mixture\.alpha at step 9 = 'low': expected a number"),
        ({"alpha": Linear(((0, LOW),))}, r"Mixture\.alpha at step 0 = .*: expected a number"),
        ({"rates": LOW, "alpha": Linear(((0, 0.7),))}, r"Mixture\.alpha changes .* bind one of them"),
        ({"cap": 0.9}, r"Mixture\.cap = 0.9: must lie in \[1, inf\)"),
    ],
)
def test_wrong_values_name_the_binding_and_the_step(settings, said):
    with pytest.raises(UserError, match=said):
        mixture(**settings)


@pytest.mark.parametrize("feed", FEEDS[:3])
def test_an_unknown_language_at_any_point_is_refused(corpus, feed):
    unknown = mixture(Piecewise(((0, LOW), (9, {"en": 0.5, "sw": 0.5}))))
    with pytest.raises(UserError, match=r"Mixture\.rates names 'sw', which this mixture lacks; members: "):
        feed.build(corpus, unknown, 8, 0)


def test_facts_are_told_if_any_point_draws_them():
    assert tells_facts([mixture(Piecewise(((0, LOW), (9, {"en": 0.9, "facts": 0.1}))))])
    assert not tells_facts([mixture(Piecewise(((0, LOW), (9, {"en": 0.9, "facts": 0.0}))))])
