"""The command as a user meets it: the whole way on a small text of one's own, and one-line errors with exit codes."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from commands import python, xalign

import xalign_jax as xa
from xalign_jax.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"

RECIPE = """
include 'recipes/prealign_clone_tiny.gin'
Vocabulary.size = 400
Mixture.tasks = ("lines:en={text}",)
Lexicon.size = 200
Facts.count = 20
Facts.objects = 10
Facts.relations = 4
Llama.layers = 1
Llama.width = 32
Llama.heads = 2
Llama.kv_heads = 1
Llama.mlp_width = 64
ALIGN_STEPS = 4
PRETRAIN_STEPS = 6
PROBES = [@Perplexity(), @Knowledge()]
Perplexity.windows = 16
Runtime.log_every = 2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text of 3,000 lines, a recipe for it, and the model directory of a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    chance = random.Random(0)
    words = ["".join(chance.choices(LETTERS, k=chance.randint(2, 7))) for _ in range(300)]
    lines = [" ".join(chance.choices(words, weights=range(300, 0, -1), k=12)) + "." for _ in range(3000)]
    (folder / "text.txt").write_text("\n".join(lines))
    (folder / "small.gin").write_text(RECIPE.format(text="text.txt"))
    done = xalign("train", "--gin_file=small.gin", "--model_dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def _results(place):
    return json.loads((place / "run" / "results.json").read_text())


def test_a_run_on_own_text_leaves_results_and_a_report(place):
    rows = _results(place)
    assert {(row["stage"], row["step"]) for row in rows} == {("align", 4), ("pretrain", 10)}
    assert {(r["probe"], r["metric"]) for r in rows} >= {
        ("perplexity", "perplexity"),
        ("perplexity", "perplexity_in_language"),
        ("perplexity", "bits_per_byte"),
        ("knowledge", "accuracy"),
        ("knowledge", "in_language_accuracy"),
        ("knowledge", "chance"),
    }
    assert {row["language"] for row in rows if row["probe"] == "perplexity"} == {"en", "en_clone"}
    assert all(row["seed"] == 0 for row in rows)
    names = {path.name for path in (place / "run").iterdir()}
    assert {
        "config.gin",
        "environment.json",
        "vocabulary",
        "lexicon",
        "metrics.jsonl",
        "report.md",
        "report.html",
    } <= names
    last = json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["tokens/en"] > last["tokens/en_clone"] > 0
    assert 0 < last["pretrain_lm/switch_coverage"] <= 1


def test_python_loads_the_run_and_knows_that_it_is_done(place, monkeypatch):
    model = xa.load(place / "run")
    assert model.step == 10 and model.encode(["one", "two words"], 1).shape == (2, 32)
    assert xa.load(place / "run", step=4).step == 4
    # A run is read as its feeds write documents: bos predicts the first token.
    (score,) = model.score(["two words"])
    assert len(score.tokens) == len(model.tokenizer.encode(["two words"])[0]) and score.total < 0
    # As `xalign train` on a finished run: nothing is trained, and another recipe is refused.
    monkeypatch.chdir(place)
    before = (place / "run" / "metrics.jsonl").read_bytes()
    xa.train("small.gin", "run")
    assert (place / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"Recipe\.seed"):
        xa.train("small.gin", "run", {"Recipe.seed": 1})


def test_the_same_command_again_is_done_at_once(place):
    before = _results(place)
    again = xalign("train", "--gin_file=small.gin", "--model_dir=run", cwd=place)
    assert again.returncode == 0, again.stderr
    assert _results(place) == before


def test_training_on_a_prepared_store_loads_neither_tensorflow_nor_torch(place):
    code = (
        "import sys; from xalign_jax import cli\n"
        "try: cli.main(['train', '--gin_file=small.gin', '--model_dir=again'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'tensorflow', 'torch', 'seqio'} & set(sys.modules)"
    )
    done = python("-c", code, cwd=place)
    assert done.returncode == 0, done.stderr
    again = json.loads((place / "again" / "results.json").read_text())
    assert again == _results(place)  # the same recipe, the same numbers


def test_evaluate_adds_its_rows(place):
    (place / "probes.gin").write_text(
        "Evaluation.probes = [@Perplexity()]\nPerplexity.length = 32\nPerplexity.windows = 8\n"
    )
    before = _results(place)
    done = xalign("evaluate", "--gin_file=probes.gin", "--model_dir=run", "--step=4", cwd=place)
    assert done.returncode == 0, done.stderr
    report = (place / "run" / "report.md").read_text()
    assert "windows = 8" in report and "windows = 16" in report and len(done.stdout.splitlines()) < 25
    assert done.stdout.splitlines()[-1] == "The page with all figures: run/report.html; all tables: run/report.md"
    mine = [row for row in _results(place) if row["step"] == 4 and row["probe"] == "perplexity"]
    by_windows = {row["settings"]["windows"]: row["n"] for row in mine}
    assert by_windows == {8: 8 * 32, 16: 16 * 64}  # beside the run's own
    assert all(row in _results(place) for row in before)
    assert xalign("evaluate", "--gin_file=probes.gin", "--model_dir=run", "--step=4", cwd=place).returncode == 0
    assert sorted(map(json.dumps, _results(place))) == sorted(
        map(json.dumps, before + [r for r in mine if r not in before])
    )
    missing = xalign("evaluate", "--gin_file=probes.gin", "--model_dir=run", "--step=5", cwd=place)
    assert missing.returncode == 2 and "no checkpoint of step 5" in missing.stderr
    elsewhere = xalign(
        "evaluate", "--gin_file=probes.gin", "--model_dir=run", "--gin.Runtime.mesh=(3, 1, 1)", cwd=place
    )  # on another machine than it was trained on
    assert elsewhere.returncode == 2 and "Runtime.mesh = (3, 1, 1)" in elsewhere.stderr
    other = xalign("evaluate", "--gin_file=probes.gin", "--model_dir=run", "--gin.Recipe.seed=7", cwd=place)
    assert other.returncode == 2 and "recipe stays what it is, but Recipe.seed is 0 there, 7 here" in other.stderr


def test_a_run_is_evaluated_from_any_folder_and_on_other_text_without_its_own(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "other.txt").write_text("one two three\nfour five six\nseven eight nine\n")
    (tmp_path / "own.gin").write_text("Evaluation.probes = [@Perplexity()]\nPerplexity.length = 32\n")
    (tmp_path / "other.gin").write_text(
        "Evaluation.probes = [@SentenceRetrieval()]\n"
        'SentenceRetrieval.files = (("en", "other.txt"), ("en_clone", "other.txt"))\n'
        "SentenceRetrieval.least = 3\n"
        'SentenceRetrieval.metrics = ("accuracy",)\n'  # centred ones read the run's training text
    )
    own = xalign("evaluate", "--gin_file=own.gin", "--model_dir=run", cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    shutil.move(place / "text.txt", place / "gone.txt")
    try:
        other = xalign("evaluate", "--gin_file=other.gin", "--model_dir=run", cwd=tmp_path)
        assert other.returncode == 0, other.stderr
        missing = xalign("evaluate", "--gin_file=own.gin", "--model_dir=run", cwd=tmp_path)
        said = f"xalign: {place}/text.txt: no such file, and run does not hold this text; say where it is now: --gin."
        assert missing.returncode == 2 and missing.stderr.splitlines()[-1].startswith(said)
    finally:
        shutil.move(place / "gone.txt", place / "text.txt")
    assert "sentence_retrieval" in {row["probe"] for row in json.loads((tmp_path / "run" / "results.json").read_text())}


def test_compare_prints_and_writes_one_table(place):
    done = xalign("compare", "run", "--output=report", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout
    names = {path.suffix for path in (place / "report").iterdir()}
    assert {".md", ".csv", ".png"} <= names


def test_preview_and_stats_show_the_data(place):
    shown = xalign("data", "preview", "--gin_file=small.gin", cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert "stream align_words" in shown.stdout and "concept" in shown.stdout
    counted = xalign("data", "stats", "--gin_file=small.gin", cwd=place)
    assert counted.returncode == 0 and "coverage of running words" in counted.stdout
    assert "step" not in counted.stdout
    ramp = '((0, {"en": 0.9, "en_clone": 0.1}), (6, {"en": 0.1, "en_clone": 0.9}))'
    (place / "ramp.gin").write_text(f"include 'small.gin'\nMixture.rates = @Piecewise()\nPiecewise.points = {ramp}\n")
    rows = [f"--gin.{stream}/Stream.batch_size=1000" for stream in ("align_lm", "pretrain_lm")]
    counted = xalign("data", "stats", "--gin_file=ramp.gin", "--gin.Mixture.cap=1.6", *rows, cwd=place)
    # Both stages read the mixture, so its steps are those of the run. A clone has half of the text.
    assert "stream pretrain_lm, step 5: en 80.0%, en_clone 20.0%" in counted.stdout, counted.stderr
    assert "stream pretrain_lm, step 6: en 20.0%, en_clone 80.0%" in counted.stdout
    assert "stream pretrain_lm: Mixture.cap lowers en from 90.0% to 80.0%, en_clone from" in counted.stdout


def test_previews_and_stats_are_written_as_pages(place):
    done = xalign("data", "preview", "--gin_file=small.gin", "--step=3", "--html=pages/p.html", "--rows=2", cwd=place)
    assert done.returncode == 0 and done.stdout.startswith("pages/p.html: "), done.stderr
    page = (place / "pages" / "p.html").read_text()
    assert "step 3, 2 of" in page and "--gin_file=small.gin" in page
    done = xalign("data", "stats", "--gin_file=small.gin", "--output=pages", cwd=place)
    assert done.returncode == 0 and "stats.html" in done.stdout, done.stderr
    assert not list((place / "pages").glob("*.tmp"))
    found = json.loads((place / "pages" / "stats.json").read_text())
    assert [one["stream"] for one in found["drawn"]] == ["align_words", "align_lm", "pretrain_lm"]


def test_previews_have_colours_only_where_they_are_asked_for(place):
    show = ("data", "preview", "--gin_file=small.gin", "--stream=pretrain_lm", "--rows=1")
    assert "\033" not in xalign(*show, cwd=place).stdout
    assert "\033[" in xalign(*show, "--color=always", cwd=place).stdout


def test_sizes_of_vocabularies_are_tried_on_the_training_text(place):
    done = xalign("data", "sizes", "--gin_file=small.gin", "--sizes=400,500", "--least_gain=1000", cwd=place)
    assert done.returncode == 0, done.stderr
    said, *rows, verdict = done.stdout.splitlines()
    assert "lines of training text" in said and [row.split()[0] for row in rows] == ["pieces", "400", "500"]
    assert verdict == "Vocabulary.size = 500: the first that gains less than 1000 nats a line"
    loaded = ("--gin.Vocabulary.kind='bytes'", "--sizes=400,500")
    other = xalign("data", "sizes", "--gin_file=small.gin", *loaded, cwd=place)
    assert other.returncode == 2 and "the recipe's vocabulary is given" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("preview", "--rows=0"), "--rows=0: a preview shows at least 1 row"),
        (("preview", "--step=99999"), "--step=99999: the recipe's steps are 0 to "),
        (("preview", "--stream=x"), "--stream=x: no such stream; the streams are align_words, align_lm, pretrain_lm"),
        (("preview", "--html=."), "--html=.: a folder; name a file in it, such as page.html"),
        (("stats", "--rows=3"), "--rows: an option of `xalign data preview`; data stats does not read it"),
        (("stats", "--output=small.gin"), "--output=small.gin: "),
        (("sizes",), "--sizes: name the numbers of pieces to try, such as --sizes=2000,4000,8000"),
        (("stats", "--sizes=300,400"), "--sizes: an option of `xalign data sizes`; data stats does not read it"),
    ],
)
def test_bad_options_of_data_are_one_line(place, arguments, said):
    done = xalign("data", *arguments, "--gin_file=small.gin", cwd=place)
    assert done.returncode == 2 and done.stderr.startswith(f"xalign: {said}") and done.stderr.count("\n") == 1


def test_preparation_and_training_say_what_became_of_the_dictionary(place):
    line = "dictionary: 160 of 200 entries are trained on and 40 held out"
    assert line in xalign("data", "prepare", "--gin_file=small.gin", cwd=place).stdout
    told = xalign("train", "--gin_file=small.gin", "--model_dir=run", cwd=place).stderr
    assert line in told
    # The summary of a run is a few lines. This run is finished, so it says nothing about its speed.
    summary = told[told.index("recipe: ") :].splitlines()[:6]
    assert [text.partition(":")[0] for text in summary] == [
        "recipe",
        "model",
        "text",
        "dictionary",
        "devices",
        "output",
    ]
    assert "all steps are taken" in summary[0] and "speed:" not in told


def test_stats_show_the_texts_and_the_dictionary_where_facts_are_refused(place):
    counted = xalign("data", "stats", "--gin_file=small.gin", "--gin.Facts.count=100000", cwd=place)
    assert counted.returncode == 2 and counted.stderr.startswith("xalign: Facts: 100000 facts take ")
    assert "bytes/token" in counted.stdout and "coverage of running words" in counted.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "--gin_file=nowhere.gin", "--model_dir=x"], 2, "nowhere.gin"),
        (["train", "--gin_file=small.gin"], 2, "--model_dir"),
        (["train", "--gin_file=small.gin", "--model_dir=x", "--gin.Recipe.sead=1"], 2, "sead"),
        (["train", "--gin_file=small.gin", "--model_dir=x", "--gin.alin/Stage.steps=1"], 2, "align"),
        (
            ["train", "--gin_file=small.gin", "--model_dir=run", "--gin.Recipe.seed=7"],
            2,
            "Recipe.seed is 0 there, 7 here",
        ),
        (["train", "--gin_file=small.gin", "--model_dir=x", "--gin.Runtime.mesh=(3,1,1)"], 2, "Runtime.mesh"),
        (["train", "--gin_file=small.gin", "--model_dir=x", "--gin.Llama.max_length=8"], 2, "max_length = 8"),
        (
            ["train", "--gin_file=small.gin", "--model_dir=x", "--gin.Mixture.rates={'en': 1, 'de': 1}"],
            2,
            "Mixture.rates",
        ),
        (
            ["train", "--gin_file=small.gin", "--model_dir=x", "--gin.Mixture.tasks=('lines:en=gone.txt',)"],
            2,
            "gone.txt",
        ),
        (["train", "--gin_file=small.gin", "--model_dir=x", "--gin.WarmupCosine.peak=1e30"], 1, "not finite"),
        (["evaluate", "--gin_file=small.gin", "--model_dir=nowhere"], 2, "nowhere: no such folder"),
        (["compare", "nothing", "--output=y"], 2, "nothing"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(place, arguments, code, said):
    done = xalign(*arguments, cwd=place)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert said in last and "Traceback" not in done.stderr
    assert last.startswith("xalign")


def test_a_malformed_dictionary_names_file_and_line(place):
    (place / "bad.tsv").write_text("one\teins\ntwo\n")
    (place / "pair.gin").write_text(
        RECIPE.format(text=place / "text.txt")
        + "Lexicon.source = 'file'\nLexicon.paths = ('bad.tsv',)\nLexicon.languages = ('en', 'de')\nVocabulary.clones = 0\n"
        "Mixture.rates = {'en': 1}\n"
    )
    done = xalign("train", "--gin_file=pair.gin", "--model_dir=z", cwd=place)
    assert done.returncode == 2
    assert "bad.tsv:2" in done.stderr
