"""Tables and pictures of runs, from model directories that the tests write."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import statistics
from pathlib import Path

import pytest
from commands import python

import xalign_jax
from xalign_jax.errors import UserError
from xalign_jax.evaluation import probes as all_probes
from xalign_jax.evaluation.encode import row
from xalign_jax.interop.model_card import model_card
from xalign_jax.records.files import read_shown
from xalign_jax.records.shown import Shown
from xalign_jax.reports import plots
from xalign_jax.reports.report import compare, report
from xalign_jax.reports.tables import Arm, Key, Run, keys_of, shown_in
from xalign_jax.runtime.logs import write_shown

FIRST = ["Perplexity", "WordRetrieval", "Knowledge"]  # as recipes name them
PROBES = [getattr(all_probes, name) for name in dict.fromkeys([*FIRST, *all_probes.__all__])]
SHOWN = {probe.name: probe.shown() for probe in PROBES}

PPL = {"joint": (73.2, 112.6), "prealign": (75.9, 97.7), "kept": (76.3, 94.3)}
OWN = {
    "mean_norm": {
        "title": "Length of hidden states",
        "by_level": True,
        "columns": {"norm": {"heading": "mean length", "headline": True}, "spread": {"heading": "spread"}},
    },
    "tagging": {
        "title": "Part-of-speech tags",
        "by_level": False,
        "columns": {
            "f1": {"heading": "F1", "headline": True, "per_token": True},
            "exact": {"heading": "whole sentences", "headline": True},
            "unseen": {"heading": "unseen words"},
        },
    },
}
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
    write_shown(folder, SHOWN)
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
    for name in ("learning_curves", "perplexity", "word_retrieval", "knowledge", "foreign_mass"):
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
    assert "word_retrieval.png" not in text


def test_perplexity_across_vocabularies_is_refused(tmp_path):
    runs = [write_run(tmp_path / "a", "joint", 0), write_run(tmp_path / "b", "kept", 0, fingerprint="v2")]
    text = compare(runs, tmp_path / "out")
    left = "perplexity, in-language perplexity"
    note = f"**Not compared, because the runs use different vocabularies: {left}** (joint: v1; kept: v2). Compare bits/byte.\n"
    assert note in text
    header = (tmp_path / "out" / "table.csv").read_text().splitlines()[0]
    assert "perplexity/bits_per_byte/en" in header
    assert "perplexity/perplexity/" not in header
    assert (tmp_path / "out" / "perplexity.png").exists()  # of bits per byte
    for run in runs:
        (run / "probes.json").unlink()
    assert "No `probes.json` says whether the vocabulary matters to: Perplexity, " in compare(runs, tmp_path / "out")


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
    """One run lacks the first value, and one has a name that begins like matplotlib's hidden labels."""
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
    shown = shown_in(runs)
    figure = plots._bars(arms, keys_of(runs, shown), shown)
    (shown,) = figure.legends
    assert [text.get_text().strip("\u200b") for text in shown.get_texts()] == list(languages)


def test_a_curve_of_one_point_is_drawn(tmp_path):
    """A line needs two points. A panel with a single point would be empty without a mark."""
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
    assert (runs[3] / "word_retrieval.png").exists()


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
    place = (
        summary[2].split("|").index(next(c for c in summary[2].split("|") if "Sentence retrieval *->en level 2" in c))
    )
    assert summary[4].split("|")[place].strip() == "0.200 ± 0.000"


def headings(text: str, title: str) -> list[str]:
    """The columns of values in the table below a title."""
    header = text.split(f"## {title}\n\n")[1].splitlines()[0]
    return [cell.strip() for cell in header.split("|")[3:-1]]


def test_the_summary_shows_headlines_in_the_order_of_the_probes(tmp_path):
    text = compare([write_run(tmp_path / "run", "joint", 0)], tmp_path / "out")
    assert headings(text, "Summary") == [
        "Language model perplexity en",
        "Language model perplexity en_clone",
        "Language model in-language perplexity en",
        "Language model in-language perplexity en_clone",
        "Language model bits/byte en",
        "Language model bits/byte en_clone",
        "Word retrieval en_clone dictionary words level 2",
        "Word retrieval en_clone held-out words level 2",
        "Knowledge in-language accuracy en",
        "Knowledge accuracy en_clone",
        "Knowledge chance",
        "Foreign mass en_clone",
    ]


def add_own(folder: Path, shown: bool = True) -> None:
    """Rows of two probes of a user, one of them by level, and what their classes say about them."""
    rows = [
        row("mean_norm", metric, value + (level or 0), 77, language=language, level=level)
        for language in ("de", "en")
        for metric, value in (("spread", 0.5), ("norm", 3.25))
        for level in (0, 1, 2, 3, 4)
    ]
    for language in ("de", "en"):
        rows += [row("tagging", metric, 61.5, 99, language=language) for metric in ("exact", "unseen", "f1")]
    rows.append(row("tagging", "f1", 10.5, 99, language="de", control="most_frequent"))
    found = json.loads((folder / "results.json").read_text()) if shown else []
    about = {"stage": "pretrain", "step": 100, "seed": 0}
    (folder / "results.json").write_text(json.dumps([*found, *(about | each for each in rows)]))
    write_shown(folder, OWN)
    if not shown:
        (folder / "probes.json").unlink()


def test_a_probe_that_nobody_knows_has_tables_summary_and_picture(tmp_path):
    runs = [write_run(tmp_path / arm, arm, 0) for arm in ("joint", "kept")]
    for run in runs:
        add_own(run)
    text = compare(runs, tmp_path / "out")
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    own = [f"Length of hidden states, {language}{metric}" for language in ("de", "en") for metric in ("", ", spread")]
    assert titles[-5:] == [*own, "Part-of-speech tags"]
    assert headings(text, own[0]) == [f"level {level}" for level in range(5)]
    assert headings(text, titles[-1]) == [
        f"{name} {language}" for name in ("F1", "whole sentences", "unseen words") for language in ("de", "en")
    ]
    assert "| control: most_frequent " in text
    assert headings(text, "Summary")[-6:] == [
        "Length of hidden states de level 2",
        "Length of hidden states en level 2",
        "Part-of-speech tags F1 de",
        "Part-of-speech tags F1 en",
        "Part-of-speech tags whole sentences de",
        "Part-of-speech tags whole sentences en",
    ]
    for name in ("mean_norm", "tagging"):
        assert f"![{name}]({name}.png)" in text and (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    assert "![mean_norm](mean_norm.png)" in report(runs[0])


def test_own_metrics_of_tokens_are_not_compared_across_vocabularies(tmp_path):
    runs = [write_run(tmp_path / arm, arm, 0, fingerprint=arm) for arm in ("joint", "kept")]
    for run in runs:
        add_own(run)
    text = compare(runs, tmp_path / "out")
    assert "perplexity, in-language perplexity, F1** (" in text and "Compare bits/byte, whole sentences." in text
    assert "F1 de" not in headings(text, "Part-of-speech tags")


def test_without_probes_json_everything_without_a_level_is_a_headline(tmp_path):
    run = write_run(tmp_path / "run", "joint", 0)
    add_own(run, shown=False)
    text = compare([run], tmp_path / "out")
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    metrics = ("spread", "norm")  # in the order of the rows
    assert titles[1:-1] == [f"Mean norm, {language}, {metric}" for language in ("de", "en") for metric in metrics]
    assert headings(text, "Summary") == [
        f"Tagging {metric} {language}" for metric in ("exact", "unseen", "f1") for language in ("de", "en")
    ]
    assert "tagging.png" in text and "mean_norm.png" not in text


def test_later_directories_say_how_a_probe_is_shown(tmp_path):
    runs = [write_run(tmp_path / arm, arm, 0) for arm in ("joint", "kept")]
    for run in runs:
        add_own(run)
    write_shown(runs[1], {"tagging": OWN["tagging"] | {"title": "Tags"}})
    text = compare(runs, tmp_path / "out")
    assert "## Tags\n" in text and "Part-of-speech" not in text
    assert "## Tags\n" not in compare(runs[::-1], tmp_path / "out")


def card(rows: list[dict], probes: dict) -> list[list[str]]:
    """The cells of a model card's table of results."""
    text = model_card("run", "", rows, probes, ["en", "en_clone"], "LlamaForCausalLM", True)
    lines = text.partition("## Results")[2].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_a_model_card_shows_the_headlines_of_all_probes(tmp_path):
    run = write_run(tmp_path / "run", "joint", 0)
    add_own(run)
    rows = json.loads((run / "results.json").read_text())
    found = card([each for each in rows if each["step"] == 100], read_shown(run))
    assert ["Part-of-speech tags", "F1", "de", "", "", "61.5", "99"] in found
    assert ["Length of hidden states", "mean length", "en", "4", "", "7.25", "77"] in found
    assert ["Knowledge", "chance", "", "", "", "0.25", "200"] in found
    assert not {"spread", "unseen words"} & {cells[1] for cells in found}
    assert "10.5" not in {cells[5] for cells in found}  # a control's


def test_means_over_languages_are_the_only_headlines_of_their_probe():
    rows = [
        {
            "stage": "s",
            "step": 1,
            "seed": 0,
            **row("sentence_retrieval", "accuracy", 0.5, 9, language=language, level=1),
        }
        for language in ("en->de", "en->fr", "en->*", "*->en")
    ]
    assert [cells[2] for cells in card(rows, SHOWN)] == ["en->*", "*->en"]
    assert [cells[2] for cells in card(rows[:2], SHOWN)] == ["en->de", "en->fr"]


def test_no_probe_is_named_where_results_are_shown():
    package = Path(xalign_jax.__file__).parent
    names = "|".join(re.escape(name) for name in SHOWN)
    for path in (
        *(package / "reports").glob("*.py"),
        package / "interop" / "model_card.py",
        package / "records" / "shown.py",
    ):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not re.search(rf"\b({names})\b", line, re.IGNORECASE), f"{path}:{number}"


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize(
    "languages", [("de", "en"), ("Norwegian_Bokmaal", "Haitian_Creole", "Tok_Pisin", "Luxembourgish")]
)
def test_names_below_bars_do_not_overlap(count, languages):
    values = {
        Key(probe, metric, language, level): 0.5
        for language in languages
        for probe, metric, level in (
            ("tagging", "f1", None),
            *(("mean_norm", "norm", level) for level in (*range(25), "head")),
        )
    }
    values |= {Key(probe, "chance"): 0.25 for probe in OWN}
    runs = [Run(Path(f"{n}"), f"arm {n}", 1, "v", "s", [], values=values, probes=OWN) for n in range(count)]
    shown = shown_in(runs)
    for name, figure in plots._probes([Arm(run.arm, (run,)) for run in runs], keys_of(runs, shown), shown):
        figure.canvas.draw()
        assert "chance" in [text.get_text() for text in figure.legends[0].get_texts()], name
        for panel in figure.axes:
            labels = [label for label in panel.get_xticklabels() if label.get_text()]
            boxes = [label.get_window_extent() for label in labels]
            if not labels[0].get_rotation():
                assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes)), name
            assert all(box.y0 > figure.legends[0].get_window_extent().y1 for box in boxes), name
            assert figure.get_figwidth() * figure.dpi >= max(box.x1 for box in boxes), name


def test_pictures_of_probes_called_alike_keep_their_names_apart(tmp_path):
    figure, _ = plots.axes(1, 3, 2)
    paths = plots._drawn(tmp_path, [("loss", figure), ("loss", figure), ("a/../b", figure), ("none", None)])
    assert [path.name for path in paths] == ["loss.png", "loss_.png", "a_.._b.png"]
    assert all(path.is_file() for path in paths)


def test_probes_json_of_another_version_is_read():
    """A newer file may say more about a column, and an older one less."""
    key = Key("tagging", "f1", "de")
    shown = Shown([{"tagging": {"columns": {"f1": {"headline": True, "unit": "%"}}}}], [key])
    assert (shown.title("tagging"), shown.column(key).heading, shown.headline(key)) == ("Tagging", "f1", True)
