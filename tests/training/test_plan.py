"""What a recipe's streams cannot be is named before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xalign_jax.data.sentences import TextFeed, TranslationFeed
from xalign_jax.errors import UserError
from xalign_jax.models.functional import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.training import plan

TYPED = TranslationFeed(32, 4, 8, language_types=True)


def planned(*streams):
    """A stage of (name, feed, languages)."""
    found = [SimpleNamespace(name=name, feed=feed, rows=4, objective=None) for name, feed, _ in streams]
    feeds = {name: SimpleNamespace(feed=SimpleNamespace(languages=languages)) for name, _, languages in streams}
    return plan.PlannedStage(SimpleNamespace(streams=tuple(found)), 0, 1, feeds)


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ([("tlm", TYPED, ("de", "en", "fr"))], r"tlm: its 3 languages are token types .* XLMRoberta.types = 2"),
        (
            [("tlm", TYPED, ("de", "en")), ("more", TYPED, ("en", "fr"))],
            "more: language_types number en, fr here and de, en in tlm",
        ),
    ],
)
def test_token_types_are_languages_that_the_model_has_and_all_streams_mean(streams, said):
    model = build(XLMRoberta(layers=1, width=8, heads=2, mlp_width=8, max_length=32, types=2), 40)
    plan.check_types([planned(("tlm", TYPED, ("de", "en")), ("lm", TextFeed(32, 4), ("de", "en", "fr")))], model)
    with pytest.raises(UserError, match=said):
        plan.check_types([planned(stream) for stream in streams], model)
