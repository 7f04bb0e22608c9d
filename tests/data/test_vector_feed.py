"""The feed of words with static vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.vectors import VectorFeed
from xalign_jax.data.lexicon.vectors import write_vectors
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

WORDS = {"en": ["ab", "cd", "efg", "morethanfive"], "de": ["uv", "wxy"]}


@pytest.fixture(scope="module")
def corpus():
    return Corpus(Tokenizer.of(Vocabulary("bytes")), {}, None, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("vectors"), np.random.default_rng(0)
    for language, words in WORDS.items():
        write_vectors(folder / f"{language}.vec", words, random.standard_normal((len(words), 3)))
    return {language: str(folder / f"{language}.vec") for language in WORDS}


def test_an_epoch_has_every_word_once_with_its_vector(corpus, files):
    config = VectorFeed(files, words_per_row=2, side=5)
    feed = config.build(corpus, None, 4, seed=0)
    assert feed.report == {"words en": 3, "left out en": 1, "words de": 2, "left out de": 0}
    batch = feed.batch(0, slice(0, 5))  # 10 slots: two epochs of 5 words
    blank = config.blank(5)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {n: (a.shape, a.dtype) for n, a in blank.items()}
    tokenizer, found = corpus.tokenizer, []
    own = {}
    for language, path in files.items():
        rows = [line.split() for line in Path(path).read_text().splitlines()[1:]]
        own |= {word: (language, np.array(values, np.float32)) for word, *values in rows}
    for row in range(5):
        for slot in (1, 2):
            here = batch["segment_ids"][row] == slot
            ids = batch["tokens"][row, here]
            word = tokenizer.decode(ids).strip()
            before, after = tokenizer.framing(causal=False)
            assert ids.tolist() == [*before, *tokenizer.encode_words([word])[0].tolist(), *after]
            assert batch["positions"][row, here].tolist() == list(range(len(ids)))
            language, vector = own[word]
            np.testing.assert_allclose(batch["vector"][row, slot - 1], vector / np.linalg.norm(vector), rtol=1e-5)
            assert {feed.languages[n] for n in batch["token_language"][row, here]} == {language}
            found.append(word)
    short = sorted(word for word in own if len(word) < 6)
    assert sorted(found[:5]) == sorted(found[5:]) == short and found[:5] != found[5:]
    assert (batch["token_language"][batch["segment_ids"] == 0] == -1).all()


def test_a_slice_is_a_part_of_the_batch_and_seeds_differ(corpus, files):
    config = VectorFeed(files, words_per_row=2, side=5)
    feed, other = (config.build(corpus, None, 4, seed=seed) for seed in (0, 1))
    whole = feed.batch(4, slice(0, 4))
    for name, rows in feed.batch(4, slice(1, 3)).items():
        np.testing.assert_array_equal(rows, whole[name][1:3])
    np.testing.assert_array_equal(whole["tokens"], feed.batch(0, slice(4, 8))["tokens"])
    assert not np.array_equal(whole["tokens"], other.batch(4, slice(0, 4))["tokens"])
    first = VectorFeed(files, most=1).build(corpus, None, 4, seed=0)
    assert first.report["words en"] == first.report["words de"] == 1
    assert config.own_files() == {f"files[{language!r}]": path for language, path in files.items()}


def test_bad_settings_are_refused(corpus, files, tmp_path):
    with pytest.raises(UserError, match=r"VectorFeed\.files = \(\): expected"):
        VectorFeed({})
    with pytest.raises(UserError, match=r"VectorFeed\.side = 1: no word of .*en\.vec has so few tokens"):
        VectorFeed(files, side=1).build(corpus, None, 4, seed=0)
    write_vectors(tmp_path / "wide.vec", ["ab"], np.ones((1, 4)))
    with pytest.raises(UserError, match=r"wide\.vec has vectors of width 4, and .*en\.vec of width 3"):
        VectorFeed({"en": files["en"], "de": str(tmp_path / "wide.vec")}).check(None, lexicon=False)
    with pytest.raises(UserError, match=r"none\.vec: no such file"):
        VectorFeed({"en": files["en"], "de": str(tmp_path / "none.vec")}).check(None, lexicon=False)
