"""Links by a trained head: its probabilities are those of single rows, and a run's directory says how to read it."""

from __future__ import annotations

import json
import random

import hf_folders
import jax
import numpy as np
import pytest
from commands import xalign

from xalign_jax.api import load
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.marked import Marking, WordEncoder
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.marked import JUDGES, SPANS, WORDS, MarkedAligner
from xalign_jax.evaluation.encode import padded
from xalign_jax.interfaces import Inputs
from xalign_jax.records.files import stream_of

PAIRS = [
    Pair(1, ("aa", "b", "cde"), ("ff", "g")),
    Pair(2, (), ("x",)),
    Pair(3, ("ab", "cd"), ("ef", "gh", "ij", "k")),
]
RUN = ("--gin.SOURCE='en.txt'", "--gin.TARGET='de.txt'", "--gin.GOLD='gold.txt'", "--gin.MarkedFeed.length=60")
STEPS = ("--gin.bitext/Stage.steps=3", "--gin.Runtime.log_every=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported encoder of two blocks, and 30 pairs of sentences with gold links."""
    folder = tmp_path_factory.mktemp("marked")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "base")
    chance = random.Random(0)
    lines = [" ".join("".join(chance.choices("abcdef", k=2)) for _ in range(3)) for _ in range(30)]
    for name, texts in (("en", lines), ("de", lines), ("gold", ["0-0 1-1 2p2"] * 30)):
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")
    return folder


@pytest.fixture(scope="module")
def loaded(place):
    """The encoder with heads that no training made."""
    model = load(place / "hf")
    weight = np.random.default_rng(0).normal(size=(2, model.model.width)).astype(np.float32)
    heads = {WORDS.head: {"weight": weight[0], "bias": np.float32(0.1)}, SPANS.head: {"weight": weight}}
    model.model = model.model.bind(model.model.params, heads)
    return model


def of_tokens(states, head, at):
    """{token: probability} for the tokens `at` of a row's states (n,D), which translate its marked word."""
    return {t: 1 / (1 + np.exp(-(states[t] @ head["weight"] + head["bias"]))) for t in at}


def of_spans(states, head, at):
    start, end = (np.exp(scores) / np.exp(scores[[0, *at]]).sum() for scores in head["weight"] @ states.T)
    best, first, last = max((start[i] * end[j], i, j) for i in at for j in at if i <= j)
    return {t: best * (first <= t <= last) * (best > start[0] * end[0]) for t in at}


def word_probabilities(loaded, pair, level, judge):
    """(m,n): the mean of both directions, row by row, without batches."""
    (both,) = WordEncoder(loaded.tokenizer).encode([pair])
    marking, head = Marking(loaded.tokenizer, "#", "marker"), loaded.model.heads[judge.head]
    judged = {WORDS: of_tokens, SPANS: of_spans}[judge]
    found = [np.zeros((len(pair.source), len(pair.target))), np.zeros((len(pair.target), len(pair.source)))]
    for side in (0, 1):
        for word in range(len(found[side])):
            row = marking.row(both, side, word)
            batch = padded([row.tokens], len(row.tokens))
            states = loaded.model.hidden(Inputs.of(batch), levels=(level,))[level][0]
            p = judged(np.asarray(states, np.float64), head, np.flatnonzero(row.words >= 0).tolist())
            for other in range(found[side].shape[1]):
                found[side][word, other] = max(p[t] for t in np.flatnonzero(row.words == other).tolist())
    return (found[0] + found[1].T) / 2


@pytest.mark.parametrize("judge", JUDGES.values(), ids=list(JUDGES))
def test_links_are_words_whose_mean_probability_exceeds_the_threshold(loaded, judge):
    expected = [word_probabilities(loaded, pair, 1, judge) if pair.source else np.zeros((0, 1)) for pair in PAIRS]
    threshold = float(np.median(np.concatenate([one.ravel() for one in expected])))
    for tokens in (None, 1, 40):
        aligner = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, judge, threshold=threshold, batch_tokens=tokens)
        found = aligner.align(PAIRS)
        assert aligner.longer == 0 and found[1].links == ()
        for alignment, probability in zip(found, expected, strict=True):
            assert alignment.links == tuple(map(tuple, np.argwhere(probability > threshold).tolist()))
            own = [probability[link] for link in alignment.links]
            np.testing.assert_allclose(alignment.probabilities, own, rtol=1e-4)
    assert 0 < len(found[0].links) < 6


@pytest.mark.parametrize("judge", JUDGES.values(), ids=list(JUDGES))
def test_words_beyond_the_models_length_have_no_link(loaded, judge):
    pair = Pair(1, ("word",) * 3, ("word",) * 40)
    aligner = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, judge, threshold=0.0)
    (found,) = aligner.align([pair])
    sure = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, judge, threshold=0.5).align([pair])[0]
    assert aligner.longer == 1 and 0 < max(j for _, j in found.links) < 39
    assert set(sure.links) <= set(found.links)


@pytest.mark.parametrize("judge", JUDGES.values(), ids=list(JUDGES))
def test_a_model_without_the_head_and_numbers_that_are_not_finite_are_refused(loaded, judge):
    with pytest.raises(UserError, match=rf"no head '{judge.head}' there; train recipes/{judge.head}.gin"):
        MarkedAligner(loaded.model.bind(loaded.model.params, {}), loaded.tokenizer, "#", 1, judge)
    broken = loaded.model.bind(jax.tree.map(lambda leaf: leaf * np.nan, loaded.model.params))
    with pytest.raises(UserError, match="the head's probabilities are not finite"):
        MarkedAligner(broken, loaded.tokenizer, "#", 1, judge).align(PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize(("judge", "objective"), [(WORDS, "MarkedWords"), (SPANS, "MarkedSpans")], ids=list(JUDGES))
def test_the_recipe_trains_a_head_that_align_reads(place, judge, objective):
    run, gold = judge.method, place / f"{judge.method}.gold"
    gold.write_text((place / "gold.txt").read_text())
    files = ("--gin_file=base/model.gin", f"--gin_file=recipes/{judge.head}.gin", f"--model_dir={run}")
    settings = (*RUN, *STEPS, f"--gin.{objective}.level=1", f"--gin.GOLD='{gold.name}'")
    done = xalign("train", *files, *settings, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place / run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["marked/words"] > 0 and np.isfinite(rows[-1]["loss"])
    assert stream_of(place / run, objective)["feed"]["marker"] == "¶"
    assert stream_of(place / run, "XlCo") is None and stream_of(place / "base", objective) is None
    assert "weight" in load(place / run).model.heads[judge.head]
    texts = ("--source=en.txt", "--target=de.txt", f"--gold={gold.name}", "--threshold=0.01", f"--output={run}.links")
    told = xalign("align", f"--model={run}", f"--method={judge.method}", *texts, cwd=place)
    assert told.returncode == 0 and "30 sentences: precision" in told.stderr, told.stderr
    assert len((place / f"{run}.links").read_text().splitlines()) == 30
    # Gold links that have changed since the run began.
    gold.write_text("0-0\n" * 30)
    again = xalign("train", *files, *settings, "--extend", cwd=place)
    assert again.returncode == 2 and "marked/MarkedFeed.links" in again.stderr, again.stderr


@pytest.mark.slow
def test_gold_links_that_count_from_one_stop_the_run_at_once(place):
    (place / "one.txt").write_text("1-1 2-2\n" * 30)
    files = ("--gin_file=base/model.gin", "--gin_file=recipes/marked_words.gin")
    done = xalign("train", *files, "--model_dir=bad", *RUN, *STEPS, "--gin.GOLD='one.txt'", cwd=place)
    assert done.returncode == 2 and "add MarkedFeed.base=1" in done.stderr and done.stderr.count("\n") == 1
    assert not (place / "bad").exists()
