"""The recipes on bitext continue an imported encoder, with every parametrization. Bad bitext gives one line."""

from __future__ import annotations

import json
import random

import hf_folders
import jax
import numpy as np
import pytest
from commands import xalign

from xalign_jax.alignment.methods import Extraction
from xalign_jax.alignment.partners import HEAD
from xalign_jax.api import load
from xalign_jax.data.text.linked import Pair
from xalign_jax.evaluation.aligning.links import pharaoh
from xalign_jax.evaluation.aligning.neural import NeuralAligner, Way
from xalign_jax.evaluation.language_maps import LanguageMaps
from xalign_jax.evaluation.map_fitting import trained_weight

pytestmark = pytest.mark.slow

SMALL = ["--gin.bitext/Stage.steps=3", "--gin.Runtime.log_every=1", "--gin.Recipe.seed=1"]
TEXTS = ("--source=en.txt", "--target=de.txt")
PAIRS = "--gin.PAIRS=('pairs:en=en.txt,de=de.txt',)"
LEVELS = {
    "align_bitext": "WordAlignment",
    "align_words": "AlignedWords",
    "light_aligner": "LightAligner",
    "linear_words": "LinearWords",
    "xlm_align": "DenoisingAlignment",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported encoder and two files of 60 parallel lines."""
    folder = tmp_path_factory.mktemp("bitext")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "base")
    chance = random.Random(0)
    for language in ("en", "de"):
        lines = [" ".join("".join(chance.choices("abcdefgh", k=3)) for _ in range(5)) for _ in range(60)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
    return folder


def train(place, recipe, run, *more, level=1, text=PAIRS):
    files = ["--gin_file=base/model.gin", f"--gin_file=recipes/{recipe}.gin"]
    bound = [f"--gin.{LEVELS[recipe]}.level={level}", text]
    if recipe == "xlm_align":
        bound += ["--gin.bitext/TranslationFeed.length=64", "--gin.bitext/TranslationFeed.side=20"]
    bound += ['--gin.PAIR=("en", "de")'] if recipe == "linear_words" else []
    return xalign("train", *files, f"--model_dir={run}", *bound, *SMALL, *more, cwd=place)


def losses(place, run):
    lines = (place / run / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize("recipe", LEVELS)
def test_a_recipe_continues_an_imported_encoder(place, recipe):
    done = train(place, recipe, recipe)
    assert done.returncode == 0, done.stderr
    assert len(losses(place, recipe)) == 3


def test_the_third_loss_of_awesome_align_is_a_stream_beside_the_recipe(place):
    more = ("--gin_file=parts/parallel_sentences.gin", "--gin.ParallelSentences.level=2")
    small = ("--gin.parallel/TranslationFeed.length=64", "--gin.parallel/TranslationFeed.side=20")
    done = train(place, "align_bitext", "psi", *more, *small)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place / "psi" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/pairs", "loss/parallel", "parallel/accuracy"} <= rows[-1].keys()


def test_rows_that_go_in_parts_give_the_same_losses(place):
    assert train(place, "align_words", "whole").returncode == 0
    assert train(place, "align_words", "parts", "--gin.Runtime.accumulate=2").returncode == 0
    assert losses(place, "parts") == pytest.approx(losses(place, "whole"), rel=1e-4)


def test_a_trained_map_is_one_that_models_are_read_through(place):
    """German lines are English ones, so the map moves little. The frozen encoder is still that of the import."""
    assert train(place, "linear_words", "linear").returncode == 0
    made = ("--method=trained", "--level=1", '--texts={"en": "en.txt", "de": "de.txt"}')
    done = xalign("map", "--model=linear", *made, "--output=maps", cwd=place)
    assert done.returncode == 0, done.stderr
    maps, model = LanguageMaps.load(place / "maps"), load(place / "base")
    weight = np.asarray(trained_weight(load(place / "linear"), 1))
    assert 0 < np.abs(weight - np.eye(16)).max() < 1e-2
    texts = (place / "de.txt").read_text().splitlines()[:3]
    plain = model.encode(texts, level=1)
    for language, expected in (("de", plain @ weight), ("en", plain)):
        found = model.mapped(maps).encode(texts, level=1, language=language)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    other = xalign("map", "--model=linear", *made, "--level=2", "--output=none", cwd=place)
    assert other.returncode == 2 and "no map of level 2 was trained there (maps there: level_1)" in other.stderr


def test_align_compares_the_states_that_a_light_aligner_projects(place):
    """The encoder stays as it is, so the links are those of its states times the head."""
    assert train(place, "light_aligner", "light", "--gin.LightAligner.size=4").returncode == 0
    base, light = (load(place / name) for name in ("base", "light"))
    jax.tree.map(np.testing.assert_array_equal, base.model.params, light.model.params)
    done = xalign("align", "--model=light", "--projected", "--method=argmax", *TEXTS, cwd=place)
    assert done.returncode == 0, done.stderr
    lines = [(place / name).read_text().splitlines() for name in ("en.txt", "de.txt")]
    pairs = [Pair(n, tuple(a.split()), tuple(b.split())) for n, (a, b) in enumerate(zip(*lines, strict=True), 1)]
    ways, projection = [Way(1, Extraction("argmax"))], light.model.heads[HEAD]["projection"]
    assert projection.shape == (16, 4)
    found = NeuralAligner(base.model, base.tokenizer, ways, projection=projection).align(pairs)
    assert done.stdout.splitlines() == [pharaoh(alignment) for alignment in found]
    plain = NeuralAligner(base.model, base.tokenizer, ways).align(pairs)
    assert [one.links for one in plain] != [one.links for one in found]
    centred = xalign("align", "--model=light", "--projected", "--centre", *TEXTS, cwd=place)
    assert centred.returncode == 0, centred.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model=base", "--projected"], "--model=base: no run there that trained LightAligner"),
        (["--model=base", "--projected", "--level=1"], "--level: --projected reads states as the projection"),
        (["--method=ibm1", "--projected"], "--projected: --method=ibm1 uses no model"),
    ],
)
def test_a_projection_that_is_not_there_is_one_line(place, options, said):
    done = xalign("align", *TEXTS, *options, cwd=place)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr


def test_bad_input_is_one_line(place):
    cases = [
        (train(place, "align_bitext", "bad", level=9), "WordAlignment.level = 9: the model has levels 0 to 2"),
        (train(place, "align_bitext", "bad", text="--gin.PAIRS=('lines:en=en.txt',)"), "add parallel text"),
    ]
    for done, message in cases:
        # Progress bars of the preparation may stand before it.
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr.splitlines()[-1], done.stderr
