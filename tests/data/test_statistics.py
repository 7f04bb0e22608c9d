"""Statistics: counts agree with what is there; the page, the pictures and the numbers are whole or absent."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeTokenizer, make_store, prepare

from xalign_jax.data import statistics
from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.packed import TextFeed, TranslationFeed
from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.schedules import Linear
from xalign_jax.reports import data_page
from xalign_jax.training.drawn import drawn
from xalign_jax.training.stages import PlannedStage, StepFeed

EOS, STEPS, ROWS = 1, 200, 50


@pytest.fixture(scope="module")
def corpus():
    """600 groups of six tokens: all in "en", two of three in "de", every sixth in "fr"."""
    tokenizer = FakeTokenizer([f"▁w{i}" for i in range(20)])
    rng = np.random.default_rng(0)
    splits = {}
    for language, every in (("en", 1), ("de", 3), ("fr", 6)):
        groups = np.arange(600)
        groups = groups[groups % 3 < 2] if language == "de" else groups[::every]
        tokens = np.concatenate([[*rng.integers(9, 29, 6), EOS] for _ in groups]).astype(np.uint16)
        splits[language] = dataclasses.replace(make_store(tokens, language), group=groups.astype(np.int32))
    return Corpus(tokenizer, {"texts": {"train": splits}}, None, None)


def planned(feed, corpus, mixture):
    built = feed.build(corpus, mixture, ROWS, 0)
    stage = SimpleNamespace(name="only", steps=STEPS)
    return PlannedStage(stage, 10, 10 + STEPS, {"s": StepFeed(built, ROWS, 10, 0, ROWS)})


def test_groups_are_counted_by_their_languages(corpus):
    found = statistics.parallelism(corpus)["texts"]
    numbers = np.arange(600)
    degrees = 1 + (numbers % 3 < 2) + (numbers % 6 == 0)
    assert found == {n: int((degrees == n).sum()) for n in (1, 2, 3)}
    assert statistics.groups({"texts": found}) == ["groups of texts by number of languages: 1: 200, 2: 300, 3: 100"]


def test_words_are_counted_with_their_tokens():
    tokenizer = FakeTokenizer(["▁cat", "s", "▁dog"])
    tokens = np.concatenate([tokenizer.encode(["cats dog. cats"])[0], [EOS]])
    (one,) = statistics.counts(prepare(tokenizer, {"en": tokens}))
    # Two words of two tokens and one of one; "." and eos are no words.
    assert (one.words, one.word_tokens, one.tokens) == (3, 5, 7)
    assert statistics._words(make_store(np.array([EOS, EOS])), np.full(10, 5, np.uint8)) == (0, 0)


@pytest.mark.parametrize(("feed", "unit"), [(WindowFeed(16), "rows"), (TextFeed(32, 4), "texts")])
def test_what_is_drawn_keeps_to_the_rates(corpus, feed, unit):
    rates = {"en": 0.5, "de": 0.3, "fr": 0.2}
    found = drawn(planned(feed, corpus, Mixture(("texts",), rates)), "s", corpus)
    assert (found.unit, found.steps, found.pairs) == (unit, [10], False)
    for language, rate in rates.items():
        assert found.wished[language] == [pytest.approx(rate)]
        assert found.drawn[language] == [pytest.approx(rate, abs=0.03)]
        assert found.tokens[language] == [pytest.approx(rate, abs=0.05)]


def test_rates_that_change_are_followed(corpus):
    rates = Linear(((0, {"en": 0.9, "de": 0.1}), (STEPS, {"en": 0.1, "de": 0.9})))
    stage = planned(WindowFeed(16), corpus, Mixture(("texts",), rates).in_rows(lambda step: step * ROWS))
    found = drawn(stage, "s", corpus)
    assert found.steps == sorted(found.steps) and stage.first_step <= found.steps[0] < found.steps[-1] < stage.last_step
    np.testing.assert_allclose(found.wished["de"], found.drawn["de"], atol=0.03)
    assert found.drawn["de"][0] < 0.25 and found.drawn["de"][-1] > 0.75


def test_both_texts_of_pairs_are_counted(corpus):
    found = drawn(planned(TranslationFeed(32, 4, 8), corpus, Mixture(("texts",), {"de": 1})), "s", corpus)
    assert found.pairs and found.wished == {"de": [1.0]}
    assert found.drawn["de"] == [pytest.approx(0.5, abs=0.01)] and sum(v[0] for v in found.drawn.values()) == 1


def found_of(corpus):
    mixture = Mixture(("texts",), {"en": 0.5, "de": 0.5})
    stage = planned(WindowFeed(16), corpus, mixture)
    double = dict.fromkeys(("documents", "exact", "near", "validation", "leaked", "near_leaked"), 0)
    return {
        "texts": [one._asdict() for one in statistics.counts(corpus)],
        "parallelism": statistics.parallelism(corpus),
        "duplicates": [{"language": "en", **double}],
        "dictionary": {"entries": {"are trained on": 3, "are <held> out": 0}, "coverage": None},
        "drawn": [dataclasses.asdict(drawn(stage, "s", corpus))],
    }


def test_the_page_holds_its_pictures_and_the_numbers_are_read_back(corpus):
    found = found_of(corpus)
    files = data_page.files("a <b>", "about", found)
    page = files["stats.html"].decode()
    pictures = [content for name, content in files.items() if name.endswith(".png")]
    assert len(pictures) == 6 == len(re.findall(r'src="data:image/png;base64,', page))
    assert all(content.startswith(b"\x89PNG") for content in pictures) and "rates_s.png" in files
    assert "a &lt;b&gt;" in page and "&lt;held&gt;" in page and not re.search(r'(src|href)="(?!data:)|<script', page)
    read = json.loads(files["stats.json"])
    assert read["drawn"] == found["drawn"] and read["parallelism"]["texts"] == {"1": 200, "2": 300, "3": 100}


def test_a_recipe_without_text_has_a_page():
    files = data_page.files("empty", "", {"texts": [], "parallelism": {}, "duplicates": [], "drawn": []})
    assert list(files) == ["stats.json", "stats.html"] and b"Numbers" in files["stats.html"]
