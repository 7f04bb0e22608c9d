"""Everything together on a real vocabulary and stores: prepared in a process of its own, then read with numpy only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from xalign_jax.data import corpus as data
from xalign_jax.data import statistics
from xalign_jax.data.feeds.windows import Switch, WindowFeed, WordFeed
from xalign_jax.data.lexicon.facts import Facts
from xalign_jax.data.lexicon.lexicon import Lexicon
from xalign_jax.data.preview.rows import collect
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store import store
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.reports.preview_lines import lines

NOUNS = [
    "river",
    "tree",
    "house",
    "street",
    "garden",
    "window",
    "table",
    "letter",
    "morning",
    "evening",
    "winter",
    "summer",
    "friend",
    "mother",
    "father",
]
VERBS = ["sees", "walks", "writes", "reads", "finds", "carries", "follows", "remembers", "opens", "closes"]
VOCABULARY = Vocabulary(size=300, clones=1, lowercase=True)
LEXICON = Lexicon(size=24, heldout=0.25)
FACTS = Facts(count=10, relations=2, objects=5)
T = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    lines = [
        f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}, and a {rng.choice(NOUNS)} {rng.choice(VERBS)}."
        for _ in range(400)
    ]
    (folder / "en.txt").write_text("\n\n".join(lines))
    mixture = Mixture((f"text:en={folder / 'en.txt'}",), {"en": 0.7, "en_clone": 0.2, "facts": 0.1})
    store.prepare(store.Texts(VOCABULARY, mixture.tasks, folder / "cache"))
    return data.load(VOCABULARY, LEXICON, FACTS, [mixture, mixture], cache=folder / "cache"), mixture


def test_members_are_languages_clones_and_facts(corpus):
    loaded, mixture = corpus
    names = [(member.name, member.language, member.k, member.text) for member in loaded.members(mixture)]
    assert names == [("en", "en", 0, "en"), ("en_clone", "en_clone", 1, "en"), ("facts", "en", 0, "facts")]
    assert [member.name for member in loaded.members(mixture, "validation")] == ["en", "en_clone"]


def test_facts_that_no_mixture_tells_are_not_built(corpus):
    """Nor are they refused where the dictionary is too small for them; the other members' rows stay what they are."""
    _, mixture = corpus
    cache = Path(mixture.tasks[0].removeprefix("text:en=")).parent / "cache"
    for rates in ({"en": 0.8, "en_clone": 0.2}, {"en": 1.0, "facts": 0.0}, ()):
        untold = dataclasses.replace(mixture, rates=rates)
        many = dataclasses.replace(FACTS, count=10_000)
        found = data.load(VOCABULARY, LEXICON, many, [untold], cache=cache)
        assert found.facts is None
        assert [member.name for member in found.members(untold)] == ["en", "en_clone"]
    told = dataclasses.replace(mixture, rates={"en": 1.0, "facts": 0.1})
    assert data.load(VOCABULARY, LEXICON, FACTS, [untold, told], cache=cache).facts is not None


def test_a_text_is_a_member_once_and_two_members_have_two_names(corpus):
    loaded, mixture = corpus
    (task,) = mixture.tasks
    twice = Mixture((task, task), languages=("en", "en"))
    once = loaded.members(Mixture((task,), languages=("en",)))
    assert [(m.name, m.size) for m in loaded.members(twice)] == [(m.name, m.size) for m in once]
    stores = {task: {"train": {"en": loaded.stores[task]["train"]["en"], "facts": loaded.stores[task]["train"]["en"]}}}
    with pytest.raises(UserError, match="'facts', as a clone or the facts are; rename it"):
        dataclasses.replace(loaded, stores=stores).members(mixture)


def test_switched_windows_read_as_the_same_text(corpus):
    """A clone's words decode to the base text: inputs without switching and with it are the same sentences."""
    loaded, mixture = corpus
    plain = WindowFeed(T).build(loaded, mixture, 200, 0).batch(0, slice(0, 200))
    batch = WindowFeed(T, Switch(rate=0.5)).build(loaded, mixture, 200, 0).batch(0, slice(0, 200))
    base = loaded.tokenizer.base_size
    assert batch["count_switched"].sum() > 200 and np.array_equal(batch["tokens"] % base, plain["tokens"] % base)
    for before, after in zip(plain["tokens"], batch["tokens"], strict=True):
        assert loaded.tokenizer.decode(before) == loaded.tokenizer.decode(after)
    assert np.array_equal(batch["targets"][batch["weights"] > 0], plain["targets"][batch["weights"] > 0])


def test_words_decode_to_the_dictionary(corpus):
    loaded, _ = corpus
    batch = WordFeed(32, 8, 6).build(loaded, None, 4, 0).batch(0, slice(0, 4))
    words = set(loaded.lexicon.train.words)
    for row, slot in zip(*np.nonzero(batch["concept"] >= 0), strict=True):
        mine = batch["segment_ids"][row] == slot + 1
        assert loaded.tokenizer.decode(batch["tokens"][row][mine]).strip() in words
    assert batch["count_words"].sum() == 12


def test_facts_are_asked_in_words_of_the_dictionary(corpus):
    loaded, _ = corpus
    for language, k in ((0, 0), (1, 1)):
        queries = loaded.facts.queries(language)
        rows = loaded.tokenizer.language_rows(k)
        assert (
            rows[queries.candidates[queries.candidates > 0]].all() and rows[queries.prompts[queries.prompts > 0]].all()
        )
        text = loaded.tokenizer.decode(queries.prompts[0][: queries.prompt_lengths[0]]).split()
        assert set(text) <= set(loaded.lexicon.dictionary.words)


def test_facts_need_a_lexicon(corpus):
    _, mixture = corpus
    cache = Path(mixture.tasks[0].partition("=")[2]).parent / "cache"
    with pytest.raises(UserError, match=r"Recipe\.facts needs Recipe\.lexicon"):
        data.load(VOCABULARY, None, FACTS, [mixture], cache=cache)


def test_facts_that_take_more_words_than_there_are_say_what_to_do(corpus):
    loaded, _ = corpus
    with pytest.raises(
        UserError, match=r"take 80 training words .* has 18; lower Facts.count, .* or see in `xalign data"
    ):
        loaded.with_facts(Facts(count=200))


def test_stats_add_up_and_name_tasks_in_full(corpus):
    loaded, mixture = corpus
    shown = statistics.texts(loaded, statistics.counts(loaded))
    assert shown[2].startswith(f"{mixture.tasks[0]} train       en ") and len({len(line) for line in shown[1:]}) == 1
    assert statistics.words(loaded) == ["dictionary: 18 of 24 entries are trained on and 6 held out"]
    (line,) = statistics.covered(loaded, statistics.coverage(loaded))
    assert line.startswith("coverage of running words (training text of en): ")


def test_a_preview_shows_switched_words_whole(corpus):
    """Words: "tree" for "the house" of three tokens, "a" for "b", and two in a row."""
    loaded, _ = corpus
    t = loaded.tokenizer
    the, tree, garden, window, sees = (t.encode_words([w])[0] for w in ("the", "tree", "garden", "window", "sees"))
    pad = lambda ids: [ids[0], *[t.pad] * (len(ids) - 1)]  # noqa: E731
    read = [t.eos, *the, *garden, *window, *sees, *the, t.pad]
    predicted = [*the, *[tree[0], *pad(garden)[1:]], *[sees[0], *pad(window)[1:]], *sees, *the, t.pad, t.pad]
    weights = np.ones(len(read), np.float32)
    for first, ids in ((len(the), garden), (len(the) + len(garden), window)):
        weights[first + 1 : first + len(ids)] = 0
    segments = np.where(np.arange(len(read)) < len(read) - 1, 1, 0)
    weights[-2:] = 0
    batch = {"tokens": read, "targets": predicted, "weights": weights, "segment_ids": segments, "language": 0}
    batch["positions"] = np.arange(len(read))
    arrays = {name: np.array([values]) for name, values in batch.items()}
    shown = lines(collect(arrays, loaded, ("en",), rows=4))
    first = [t.decode(ids[:1]) or "▁" for ids in (tree, sees)]
    assert f"  0 [en] the [garden ← {first[0]}] [window ← {first[1]}] sees the" in shown
