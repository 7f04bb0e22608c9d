"""Tables and pictures of runs, from model directories written by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from commands import python

from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import row
from xalign_jax.reports import plots
from xalign_jax.reports.report import compare, report
from xalign_jax.reports.tables import Arm, Key, Run, keys_of

PPL = {"joint": (73.2, 112.6), "prealign": (75.9, 97.7), "kept": (76.3, 94.3)}
WORDS = {"joint": 0.005, "prealign": 0.31, "kept": 1.0}


def write_run(folder: Path, arm: str, seed: int, fingerprint: str = "v1", settings: str = "Stage.steps = 10") -> Path:
    """A model directory of a finished run."""
    folder.mkdir(parents=True)
    wobble = 1 + 0.01 * seed
    environment = {"recipe_name": arm, "seed": seed, "vocabulary_fingerprint": fingerprint, "identity": "x"}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "config.gin").write_text(f"{settings}\nRecipe.seed = {seed}\nRuntime.log_every = {seed + 1}\n")
    rows = []
    for language, value in zip(("en", "en_clone"), PPL[arm], strict=True):
        rows += [
            row("perplexity", "perplexity", value * wobble, 1000, language=language),
            row("perplexity", "perplexity_in_language", value * wobble / 2, 1000, language=language),
            row("perplexity", "bits_per_byte", 2.5 * wobble, 1000, language=language),
        ]
    for split, n in (("dictionary", 1000), ("heldout", 400)):
        for level in (0, 1, 2, 3, 4, "head"):
            about = {"language": "en_clone", "split": split, "level": level}
            rows.append(row("word_retrieval", "accuracy", WORDS[arm] / wobble, n, **about))
            rows.append(row("word_retrieval", "accuracy", 0.01, n, control="untrained", **about))
    rows += [
        row("knowledge", "in_language_accuracy", 1.0, 200, language="en"),
        row("knowledge", "accuracy", min(1.0, 0.25 + WORDS[arm]), 200, language="en_clone"),
        row("knowledge", "chance", 0.25, 200),
        row("foreign_mass", "mass", 0.02, 4096, language="en_clone"),
    ]
    early = [{"stage": "pretrain", "step": 50, "seed": seed, **rows[0], "value": 500.0}]
    final = [{"stage": "pretrain", "step": 100, "seed": seed, **r} for r in rows]
    if arm == "prealign":
        final.append({"stage": "align", "step": 20, "seed": seed, **rows[6], "value": 0.95})
    (folder / "results.json").write_text(json.dumps(final + early))
    streams = ("pretrain_lm", "align_words") if arm != "joint" else ("pretrain_lm",)
    log = [
        {
            "stage": "s",
            "step": s,
            "loss": 8.0,
            **{f"loss/{n}": 8 * wobble / (1 + s / 30) + s % 20 / 50 for n in streams},
        }
        for s in range(10, 101, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + '{"stage": "s", "st')
    return folder


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / f"{arm}-{seed}", arm, seed) for arm in PPL for seed in range(3)]


def test_compare_means_and_spreads(runs, tmp_path):
    text = compare(runs, tmp_path / "out")
    assert (tmp_path / "out" / "table.md").read_text() == text
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = {line["arm"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["joint", "prealign", "prealign, after align", "kept"]
    assert lines["prealign, after align"]["word_retrieval/accuracy/en_clone/dictionary/0"] == "0.95"
    for arm in PPL:
        line = lines[arm]
        values = [PPL[arm][1] * (1 + 0.01 * seed) for seed in range(3)]
        assert float(line["perplexity/perplexity/en_clone"]) == pytest.approx(statistics.mean(values))
        assert float(line["perplexity/perplexity/en_clone std"]) == pytest.approx(statistics.stdev(values))
        assert line["seeds"] == "0 1 2"
        assert line["word_retrieval/accuracy/en_clone/heldout/head/untrained"] == "0.01"
    assert "| joint " in text
    assert "113.73 ± 1.13" in text
    assert "control: untrained" in text
    assert "different vocabularies" not in text
    for name in ("learning_curves", "perplexity", "retrieval", "knowledge"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000


def test_what_was_measured_in_an_early_stage_alone_has_no_plot(tmp_path):
    folder = write_run(tmp_path / "run", "prealign", 1)
    rows = json.loads((folder / "results.json").read_text())
    for each in rows:
        if each["probe"] == "word_retrieval":
            each |= {"stage": "align", "step": 10}
    assert any(each["probe"] == "word_retrieval" for each in rows)
    (folder / "results.json").write_text(json.dumps(rows))
    text = compare([folder], tmp_path / "out")
    assert "Word retrieval" in text
    assert "perplexity.png" in text
    assert "retrieval.png" not in text


def test_perplexity_across_vocabularies_is_refused(tmp_path):
    runs = [write_run(tmp_path / "a", "joint", 0), write_run(tmp_path / "b", "kept", 0, fingerprint="v2")]
    text = compare(runs, tmp_path / "out")
    assert "**Perplexity is not compared: the runs use different vocabularies** (joint: v1; kept: v2)" in text
    header = (tmp_path / "out" / "table.csv").read_text().splitlines()[0]
    assert "perplexity/bits_per_byte/en" in header
    assert "perplexity/perplexity/" not in header
    assert (tmp_path / "out" / "bits_per_byte.png").exists()


def test_one_run_and_the_same_run_twice(runs, tmp_path):
    text = compare([runs[0], runs[0]], tmp_path / "out")
    assert "112.60 |" in text
    assert "112.60 ±" not in text


def test_recipes_of_one_name_with_other_settings_stay_apart(tmp_path):
    first = write_run(tmp_path / "a", "joint", 0)
    other = write_run(tmp_path / "b", "joint", 0, settings="Stage.steps = 20")
    text = compare([first, other], tmp_path / "out")
    assert "joint (a)" in text
    assert "joint (b)" in text


def test_arms_of_one_directory_name_have_names_of_their_own(tmp_path):
    for place, steps in (("x", 10), ("y", 20)):
        write_run(tmp_path / place / "run", "joint", 0, settings=f"Stage.steps = {steps}")
    text = compare([tmp_path / "x" / "run", tmp_path / "y" / "run"], tmp_path / "out")
    assert "joint (x/run)" in text and "joint (y/run)" in text


def test_every_arm_is_in_the_legend():
    """One that lacks what stands first, too, and one whose name begins as matplotlib's own do."""
    languages = {"of French": ("fr",), "_mine": ("de", "fr")}
    runs = [
        Run(
            Path(name),
            name,
            1,
            "v",
            "s",
            [],
            counts={},
            values={Key("perplexity", "bits_per_byte", lang): 1.5 for lang in of},
        )
        for name, of in languages.items()
    ]
    arms = [Arm(run.arm, (run,)) for run in runs]
    figure = plots._bars(arms, keys_of(runs), "perplexity", ("bits_per_byte",), "bits per byte")
    (shown,) = figure.legends
    assert [text.get_text().strip("\u200b") for text in shown.get_texts()] == list(languages)


def test_a_curve_of_one_point_is_drawn(tmp_path):
    """A line needs two points; a panel with a single one would be empty."""
    rows = [{"step": 10, "loss/align_words": 2.0, "loss/pretrain_lm": 3.0}, {"step": 20, "loss/pretrain_lm": 2.5}]
    run = Run(tmp_path, "joint", 0, "v", "s", rows)
    for figure in (plots._loss(run), plots._curves([Arm("joint", (run,))])):
        for panel in figure.axes:
            assert any(line.get_marker() == "o" for line in panel.lines), panel.get_title()
    long = dataclasses.replace(run, metrics=[{"step": step, "loss/lm": 1.0} for step in range(9)])
    assert all(line.get_marker() == "None" for line in plots._loss(long).axes[0].lines)


def test_directories_without_results_are_named(runs, tmp_path):
    (runs[1] / "results.json").unlink()
    with pytest.raises(UserError, match=r"joint-1: no results"):
        compare(runs, tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere: no environment\.json"):
        compare([tmp_path / "nowhere"], tmp_path / "out")
    (runs[0] / "results.json").write_text("[{")
    with pytest.raises(UserError, match=r"results\.json:1: not JSON"):
        compare(runs[:1], tmp_path / "out")


def test_report_of_a_run(runs):
    text = report(runs[3])
    assert text == (runs[3] / "report.md").read_text()
    assert text.startswith("# prealign, seed 0\n")
    assert "## Word retrieval, en_clone, held-out words" in text
    assert "n = 400." in text
    assert "97.70" in text
    assert "| align, step 20 " in text
    assert (runs[3] / "loss.png").exists()
    assert (runs[3] / "retrieval.png").exists()


def test_report_before_any_probe(runs):
    (runs[0] / "results.json").unlink()
    assert "No probe has run yet" in report(runs[0])


def test_reports_import_matplotlib_only_to_draw():
    code = "import sys, xalign_jax.reports.report; print('matplotlib' in sys.modules)"
    done = python("-c", code)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_a_control_without_levels_stands_beside_each_level_and_means_in_the_summary(tmp_path):
    runs = [write_run(tmp_path / f"{seed}", "joint", seed) for seed in (0, 1)]
    for directory in runs:
        about = {"stage": "pretrain", "step": 100, "seed": 0}
        found = json.loads((directory / "results.json").read_text())
        for level in (0, 1, 2, 3, 4):
            found.append(
                {**about, **row("sentence_retrieval", "accuracy", level / 10, 9, language="*->en", level=level)}
            )
        found.append({**about, **row("sentence_retrieval", "accuracy", 0.7, 9, language="*->en", control="ngram")})
        (directory / "results.json").write_text(json.dumps(found))
    text = compare(runs, tmp_path / "report")
    table = text.split("## Sentence retrieval, *->en")[1]
    control = next(line for line in table.splitlines() if line.startswith("| control: n-grams"))
    assert control.count("0.700 ± 0.000") == 5
    summary = text.split("## Summary")[1].split("##")[0].splitlines()
    place = summary[2].split("|").index(next(c for c in summary[2].split("|") if "sentences *->en level 2" in c))
    assert summary[4].split("|")[place].strip() == "0.200 ± 0.000"
