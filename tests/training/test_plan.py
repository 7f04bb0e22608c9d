"""Errors in a recipe's streams are named before anything is trained."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed
from xalign_jax.data.feeds.windows import Switch, WindowFeed, WordFeed
from xalign_jax.data.lexicon.facts import Facts
from xalign_jax.data.lexicon.lexicon import Lexicon
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.schedules import Linear
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.evaluation.probes import Knowledge, Perplexity
from xalign_jax.interfaces import Feed
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.objectives.xlco import XlCo
from xalign_jax.recipe import Recipe, Stage, Stream
from xalign_jax.training import checks, stages
from xalign_jax.training.optimizers import AdamW, WarmupCosine

TYPED = TranslationFeed(32, 4, 8, language_types=True)


def planned(*streams):
    """A planned stage with a stream for each (name, feed, languages)."""
    found = [SimpleNamespace(name=name, feed=feed, rows=4, objective=None) for name, feed, _ in streams]
    feeds = {name: SimpleNamespace(feed=SimpleNamespace(languages=languages)) for name, _, languages in streams}
    return stages.PlannedStage(SimpleNamespace(streams=tuple(found)), 0, 1, feeds)


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
    checks.check_types([planned(("tlm", TYPED, ("de", "en")), ("lm", TextFeed(32, 4), ("de", "en", "fr")))], model)
    with pytest.raises(UserError, match=said):
        checks.check_types([planned(stream) for stream in streams], model)


MIXTURE = Mixture(("lines:en=none.en,de=none.de",), {"en": 0.9, "de": 0.1})
STREAM = Stream("lm", WindowFeed(32), CausalLM(), 8, MIXTURE)
MODEL = {"layers": 1, "width": 8, "heads": 2, "mlp_width": 8, "max_length": 32}


def recipe(stream=STREAM, model=None, probes=(), **settings):
    """A recipe whose texts do not exist."""
    stage = Stage("pretrain", 1, (stream,), AdamW(), WarmupCosine(1e-3), probes=probes)
    return Recipe(model or Llama(kv_heads=2, **MODEL), Vocabulary("bytes", clones=1), (stage,), **settings)


def of(**changes):
    return {"stream": dataclasses.replace(STREAM, **changes)}


def mixed(**changes):
    return of(mixture=dataclasses.replace(MIXTURE, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (mixed(rates={"en": 1, "fr": 1}), r"Mixture\.rates names 'fr', which .* members: de, de_clone, en, en_clone$"),
        (mixed(rates={"en": 1, "facts": 1}), r"Mixture\.rates names 'facts'"),
        (mixed(rates=Linear(((0, {"en": 1}), (9, {"fr": 1})))), r"Mixture\.rates names 'fr'"),
        (mixed(languages=("en",)), r"Mixture\.rates names 'de', which .* members: en, en_clone$"),
        (mixed(languages=("fr",)), r"Mixture\.languages names 'fr'; the text is in de, en"),
        (of(feed=WindowFeed(33)), "lm: sequences of 33 tokens are longer than the model's max_length = 32"),
        (of(mixture=None), r"Stream\.mixture: a WindowFeed reads text"),
        (of(mixture=None, feed=TextFeed(32, 4)), r"Stream\.mixture: a TextFeed reads text"),
        (of(feed=WindowFeed(32, Switch(rate=0.1))), r"WindowFeed\.switch needs Recipe\.lexicon"),
        (of(feed=WordFeed(32, 4, 4)), r"WordFeed needs Recipe\.lexicon"),
        (of(feed=ContrastFeed(32, 4, 8), objective=XlCo(level=1, queue=16)), r"XlCo\.queue = 16: smaller than"),
        ({"facts": Facts()}, r"Recipe\.facts needs Recipe\.lexicon"),
        ({"probes": (Perplexity(33),)}, r"Perplexity\.length = 33: longer than the model's max_length = 32"),
        ({"probes": (Knowledge(),), "model": XLMRoberta(**MODEL)}, "Knowledge: scores the next token"),
    ],
)
def test_what_needs_no_data_is_refused_before_any_is_read(changes, said):
    def check(found):
        checks.check(found)
        (stream,) = found.stages[0].streams
        stream.objective.check(build(found.model, 300), stream.feed.blank(stream.batch_size))

    check(recipe())
    with pytest.raises(UserError, match=said):
        check(recipe(**changes))


def test_languages_that_only_reading_tells_are_left_to_the_reader():
    jsonl = mixed(tasks=("jsonl:en=none.jsonl",), rates={"en": 1, "fr": 1})
    checks.check(recipe(**jsonl))
    checks.check(recipe(**mixed(rates={"en": 1, "de_clone": 1, "facts": 1}), facts=Facts(), lexicon=Lexicon()))


@pytest.mark.parametrize("paths", [("none.tsv",), (("none.tsv", ("en", "de")),)])
def test_a_dictionary_is_opened_before_text_is_prepared(paths, monkeypatch):
    monkeypatch.setattr(stages.store, "prepare", lambda *_: pytest.fail("text was prepared"))
    with pytest.raises(UserError, match=r"none\.tsv: no such file"):
        stages.prepare_data(recipe(lexicon=Lexicon("file", paths, ("en", "de"))))


@dataclasses.dataclass(frozen=True)
class Recorder(Feed):
    """A feed that keeps the mixture it is built with."""

    length: int = 8

    def build(self, corpus, mixture, rows, seed, split="train"):
        return SimpleNamespace(mixture=mixture, ends=None)


def test_points_of_a_schedule_are_steps_that_read_the_mixture_and_feeds_get_rows():
    """Steps 0 to 9 read 8 + 4 rows, the stage `other` none, and steps from 10 on read 2 rows each."""
    shared = dataclasses.replace(MIXTURE, rates=Linear(tuple((step, {"en": 1}) for step in (0, 3, 10, 15, 1000))))
    first = Stream("first", Recorder(), CausalLM(), 8, shared)

    def rows(last_steps):
        stage = recipe().stages[0]
        other = dataclasses.replace(STREAM, feed=Recorder())
        made = tuple(
            dataclasses.replace(stage, name=name, steps=steps, streams=streams)
            for name, steps, streams in (
                ("one", 10, (first, dataclasses.replace(first, name="second", batch_size=4))),
                ("other", 7, (other,)),
                ("two", last_steps, (dataclasses.replace(first, batch_size=2),)),
            )
        )
        planned = stages.plan(dataclasses.replace(recipe(), stages=made), None)
        assert planned[1].feeds["lm"].feed.mixture is MIXTURE  # without a schedule, nothing is replaced
        found = {feed.feed.mixture.rates.starts for i in (0, 2) for feed in planned[i].feeds.values()}
        assert planned[2].feeds["first"].first_row == 120
        return found

    assert rows(50) == rows(5000) == {(0, 36, 120, 130, 120 + 990 * 2)}
