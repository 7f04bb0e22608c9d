"""Rates by language and source, limits of epochs, and what is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import FakeTokenizer, make_store

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.windows import TextFeed, TranslationFeed, WindowFeed
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Blocks, member_rows
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.rates import BLOCK
from xalign_jax.data.sampling.schedules import Linear, Piecewise
from xalign_jax.errors import UserError

T = 8
SIZES = {("wiki", "en"): 24_000, ("wiki", "de"): 6_000, ("news", "en"): 3_000}


def corpus_of(sizes, clones=1):
    """Random texts by (task, language), documents of 20 tokens."""
    tokenizer = FakeTokenizer([f"w{i}" for i in range(50)], clones=clones)
    rng = np.random.default_rng(0)
    stores: dict = {}
    for (task, language), size in sizes.items():
        tokens = rng.integers(5, tokenizer.base_size, size).astype(np.uint16)
        tokens[19::20] = tokenizer.eos
        tokens[-1] = tokenizer.eos
        store = dataclasses.replace(make_store(tokens, language), task=task)
        stores.setdefault(task, {"train": {}})["train"][language] = store
    return Corpus(tokenizer, stores, None, None)


@pytest.fixture(scope="module")
def corpus():
    return corpus_of(SIZES)


def shares(corpus, mixture, rows=40_000, feed=None):
    feed = (feed or WindowFeed(T)).build(corpus, mixture, 8, 1)
    drawn = feed.drawn(np.arange(rows))
    return {name: count / sum(drawn.values()) for name, count in drawn.items()}


BOTH = ("wiki", "news")


def test_rates_by_source_and_language_are_what_is_drawn(corpus):
    found = shares(corpus, Mixture(BOTH, {"wiki:en": 0.5, "news:en": 0.3, "wiki:de": 0.2}))
    assert found == {"wiki:en": 0.5, "news:en": 0.3, "wiki:de": 0.2}


def test_a_source_is_divided_by_its_texts_and_a_language_has_its_other_sources(corpus):
    assert shares(corpus, Mixture(BOTH, {"wiki:*": 0.5, "news:*": 0.5})) == pytest.approx(
        {"wiki:en": 0.4, "wiki:de": 0.1, "news:en": 0.5}
    )
    # English without news, because news is named by itself.
    assert shares(corpus, Mixture(BOTH, {"en": 0.9, "news:en": 0.1})) == {"wiki:en": 0.9, "news:en": 0.1}
    # A language that is named by itself does not count in its source's share.
    found = shares(corpus, Mixture(BOTH, {"wiki:*": 0.8, "wiki:de": 0.1, "news:*": 0.1}))
    assert found == {"wiki:en": 0.8, "wiki:de": 0.1, "news:en": 0.1}
    # A language by its name alone: its sources in proportion to their text.
    found = shares(corpus, Mixture(BOTH, {"en": 1.0}))
    assert found == pytest.approx({"wiki:en": 24 / 27, "news:en": 3 / 27}, abs=0.01)


def test_short_names_and_clones_of_a_source(corpus):
    mixture = Mixture(BOTH, {"w:en": 0.5, "w:en_clone": 0.2, "de": 0.2, "en": 0.1}, sources={"w": "wiki"})
    assert {m.name: m.text for m in corpus.members(mixture) if ":" in m.name} == {"w:en": "w:en", "w:en_clone": "w:en"}
    assert shares(corpus, mixture) == {
        "wiki:en": 0.5,
        "wiki:en_clone": 0.2,
        "wiki:de": 0.2,
        "news:en": 0.1,
    }


def test_naming_sources_changes_no_batch_of_a_mixture_that_names_languages(corpus):
    plain, named = (Mixture(BOTH, {"en": 0.5, "de": 0.5}, sources=s) for s in ((), {"w": "wiki"}))
    one, other = (WindowFeed(T).build(corpus, mixture, 64, 3).batch(640, slice(0, 64)) for mixture in (plain, named))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_rates_of_sources_may_change_with_the_step(corpus):
    rates = Piecewise(((0, {"wiki:*": 1.0}), (20_000, {"wiki:en": 0.5, "news:en": 0.5})))
    found = shares(corpus, Mixture(BOTH, rates))
    assert found == pytest.approx({"wiki:en": 0.65, "wiki:de": 0.1, "news:en": 0.25})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rates": {"wikki:en": 1.0}}, r"Mixture.rates names the source 'wikki', .* sources: wiki, news"),
        ({"rates": {"wiki:fr": 1.0}}, r"Mixture.rates names 'wiki:fr', which this mixture lacks"),
        ({"rates": {"w:en": 0.5, "wiki:de": 0.5}, "sources": {"w": "wiki"}}, None),
        ({"rates": {"w:en": 0.5, "wiki:en": 0.5}, "sources": {"w": "wiki"}}, r"one source as 'w' and as 'wiki'"),
        ({"sources": {"a b": "wiki"}}, r"Mixture.sources: the name 'a b' has other characters"),
        ({"sources": {"w": "wikki"}}, r"Mixture.sources names 'w' = 'wikki', which Mixture.tasks lacks"),
        ({"sources": "wiki"}, r"Mixture.sources = 'wiki': expected a dict"),
        ({"rates": {"en": 1.0, "wiki:en": 0.0, "news:en": 0.0}}, r"names 'en', which this mixture lacks"),
        ({"rates": Piecewise(((0, {"en": 1}), (10, {"wiki:en": 0.0})))}, r"Mixture.rates at step 10 sum to 0"),
        ({"epochs": 0.5}, r"Mixture.epochs = 0.5: a number of at least 1"),
        ({"epochs": {"en": 0}}, r"Mixture.epochs of 'en' = 0: a number of at least 1"),
        ({"epochs": "often"}, r"Mixture.epochs = 'often': a number"),
        ({"epochs": {"fr": 2}}, r"Mixture.epochs names 'fr', which is no text of this mixture; texts: de, en"),
    ],
)
def test_bad_settings_name_the_binding(corpus, settings, said):
    def build():
        WindowFeed(T).build(corpus, Mixture(BOTH, **settings), 8, 1)

    if said is None:
        build()
        return
    with pytest.raises(UserError, match=said):
        build()


def test_feeds_of_pairs_refuse_sources(corpus):
    with pytest.raises(UserError, match="'wiki:en': a TranslationFeed draws pairs by language"):
        TranslationFeed(32, 4, 8).build(corpus, Mixture(BOTH, {"wiki:en": 1.0}), 8, 1)


def test_realised_shares_lie_within_the_binomial_error_over_a_million_rows():
    """They are closer than random draws would be, because blocks hold exact numbers of rows."""
    rates = {"en": 0.617, "de": 0.283, "sw": 0.1}
    n = 1_000_003
    constant = member_rows(dict.fromkeys(rates, 1), Mixture(rates=rates))
    rising = Linear(((0, {"en": 0.9, "de": 0.05, "sw": 0.05}), (n, {"en": 0.1, "de": 0.45, "sw": 0.45})))
    linear = member_rows(dict.fromkeys(rates, 1), Mixture(rates=rising))
    for rows, expected in ((constant, rates), (linear, {"en": 0.5, "de": 0.25, "sw": 0.25})):
        blocks = Blocks(rows.counts, np.arange(3), 5, rows.start)
        member = np.concatenate([blocks.locate(part)[0] for part in np.array_split(np.arange(n), 20)])
        found = np.bincount(member, minlength=3) / n
        for name, share in zip(rows.names, found, strict=True):
            p = expected[name]
            assert abs(share - p) < 3 * np.sqrt(p * (1 - p) / n)
    # Any stretch of rows, not only the whole: neighbouring rows are drawn like independent ones or better.
    blocks = Blocks(constant.counts, np.arange(3), 5, constant.start)
    part = np.bincount(blocks.locate(np.arange(123_456, 133_456))[0], minlength=3) / 10_000
    for name, share in zip(constant.names, part, strict=True):
        assert abs(share - rates[name]) < 3 * np.sqrt(rates[name] * (1 - rates[name]) / 10_000)


def windows(size):
    return (size - 1) // T - 1


@pytest.mark.parametrize("rates", [(), {"en": 0.5, "en_clone": 0.2, "de": 0.3}])
def test_no_text_is_read_more_often_than_its_epochs(rates):
    corpus = corpus_of({("wiki", "en"): 240_000, ("wiki", "de"): 9_000})
    mixture = Mixture(("wiki",), rates, epochs=3, alpha=0.3)
    feed = WindowFeed(T).build(corpus, mixture, 8, 1)
    limits = {"en": 3 * windows(240_000), "de": 3 * windows(9_000)}
    # Text ends where both do, to the block.
    assert sum(limits.values()) - BLOCK < feed.ends <= sum(limits.values())
    _, epoch, store, _ = feed.windows(np.arange(feed.ends))
    assert epoch.max() == 2
    # Every window of the small text was read three times: a window is its store and its place in an epoch.
    of_german = store == 0
    assert of_german.sum() == limits["de"]
    counts = np.unique(epoch[of_german], return_counts=True)[1]
    assert (counts == windows(9_000)).all()
    # Before it ends, rows are those of the mixture without a limit.
    free = WindowFeed(T).build(corpus, dataclasses.replace(mixture, epochs=None), 8, 1)
    first = np.flatnonzero(of_german)[-1] // BLOCK * BLOCK
    assert first >= 1 * BLOCK
    for one, other in zip(feed.windows(np.arange(first)), free.windows(np.arange(first)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_epochs_by_text_and_in_a_schedule():
    sizes = {"en": 5_000, "de": 500, "facts": 10}
    text = {name: name for name in sizes}
    rates = Piecewise(((0, {"en": 0.5, "de": 0.4, "facts": 0.1}), (20_000, {"en": 0.1, "de": 0.8, "facts": 0.1})))
    rows = limited_rows(sizes, Mixture(rates=rates, epochs={"de": 2}), text, sizes, ("facts",))
    # German has 1,000 rows: 400 in two blocks, 200 in the third, none later. English goes on without a limit.
    assert rows.names == ("en", "de", "facts") and rows.ends is None
    assert rows.start.tolist()[:3] == [0, 2, 3] and rows.counts[:3, 1].tolist() == [400, 200, 0]
    assert rows.counts[2:].sum(axis=1).tolist() == [BLOCK] * (len(rows.counts) - 2) and not rows.counts[2:, 1][1:].any()
    # Facts alone are no text to go on with.
    rows = limited_rows(sizes, Mixture(rates=rates, epochs=2), text, sizes, ("facts",))
    assert rows.ends is not None and 12_000 < rows.ends <= 13_000


def test_packed_texts_keep_the_limit_too(corpus):
    feed = TextFeed(32, 4).build(corpus, Mixture(BOTH, {"wiki:en": 0.4, "news:en": 0.6}, epochs=20), 8, 1)
    pieces = {name: SIZES[tuple(name.split(":"))] // 20 for name in ("wiki:en", "news:en")}
    drawn = feed.drawn(np.arange(feed.ends))
    assert feed.ends > 0 and all(drawn[name] <= 20 * pieces[name] for name in pieces)
    assert drawn["news:en"] == 20 * pieces["news:en"]
