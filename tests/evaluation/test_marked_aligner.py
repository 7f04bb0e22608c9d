"""Links by a trained head: its probabilities are those of single rows, and a run's directory says how to read it."""

from __future__ import annotations

import json
import random

import hf_folders
import jax
import numpy as np
import pytest
from commands import xalign

from xalign_jax.alignment.marking import HEAD
from xalign_jax.api import load
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.marked import Marking, WordEncoder
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.marked import MarkedAligner
from xalign_jax.evaluation.encode import padded
from xalign_jax.interfaces import Inputs
from xalign_jax.records.files import stream_of

PAIRS = [
    Pair(1, ("aa", "b", "cde"), ("ff", "g")),
    Pair(2, (), ("x",)),
    Pair(3, ("ab", "cd"), ("ef", "gh", "ij", "k")),
]
RUN = ("--gin.SOURCE='en.txt'", "--gin.TARGET='de.txt'", "--gin.GOLD='gold.txt'", "--gin.MarkedFeed.length=60")
STEPS = ("--gin.bitext/Stage.steps=3", "--gin.MarkedWords.level=1", "--gin.Runtime.log_every=1")


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
    """The encoder with a head that no training made."""
    model = load(place / "hf")
    weight = np.random.default_rng(0).normal(size=model.model.width).astype(np.float32)
    model.model = model.model.bind(model.model.params, {HEAD: {"weight": weight, "bias": np.float32(0.1)}})
    return model


def word_probabilities(loaded, pair, level):
    """(m,n): the mean of both directions, row by row, without batches."""
    (both,) = WordEncoder(loaded.tokenizer).encode([pair])
    marking, head = Marking(loaded.tokenizer, "#", "marker"), loaded.model.heads[HEAD]
    found = [np.zeros((len(pair.source), len(pair.target))), np.zeros((len(pair.target), len(pair.source)))]
    for side in (0, 1):
        for word in range(len(found[side])):
            row = marking.row(both, side, word)
            batch = padded([row.tokens], len(row.tokens))
            states = loaded.model.hidden(Inputs.of(batch), levels=(level,))[level][0]
            p = 1 / (1 + np.exp(-(np.asarray(states, np.float64) @ head["weight"] + head["bias"])))
            for other in range(found[side].shape[1]):
                found[side][word, other] = p[row.words == other].max()
    return (found[0] + found[1].T) / 2


def test_links_are_words_whose_mean_probability_exceeds_the_threshold(loaded):
    expected = [word_probabilities(loaded, pair, 1) if pair.source else np.zeros((0, 1)) for pair in PAIRS]
    threshold = float(np.median(np.concatenate([one.ravel() for one in expected])))
    for tokens in (None, 1, 40):
        aligner = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, threshold=threshold, batch_tokens=tokens)
        found = aligner.align(PAIRS)
        assert aligner.longer == 0 and found[1].links == ()
        for alignment, probability in zip(found, expected, strict=True):
            assert alignment.links == tuple(map(tuple, np.argwhere(probability > threshold).tolist()))
            own = [probability[link] for link in alignment.links]
            np.testing.assert_allclose(alignment.probabilities, own, rtol=1e-4)
    assert 0 < len(found[0].links) < 6


def test_words_beyond_the_models_length_have_no_link(loaded):
    pair = Pair(1, ("word",) * 3, ("word",) * 40)
    aligner = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, threshold=0.0)
    (found,) = aligner.align([pair])
    sure = MarkedAligner(loaded.model, loaded.tokenizer, "#", 1, threshold=0.5).align([pair])[0]
    assert aligner.longer == 1 and 0 < max(j for _, j in found.links) < 39
    assert set(sure.links) <= set(found.links)


def test_a_model_without_the_head_and_numbers_that_are_not_finite_are_refused(loaded):
    with pytest.raises(UserError, match=r"no head 'marked_words' there; train recipes/marked_words.gin"):
        MarkedAligner(loaded.model.bind(loaded.model.params, {}), loaded.tokenizer, "#", 1)
    broken = loaded.model.bind(jax.tree.map(lambda leaf: leaf * np.nan, loaded.model.params))
    with pytest.raises(UserError, match="the head's probabilities are not finite"):
        MarkedAligner(broken, loaded.tokenizer, "#", 1).align(PAIRS)


@pytest.mark.slow
def test_the_recipe_trains_a_head_that_align_reads(place):
    files = ("--gin_file=base/model.gin", "--gin_file=recipes/marked_words.gin")
    done = xalign("train", *files, "--model_dir=run", *RUN, *STEPS, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["marked/words"] > 0 and np.isfinite(rows[-1]["loss"])
    assert stream_of(place / "run", "MarkedWords")["feed"]["marker"] == "¶"
    assert stream_of(place / "run", "XlCo") is None and stream_of(place / "base", "MarkedWords") is None
    assert set(load(place / "run").model.heads[HEAD]) == {"weight", "bias"}
    texts = ("--source=en.txt", "--target=de.txt", "--gold=gold.txt")
    told = xalign("align", "--model=run", "--method=marked", *texts, "--threshold=0.01", "--output=links", cwd=place)
    assert told.returncode == 0 and "30 sentences: precision" in told.stderr, told.stderr
    assert len((place / "links").read_text().splitlines()) == 30
    # Gold links that have changed since the run began.
    (place / "gold.txt").write_text("0-0\n" * 30)
    again = xalign("train", *files, "--model_dir=run", *RUN, *STEPS, "--extend", cwd=place)
    assert again.returncode == 2 and "marked/MarkedFeed.links" in again.stderr, again.stderr


@pytest.mark.slow
def test_gold_links_that_count_from_one_stop_the_run_at_once(place):
    (place / "one.txt").write_text("1-1 2-2\n" * 30)
    files = ("--gin_file=base/model.gin", "--gin_file=recipes/marked_words.gin")
    done = xalign("train", *files, "--model_dir=bad", *RUN, *STEPS, "--gin.GOLD='one.txt'", cwd=place)
    assert done.returncode == 2 and "add MarkedFeed.base=1" in done.stderr and done.stderr.count("\n") == 1
    assert not (place / "bad").exists()
