"""Multi-way feeds refuse settings that mean nothing, and text that lacks what they read, in one line."""

from __future__ import annotations

import pytest
from multiway import make_corpus

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.documents import GroupFeed, InterleavedFeed
from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.errors import UserError

T, S = 64, 8
MIXTURE = Mixture(("a",))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupFeed(T, S, 1, 8), r"GroupFeed\.lines = 1: .* two languages"),
        (lambda: GroupFeed(T, S, 2, 8, 3), r"GroupFeed\.fewest = 3: more than GroupFeed\.lines = 2"),
        (lambda: GroupFeed(T, S, 2, 8, tag="xx"), r"GroupFeed\.tag = 'xx': no \{\}"),
        (lambda: InterleavedFeed(T, S, 1), r"InterleavedFeed\.part = 1: must be at least 2"),
        (lambda: InterleavedFeed(T, S, 8, "en", (("en", "de"),)), r"InterleavedFeed\.pivot = 'en': .*pairs"),
        (lambda: TranslationFeed(T, S, 8, pairs=("en",)), r"TranslationFeed\.pairs has 'en': expected two"),
        (lambda: TranslationFeed(T, S, 8, pairs=(("en", "en"),)), r"TranslationFeed\.pairs has \('en', 'en'\)"),
        (
            lambda: TranslationFeed(T, S, 8, pairs=(("en", "de"), ("de", "en"))),
            r"TranslationFeed\.pairs names 'de' and 'en' twice; TranslationFeed\.reverse",
        ),
        (lambda: TranslationFeed(T, S, 8, reverse=0.1), r"TranslationFeed\.reverse = 0\.1: which order"),
        (
            lambda: TranslationFeed(T, S, 8, whole_groups=True, mismatched=0.5),
            r"TranslationFeed\.mismatched draws texts of other groups",
        ),
        (lambda: TextFeed(T, S, side=8), r"TextFeed\.side = 8: only whole groups"),
        (lambda: ContrastFeed(T, S, 8, whole_groups=True, mixup=True), r"ContrastFeed\.mixup = True"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "mixture", "message"),
    [
        (GroupFeed(T, S, 6, 5, tag=""), MIXTURE, r"GroupFeed\.lines = 6: no group .* 6 languages; the largest is in 5"),
        (GroupFeed(T, S, 3, 25), MIXTURE, r"GroupFeed\.side = 25: 3 lines with their tags take 82 .*length = 64"),
        (GroupFeed(T, S, 2, 8, pivot="xx"), MIXTURE, r"GroupFeed\.pivot = 'xx': the mixture's train text is in cs"),
        (GroupFeed(T, S, 2, 8), Mixture(("a",), languages=("en",)), r"Mixture\.tasks = .*no train text has a transl"),
        (InterleavedFeed(T, S, 30), MIXTURE, r"InterleavedFeed\.part = 30: .*InterleavedFeed\.length = 64"),
        (InterleavedFeed(T, S, 8, pairs=(("en", "xx"),)), MIXTURE, r"InterleavedFeed\.pairs names 'xx'"),
        (TextFeed(T, S, True), Mixture(("a",), {"en": 1}), r"Mixture\.rates = .*TextFeed\.whole_groups takes all"),
        (TextFeed(T, S, True), Mixture(("a",), alpha=0.3), r"Mixture\.alpha = 0\.3: TextFeed\.whole_groups"),
        (GroupFeed(T, S, 2, 8), Mixture(("a",), {"sv": 1}), r"Mixture\.rates names 'sv'"),
        (GroupFeed(T, S, 2, 8), None, r"Stream\.mixture: a GroupFeed"),
    ],
)  # fmt: skip
def test_what_the_text_lacks_is_named_in_one_line(corpus, config, mixture, message):
    with pytest.raises(UserError, match=message) as refused:
        config.build(corpus, mixture, 4, 0)
    assert "\n" not in str(refused.value)


def test_a_batch_that_is_too_small_for_a_group_is_refused(corpus):
    with pytest.raises(UserError, match=r"TextFeed\.whole_groups: 1 rows of 64 tokens and 1 slots do not .*batch_size"):
        TextFeed(T, 1, True).build(corpus, MIXTURE, 1, 0)
