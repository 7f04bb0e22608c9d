"""`xalign align` on a tiny Hugging Face folder and without a model: files, scores and one line for what is wrong."""

from __future__ import annotations

import json
import random

import hf_folders
import jax
import jax.numpy as jnp
import pytest
from commands import xalign

from xalign_jax.alignment.methods import METHODS, Extraction
from xalign_jax.alignment.symmetrise import SYMMETRISATIONS
from xalign_jax.api import load
from xalign_jax.cli.commands import align
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.text.linked import Pair
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.neural import NeuralAligner, Way

TEXTS = ("--source=en.txt", "--target=de.txt")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an encoder of 2 blocks, the same as a model directory, and 40 pairs of equal words in two orders."""
    folder = tmp_path_factory.mktemp("align")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "run")
    chance = random.Random(0)
    lines, gold = [], []
    for _ in range(40):
        sentence = chance.sample([letter * 4 for letter in "abcdefg"], 4)
        order = chance.sample(range(4), 4)
        lines.append((" ".join(sentence), " ".join(sentence[i] for i in order)))
        gold.append(" ".join(f"{i}-{j}" for j, i in enumerate(order)))
    for name, texts in (("en", [s for s, _ in lines]), ("de", [t for _, t in lines]), ("gold", gold)):
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")
    return folder


def test_links_dictionary_scores_and_picture_are_written(place):
    written = (
        "--output=links",
        "--dictionary=en-de.tsv",
        "--picture=grid.png",
        "--gold=gold.txt",
        "--least_probability=0.4",
    )
    done = xalign("align", "--model=hf", *TEXTS, *written, "--method=match", "--level=0", cwd=place)
    assert done.returncode == 0, done.stderr
    links = (place / "links").read_text().splitlines()
    gold = (place / "gold.txt").read_text().splitlines()
    assert len(links) == len(gold) == 40
    assert "40 sentences: precision" in done.stderr and "AER" in done.stderr
    # Bytes of equal words have states that differ by their positions only. The spaces before words link any words.
    assert sum(set(a.split()) >= set(b.split()) for a, b in zip(links, gold, strict=True)) > 30
    entries = read_dictionary(str(place / "en-de.tsv"), ("en", "de")).entries
    assert {words[0][1] == words[1][1] for _, words in entries} == {True} and len(entries) == 7
    assert (place / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert not list(place.glob("*.partial"))


def test_a_folder_and_its_model_directory_give_the_same_links_as_json(place):
    found = {}
    for model in ("hf", "run"):
        done = xalign("align", f"--model={model}", *TEXTS, "--jsonl", cwd=place)
        assert done.returncode == 0, done.stderr
        found[model] = [json.loads(line) for line in done.stdout.splitlines()]
    assert found["hf"] == found["run"] and len(found["hf"]) == 40
    assert set(found["hf"][0]) == {"line", "source", "target", "links", "probabilities"}
    assert all(0 <= p <= 1 for row in found["hf"] for p in row["probabilities"])


def test_links_do_not_depend_on_the_batch_and_levels_share_a_pass(place):
    loaded = load(place / "hf")
    model, tokenizer = loaded.model, loaded.tokenizer
    lines = (place / "en.txt").read_text().splitlines(), (place / "de.txt").read_text().splitlines()
    pairs = [Pair(n, tuple(a.split()), tuple(b.split())) for n, (a, b) in enumerate(zip(*lines, strict=True), 1)]
    pairs = [*pairs[:10], Pair(11, (), ("x",)), Pair(12, ("word",) * 40, ("word",) * 3)]
    ways = [Way(level, Extraction(method)) for level in (0, 2) for method in METHODS]
    together = NeuralAligner(model, tokenizer, ways)
    found = together.align_ways(pairs)
    assert together.longer == 1 and all(links[10].links == () for links in found)
    # Words beyond the model's length have no link.
    assert 0 < max(i for links in found for i, _ in links[11].links) < 40
    alone = NeuralAligner(model, tokenizer, ways, batch_tokens=1)
    for number in (0, 7, 11):
        single = [links[0].links for links in alone.align_ways([pairs[number]])]
        assert single == [links[number].links for links in found]
    centred = NeuralAligner(model, tokenizer, [Way(2, Extraction(), centred=True)])
    assert [bool(alignment.links) for alignment in centred.align(pairs)] == [n != 10 for n in range(12)]


def test_states_that_are_not_finite_give_no_links(place):
    loaded = load(place / "hf")
    model, tokenizer = loaded.model, loaded.tokenizer
    broken = model.bind(jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
    with pytest.raises(UserError, match="level 1: the model's states are not finite"):
        NeuralAligner(broken, tokenizer, [Way(1, Extraction())]).align([Pair(1, ("a",), ("b",))])


def test_model_1_needs_no_model_and_calibrates_its_links(place):
    # It links all words rightly; in this gold file, the first link of each line is missing.
    gold = [line.partition(" ")[2] for line in (place / "gold.txt").read_text().splitlines()]
    (place / "fewer.txt").write_text("\n".join(gold) + "\n")
    lexical = ("--method=ibm1", "--symmetrise=grow-diag-final-and", "--gold=fewer.txt")
    done = xalign("align", *TEXTS, *lexical, "--fit_calibration=fit.json", cwd=place)
    assert done.returncode == 0, done.stderr
    fitted = json.loads((place / "fit.json").read_text())
    assert set(fitted) == {"slope", "intercept", "fitted", "error", "links"}
    assert fitted["fitted"] == "ibm1, en.txt and de.txt" and "probabilities: " not in done.stderr
    again = xalign("align", *TEXTS, *lexical, "--calibration=fit.json", cwd=place)
    errors = [float(text.stderr.rpartition("calibration error ")[2].split()[0]) for text in (done, again)]
    assert again.returncode == 0 and errors[1] == pytest.approx(errors[0], abs=0.002)
    assert "calibrated for ibm1, en.txt and de.txt; this is ibm1, en.txt and de.txt" in again.stderr


def test_a_calibration_of_a_model_starts_from_raw_probabilities(place):
    """A second run that uses it has the error that was said, and a line names what it and this run were made of."""
    gold = [line.partition(" ")[2] for line in (place / "gold.txt").read_text().splitlines()]
    (place / "some.txt").write_text("\n".join(gold) + "\n")
    options = (*TEXTS, "--model=hf", "--level=1", "--gold=some.txt")
    done = xalign("align", *options, "--fit_calibration=hf.json", cwd=place)
    assert done.returncode == 0, done.stderr
    again = xalign("align", *options, "--calibration=hf.json", cwd=place)
    errors = [float(text.stderr.rpartition("calibration error ")[2].split()[0]) for text in (done, again)]
    assert errors[1] == pytest.approx(errors[0], abs=0.002)
    here = "hf, level 1, itermax, en.txt and de.txt"
    assert f"probabilities: calibrated for {here}; this is {here}" in again.stderr
    usual = xalign("align", *options, cwd=place)
    assert f"calibrated for multilingual-e5-small, level 7, itermax, 200 pairs of en-cs; this is {here}" in usual.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model=hf", "--level=3"], "--level=3: the model has levels 0 to 2"),
        (["--model=none"], "none: no such folder"),
        (["--model=."], "neither a model directory"),
        ([], "--model: --method=itermax needs one; without a model use --method=ibm1"),
        (["--method=ibm1", "--level=2"], "--level: --method=ibm1 uses no model"),
        (["--model=hf", "--symmetrise=union"], "--method=itermax has no directions"),
        (["--method=marked"], "--model: --method=marked needs the model directory of a run"),
        (
            ["--method=spans", "--model=run"],
            "--model=run: no run there that trained MarkedSpans; train recipes/marked_spans.gin",
        ),
        (["--method=marked", "--model=hf"], "--model=hf: no run there that trained MarkedWords"),
        (["--method=marked", "--model=run"], "--model=run: no run there that trained MarkedWords"),
        (["--method=marked", "--model=run", "--level=1"], "--level: --method=marked links words as they were trained"),
        (["--method=marked", "--model=run", "--symmetrise=union"], "--symmetrise: --method=marked links"),
        (["--method=ibm1", "--target=short.txt"], "en.txt and short.txt have 40 and 1 lines"),
        (["--method=ibm1", "--gold=one.txt"], "one.txt:1: link 4-4 lies outside"),
        (["--method=ibm1", "--gold=empty.txt"], "no sure link there"),
        (["--method=ibm1", "--target=none.txt"], "none.txt: no such file"),
        (["--method=ibm1", "--fit_calibration=x"], "--fit_calibration: needs --gold"),
        (["--method=ibm1", "--gold=gold.txt", "--fit_calibration=x", "--calibration=y"], "leave one of the two out"),
        (["--method=ibm1", "--calibration=en.txt"], "not a file that --fit_calibration wrote"),
        (["--method=ibm1", "--picture=grid.txt"], "its name must end in .png, .svg, .pdf"),
        (["--method=ibm1", "--output=none/links"], "--output=none/links: no such folder"),
        (["--method=ibm1", "--gin.A=1"], "xalign align reads no gin files"),
    ],
)
def test_bad_input_is_one_line(place, options, said):
    (place / "short.txt").write_text("one\n")
    (place / "one.txt").write_text("1-1 4-4\n" * 40)
    (place / "empty.txt").write_text("\n" * 40)
    done = xalign("align", *TEXTS, *options, cwd=place)
    assert done.returncode == 2, done.stderr
    # Loading a model shows its progress on the lines before.
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not done.stdout


def test_the_options_name_what_the_library_offers():
    """The command line lists the names again, because it must not load JAX to print its help."""
    assert align._NEURAL == METHODS
    assert set(align._SYMMETRISATIONS) == set(SYMMETRISATIONS)
