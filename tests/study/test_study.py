"""The study's experiments parse, its tables compute what they say, and recorded runs are not repeated."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))  # `study` is a folder of the repository, not of the installed package

from study import __main__, gap, imbalance, plots, record, run, tables  # noqa: E402
from study.experiments import ALONE, EXPERIMENTS, select  # noqa: E402
from xalign_jax.data.lexicon.lexicon import Word, concept_table  # noqa: E402
from xalign_jax.errors import UserError  # noqa: E402
from xalign_jax.recipe import as_json, identity  # noqa: E402


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # its gin files are named from there


def made_up(experiment, seed, english, clone, **more):
    return {"experiment": experiment, "seed": seed, "own_ppl/1": english, "own_ppl/2": clone, **more}


def test_every_experiment_is_a_recipe_of_its_own():
    found = run.jobs(EXPERIMENTS)
    assert len({job.name for job in found}) == len({identity(job.recipe) for job in found}) == len(found)
    assert all(re.fullmatch(r"[\w.-]+", job.name) for job in found)


def test_clone_arms_see_equal_language_model_tokens():
    for job in run.jobs(select(["clone*", "baselines", "search", "dictionary"]), [1]):
        assert record.tokens(job.recipe)["lm_tokens"] == 700 * 32 * 64, job.name


def test_no_step_takes_more_concepts_than_its_dictionary_has():
    for job in run.jobs([one for one in EXPERIMENTS if not one.data and one.question != "imbalance"], [1]):
        lexicon = job.recipe.lexicon
        concepts = round(lexicon.coverage * (lexicon.size - round(lexicon.heldout * lexicon.size)))
        feeds = [stream.feed for stage in job.recipe.stages for stream in stage.streams]
        assert all(getattr(feed, "concepts", 0) <= concepts for feed in feeds), job.name


def test_experiments_are_chosen_by_question_and_by_name():
    assert {one.name for one in select(["clone"])} >= {"J", "O"}
    assert [one.name for one in select(["K-w[0-9]*"])] == ["K-w0.03", "K-w0.3", "K-w1"]
    assert select([]) == EXPERIMENTS and select(["nothing"]) == []


def test_gap_closed_and_cost_are_taken_by_seed():
    found = tables.arms([
        made_up("J", 1, 50.0, 100.0), made_up("J", 2, 60.0, 120.0), made_up("J", 3, 1.0, 1.0),
        made_up("O", 1, 50.0, 50.0), made_up("O", 2, 40.0, 40.0),
        made_up("K", 1, 51.0, 60.0), made_up("K", 2, 57.0, 80.0),
    ])  # fmt: skip
    assert tables.closed(found["K"], found["J"], found["O"]) == [0.8, 0.5]
    assert tables.cost(found["K"], found["J"]) == pytest.approx([0.02, -0.05])
    table = tables.comparison(found, ["K", "absent"], "J", "O")
    assert "65 ± 21 %" in table and "-1.5 ± 4.9 %" in table and "absent" not in table


def test_points_are_drawn_of_the_seeds_that_both_baselines_have():
    rows = [made_up("J", 1, 40.0, 100.0), made_up("J", 2, 44.0, 120.0), made_up("O", 1, 38.0, 50.0)]
    rows += [made_up("K", 1, 42.0, 60.0), made_up("K", 2, 44.0, 85.0), made_up("PC", 2, 44.0, 90.0)]
    points = tables._points(tables.arms(rows), "clone", "J", "O")
    assert points == {"J": ([0.0], [0.0]), "K": ([pytest.approx(0.05)], [0.8])}


def test_standard_error_of_a_difference():
    gain, error = tables.difference([2.0, 4.0], [1.0, 1.0, 1.0])
    assert (gain, error) == (2.0, pytest.approx(math.sqrt(2.0 / 2)))
    assert tables.difference([2.0], [1.0, 3.0]) == (0.0, None)
    found = tables.arms([made_up("A", s, 1.0, 1.0, **{"knows/2": v}) for s, v in enumerate((0.5, 0.7))])
    found |= tables.arms([made_up("B", s, 1.0, 1.0, **{"knows/2": v}) for s, v in enumerate((0.2, 0.2))])
    shown = tables.differences(found, [("A", "B"), ("A", "C")])
    assert "A against B" in shown and "| +0.400 (4.0 se) |" in shown and "C" not in shown


def test_rows_survive_the_file_and_replace_their_own(tmp_path):
    path = tmp_path / "rows.csv"
    row = {"experiment": "K", "seed": 1, "identity": "12", "steps": 700, "knows/2": 0.125}
    record.replace(path, [row, row | {"seed": 2, "words/heldout/head": 1.0}])
    assert record.read(path)[0] == row
    record.replace(path, [row | {"knows/2": 0.25}])
    assert [found["knows/2"] for found in record.read(path)] == [0.25, 0.125]
    assert record.read(tmp_path / "none.csv") == []


def test_runs_that_finish_at_once_lose_no_row(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [{"experiment": "K", "seed": seed, "identity": "12"} for seed in range(64)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda row: record.replace(path, [row]), rows))
    assert record.read(path) == rows


def test_only_what_has_no_row_of_this_very_recipe_is_missing():
    wanted = run.jobs(select(["J", "K"]), [1, 2])
    names = [job.name for job in wanted]
    assert names == ["J-1", "K-1", "J-2", "K-2"]
    results = [
        {"experiment": job.experiment.name, "seed": job.seed, "identity": identity(job.recipe)} for job in wanted[:2]
    ]
    assert [job.name for job in run.missing(wanted, results, [])] == names[2:]
    results[0]["identity"] = "another recipe's"
    assert [job.name for job in run.missing(wanted, results, [])] == ["J-1", *names[2:]]
    drawn = [job._replace(experiment=job.experiment._replace(probe_every=50)) for job in wanted[1:2]]
    assert run.missing(drawn, results, []) == drawn and run.missing(drawn, results, results) == []
    assert "clone: 1 of 4 runs recorded" in run.listing(wanted, wanted[1:], results)


def test_tables_are_of_the_recipes_as_they_are_and_of_one_vocabulary_for_a_text():
    wanted = run.jobs(select(["J", "K", "J-en-de"]), [1, 2])
    rows = [
        {"experiment": job.experiment.name, "seed": job.seed, "identity": identity(job.recipe)}
        | {"vocabulary": "of German" if job.experiment.data else "of the clone"}
        for job in wanted
    ]
    assert run.comparable(rows, wanted) == (rows, [])
    rows[0]["vocabulary"], rows[1]["identity"] = "of other texts", "an older one"
    rows.append({"experiment": "GONE", "seed": 1, "identity": "x", "vocabulary": "of the clone"})
    kept, left = run.comparable(rows, wanted)
    assert kept == rows[2:6]
    assert [line.split(":")[0] for line in left] == [f"{r['experiment']}-{r['seed']}" for r in (*rows[:2], rows[6])]
    assert "vocabulary" in left[0] and "recipe" in left[1] and "recipe" in left[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Empty folders for runs and rows."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(record, "CURVES", tmp_path / "curves.csv")
    return tmp_path / "runs"


@pytest.fixture
def no_data(monkeypatch):
    """Prepare no text, because the runs are made up."""
    monkeypatch.setattr(run.stages, "prepare_data", lambda recipe: None)


def finish(directory, recipe, steps):
    """Write the files of a finished run, as far as the study reads them."""
    directory.mkdir(parents=True)
    about = {"recipe_name": "made", "seed": recipe.seed, "identity": identity(recipe), "git": "abc"}
    (directory / "environment.json").write_text(json.dumps(about | {"vocabulary_fingerprint": "v"}))
    row = {"stage": "s", "seed": 1, "split": None, "control": None, "level": None, "n": 9}
    rows = [
        row | {"step": step, "probe": "perplexity", "metric": "perplexity_in_language", "language": lang, "value": 9.5}
        for step in (1, steps)
        for lang in ("en", "en_clone")
    ]
    (directory / "results.json").write_text(json.dumps(rows))
    metrics = [{"step": step, "perf/step_seconds": 0.5} for step in (10, steps)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))


def test_a_finished_run_is_recorded_without_training_and_an_unfinished_one_trains(runs, no_data, monkeypatch):
    asked = []

    def train(command, **options):
        asked.append(command)
        recipe = next(job.recipe for job in wanted if f"--model_dir={runs / job.name}" in command)
        finish(runs / "K-1", recipe, 700)
        return run.subprocess.CompletedProcess(command, 0)

    wanted = run.jobs(select(["J", "K"]), [1])
    finish(runs / "J-1", wanted[0].recipe, 700)
    monkeypatch.setattr(run.subprocess, "run", train)
    assert run.run(wanted, 1)
    assert len(asked) == 1 and f"--gin_file={wanted[1].experiment.files[0]}" in asked[0]
    first, second = record.read(record.RESULTS)
    assert first["own_ppl/2"] == 9.5 and first["train_seconds"] == 350 and "wall_seconds" not in first
    assert second["experiment"] == "K" and second["tokens"] == 700 * 32 * 64 + 100 * 8 * 64 + 600 * 4 * 64
    assert run.missing(wanted, record.read(record.RESULTS), []) == []
    assert run.run(wanted, 1) and record.read(record.RESULTS) == [first, second]  # what it took is not forgotten
    assert "wall_seconds" in second and len(asked) == 1


def test_a_run_that_stopped_before_its_first_probe_is_not_finished(runs):
    (job,) = run.jobs(select(["J"]), [1])
    finish(runs / "J-1", job.recipe, 700)
    assert record.finished(runs / "J-1", job.recipe)
    (runs / "J-1" / "results.json").write_text("[]")
    assert not record.finished(runs / "J-1", job.recipe)


def test_what_evaluate_added_to_a_run_is_not_recorded(runs, no_data):
    (job,) = run.jobs(select(["J"]), [1])
    finish(runs / "J-1", job.recipe, 700)
    before = record.rows_of("J", runs / "J-1", job.recipe, None)
    path = runs / "J-1" / "results.json"
    rows = json.loads(path.read_text())
    own = json.loads(json.dumps(as_json(job.recipe.stages[-1].probes[0])))
    added = [row | {"settings": own | {"length": 7}, "data": "aaaaaaaaaaaa", "value": 1.5} for row in rows]
    path.write_text(json.dumps([row | {"settings": own, "data": "bbbbbbbbbbbb"} for row in rows] + added))
    assert record.rows_of("J", runs / "J-1", job.recipe, None) == before


def test_columns_are_called_by_the_short_names_of_the_recipe_s_probes():
    (job,) = run.jobs(select(["K"]), [1])
    short = record.short_names(probe for stage in job.recipe.stages for probe in stage.probes)
    for path in (record.RESULTS, record.CURVES):
        columns = {name.split("/")[0] for row in record.read(path) for name in row if "/" in name}
        # "seen" is of the training log, and "gold" of `study.translation`.
        assert columns - {"seen", "gold"} <= {*short.values()}
    assert {*short.values()} == {"ppl", "own_ppl", "bits", "knows", "words", "mass", "cosine", "gradients", "sentences"}

    def row(probe, metric, language, value, level=None, split=None, control=None):
        return {"probe": probe, "metric": metric, "language": language, "level": level, "value": value} | {
            "split": split,
            "control": control,
        }

    rows = [
        row("perplexity", "bits_per_byte", "en", 1.5),
        row("knowledge", "in_language_accuracy", "en", 1.0),
        row("knowledge", "accuracy", "en_clone", 0.25),
        row("knowledge", "accuracy", "en_clone", 0.125, control="untrained"),
        row("knowledge", "accuracy_mean", "en_clone", 0.5),
        row("knowledge", "chance", None, 0.25),
        row("word_retrieval", "accuracy", "en_clone", 0.75, level="head", split="heldout"),
        row("cosine", "gap", "en_clone", 0.5, level=0),
        row("cosine", "parallel", "en_clone", 0.875, level=0),
        row("gradient_cosine", "cosine", "en_clone", None),
        row("sentence_retrieval", "accuracy_centred", "en_clone", 0.5, level=1, control="untrained"),
        row("sentence_retrieval", "accuracy_centred", "en_clone", 0.5, level=1, control="shuffled"),
    ]
    found = record.measures(rows, ("en", "en_clone"), short)
    expected = {"bits/1": 1.5, "knows/1": 1.0, "knows/2": 0.25, "words/heldout/head": 0.75, "cosine/2/0": 0.5}
    expected["sentences/untrained/2/1"] = 0.5
    assert found == expected


def test_an_interrupted_run_stops_the_others_and_a_failed_one_does_not(runs, no_data, monkeypatch, capsys):
    codes = iter((1, 3, 0))
    monkeypatch.setattr(
        run.subprocess, "run", lambda command, **options: run.subprocess.CompletedProcess(command, next(codes))
    )
    assert not run.run(run.jobs(select(["J", "K", "O"]), [1]), 1)
    assert "J-1: failed" in capsys.readouterr().out
    assert record.read(record.RESULTS) == []


def test_tables_and_plots_come_from_rows_alone(tmp_path):
    clone = {"J": 90.0, "O": 40.0, "K": 60.0}
    rows = [made_up(name, seed, 50.0 + seed, at + seed) for name, at in clone.items() for seed in (1, 2)]
    curves = [{"experiment": "K", "seed": 1, "step": s, "words/dictionary/2": 0.01 * s} for s in (50, 100)]
    folder, document = tmp_path / "study", tmp_path / "study.md"
    folder.mkdir()
    document.write_text(
        "Before.\n\n<!-- table: K J O -->\n\n| old |\n|---|\n\n| another |\n<!-- differences: K/J O/K -->\n\n| old |\n"
    )
    (folder / "appendix_more.md").write_text("<!-- summary: K J -->\n\nNot run yet.\n")
    tables.write(rows, curves, folder)
    assert "| K |     2 |          +0.0 ± 0.0 % |" in (folder / "appendix_more.md").read_text()
    assert "## search" in (folder / "tables.md").read_text()
    assert (folder / "gap.png").stat().st_size > 1000 and (folder / "curves.png").stat().st_size > 1000
    text = document.read_text()
    assert "| K " in text and "60 ± 0 %" in text and "old" not in text
    assert text.startswith("Before.\n") and "\n\n| another |\n<!-- differences: K/J O/K -->\n\n|" in text
    assert "| K against J |  2, 2 | +0.0 % (0.0 se) |" in text and "| O against K |" in text


def test_names_beside_a_panel_do_not_overlap():
    heights = np.array([0.1, 0.5, 0.5, 0.51, 0.97, 0.99])
    placed = plots.apart(heights, 0.04)
    assert np.all(np.diff(placed) > 0.0399) and placed[-1] <= 1 and placed[0] == 0.1
    assert np.abs(placed - heights).max() < 0.1


def test_the_document_has_the_tables_of_the_recorded_rows():
    """Rows that `python -m study tables` would leave out must not stay in the file."""
    every = run.jobs(EXPERIMENTS)
    for path in (record.RESULTS, record.CURVES):
        assert run.comparable(record.read(path), every)[1] == []
    documents = tables.documents(record.FOLDER)
    beside = [path.name for path in documents if path.parent != record.FOLDER]
    assert beside == ["study.md", "multiway.md", "alignment.md"] and len(documents) > len(beside)
    for path in documents:
        document = path.read_text(encoding="utf-8")
        assert tables.filled(document, tables.arms(record.read(record.RESULTS))) == document
        nothing = tables.filled(document, {})
        assert ("<!-- " in document) == ("Not run yet." in nothing) and tables.filled(nothing, {}) == nothing
        assert tables.filled(nothing, tables.arms(record.read(record.RESULTS))) == document


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["list", "nothing"], "no experiment is called nothing"),
        (["run", "J", "nothing", "clone"], "no experiment is called nothing"),
        (["run", "J", "--seeds", "9"], "none of these experiments has seed 9"),
        (["run", "J", "--jobs", "0"], "--jobs 0: 1 or more"),
        (["run", "J-en-de", "--data", "/no/such"], "--data=/no/such: no such folder"),
    ],
)
def test_what_cannot_be_run_is_refused(capsys, command, error):
    with pytest.raises(SystemExit):
        __main__.main(command)
    assert error in capsys.readouterr().err


def test_real_languages_wait_for_their_data(tmp_path, monkeypatch, capsys):
    wanted = run.jobs(select(["J", "J-en-de"]), [1])
    monkeypatch.setattr(run, "DATA", str(tmp_path / "runs" / "data"))
    assert [job.name for job in run.with_data(wanted, None)] == ["J-1"]
    assert "1 runs on real languages left out" in capsys.readouterr().out
    # A run that was asked for by its name and cannot be made is a failure.
    monkeypatch.setattr(run, "run", lambda able, count: not able)
    assert __main__.main(["run", "J-en-de", "--seeds", "1", "--force"]) == 1
    assert run.with_data(wanted, tmp_path) == wanted and (tmp_path / "runs" / "data").resolve() == tmp_path
    assert run.with_data(wanted, tmp_path) == wanted
    with pytest.raises(UserError, match="remove it to read"):
        run.with_data(wanted, tmp_path.parent)


def test_kinds_of_tokens_go_by_the_nearest_word():
    """Token 9 is punctuation, 3 a word and part of another, 4 only a part, 5 a held-out word, 6 part of that one."""
    standalone = np.isin(np.arange(10), [9])
    train = concept_table([Word(0, 0, (3,), "a"), Word(1, 0, (3, 4), "b"), Word(1, 1, (7,), "c")], ("en", "en_clone"))
    heldout = concept_table([Word(2, 0, (5,), "d"), Word(3, 0, (6, 5), "e")], ("en", "en_clone"))
    corpus = SimpleNamespace(
        tokenizer=SimpleNamespace(base_size=10, standalone=standalone),
        lexicon=SimpleNamespace(train=train, heldout=heldout),
    )
    assert gap.kinds(corpus).tolist() == [4, 4, 4, 0, 1, 2, 4, 4, 4, 3]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_excerpt_of_the_study(runs, monkeypatch):
    """Joint training and PreAlign with one seed, as the study runs them (6 to 7 minutes on two free cores)."""
    monkeypatch.setenv("PJRT_NPROC", str(max(1, (os.cpu_count() or 2) // 2)))
    monkeypatch.delenv("XLA_FLAGS")  # one device, compiled as for users: the suite's own flags triple a step
    assert run.run(run.jobs(select(["J", "PC"]), [1]), 2)
    found = tables.arms(record.read(record.RESULTS))
    joint, prealign = found["J"][1], found["PC"][1]
    assert joint["lm_tokens"] == prealign["lm_tokens"]
    assert prealign["knows/1"] > 0.9 and prealign["knows/2"] > joint["knows/2"] + 0.15
    assert prealign["own_ppl/2"] < 0.85 * joint["own_ppl/2"]
    assert prealign["own_ppl/1"] < 1.12 * joint["own_ppl/1"]  # English pays 1 to 8 %, by seed: docs/study.md


def test_the_imbalance_study_s_tables_have_the_efficiency_of_each_language():
    """English alone on the curve 1/PPL = 0.03 x^0.5; English is worth half of what it read, the clone twice."""
    steps = {share: 640_000 * share // 100 for share in ALONE}
    found = {
        f"alone-{share}": {s: {"seen/1": n, "own_ppl/1": 1 / (0.03 * (n / 640_000) ** 0.5)} for s in (1, 2)}
        for share, n in steps.items()
    }
    assert "not run" in imbalance.efficiency_table({}, "small").lower()

    def ppl(tokens):
        return 1 / (0.03 * (tokens / 640_000) ** 0.5)

    row = {"seen/1": 576_000, "own_ppl/1": ppl(288_000), "seen/2": 64_000, "own_ppl/2": ppl(128_000)}
    found["90-10"] = {1: row}
    found["sequential"] = {1: row | {"own_ppl/1": ppl(2_000)}}
    lines = imbalance.efficiency_table(found, "small").splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")][4:] == ["0.500", "2.000"]
    assert "0.003 \\*" in lines[3]
    page = "a\n\n<!-- curve: small -->\n\nNot run yet.\n\n<!-- efficiency: larger -->\n\n| old |\n| rows |\n\nb\n"
    filled = imbalance.filled(page, found)
    assert "| 5 % " in filled and "| old |" not in filled and filled.endswith("Not run yet.\n\nb\n")
    assert imbalance.filled(filled, found) == filled
