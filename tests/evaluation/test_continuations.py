"""Scores of continuations are parts of the scores of whole texts; a continuation ends where its caller says so."""

from __future__ import annotations

import hf_folders
import jax.numpy as jnp
import numpy as np
import pytest

import xalign_jax as xa
from xalign_jax.errors import UserError
from xalign_jax.evaluation import continuations, generation
from xalign_jax.evaluation.continuations import score_continuations

pytest.importorskip("transformers")

TEXTS = ["the cat sleeps", "a dog and a cat and a bird", "猫が 好き。", "x" * 60]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    hf_folders.write("llama", folder)
    return xa.load(folder)


@pytest.fixture(scope="module")
def rows(model):
    """Ids of the texts, with bos."""
    return [np.array([*model.frame[0], *ids], np.int32) for ids in model.tokenizer.encode(TEXTS)]


def scored(model, contexts, rest):
    with model.on_devices():
        return score_continuations(model.model, contexts, rest)


def test_a_continuation_has_its_share_of_the_texts_score(model, rows):
    cuts = [1, 5, 3, 58]
    found = scored(model, *zip(*((row[:cut], row[cut:]) for row, cut in zip(rows, cuts, strict=True)), strict=True))
    for score, whole, cut in zip(found, model.score(TEXTS), cuts, strict=True):
        np.testing.assert_allclose(score.tokens, whole.tokens[cut - 1 :], atol=1e-5)
        assert score.total == pytest.approx(score.tokens.sum(), rel=1e-6)
    assert scored(model, [], []) == []


def test_only_the_greedy_continuation_is_greedy(model, rows):
    with model.on_devices():
        made = generation.generate(model.model, rows[:3], generation.Sampling(5), None)
    others = [np.where(np.arange(5) == 4, (ids + 1) % 256, ids) for ids in made]
    assert [score.greedy for score in scored(model, [*rows[:3], *rows[:3]], [*made, *others])] == [True] * 3 + [
        False
    ] * 3


def test_a_context_that_is_too_long_loses_its_beginning(model, rows):
    """The model reads 96 tokens, of which the last one predicts the 97th."""
    long = np.resize(rows[1], 200)
    short, cut = scored(model, [long, long[-95:]], [[70, 80]] * 2)
    np.testing.assert_allclose(short.tokens, cut.tokens, atol=1e-6)


def test_what_cannot_be_scored_is_named(model, rows, monkeypatch):
    for context, rest, said in (
        ([], [5], "its context has no token"),
        ([5], [], "its continuation has no token"),
        ([5], [6] * 97, "a continuation of 97 tokens; the model reads 96"),
    ):
        with pytest.raises(UserError, match=rf"request 1 \(counted from 0\): {said}"):
            scored(model, [rows[0], context], [[5], rest])
    broken = jnp.full((8, 4), jnp.nan), jnp.zeros((8, 4), bool)
    monkeypatch.setattr(continuations, "_scores", lambda *_: broken)
    with pytest.raises(UserError, match="its probability is not finite; the parameters are damaged"):
        scored(model, [rows[0]], [[5]])


@pytest.mark.parametrize("eos", [1, None])
def test_a_continuation_ends_where_its_caller_says_so(model, rows, eos):
    sampling = generation.Sampling(9)
    calls = []

    def ended(ids):
        calls.append(len(ids))
        return len(ids) == 3

    with model.on_devices():
        whole = generation.generate(model.model, rows[:2], sampling, eos)
        found = generation.generate(model.model, rows[:2], sampling, eos, ended)
    assert [row.tolist() for row in found] == [row[:3].tolist() for row in whole]
    assert max(calls) == 3
