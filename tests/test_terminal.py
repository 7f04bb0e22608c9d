"""What commands print at their end: tables drawn in a terminal, plain text elsewhere, and last where everything is."""

from __future__ import annotations

import sys

import pytest
from evaluation.test_report import write_run

from xalign_jax.cli import terminal
from xalign_jax.errors import UserError
from xalign_jax.reports import plots, report
from xalign_jax.reports.tables import Grid
from xalign_jax.training import summary

GRID = Grid("run [x]", ["", "align, step 3"], [["perplexity [en]", "19.62"]], "and 3 more lines in the report")


def test_a_log_gets_plain_text_whatever_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal.show(GRID)
    assert capsys.readouterr().out.splitlines() == [
        "run [x]",
        "",
        "|                 | align, step 3 |",
        "|-----------------|--------------:|",
        "| perplexity [en] |         19.62 |",
        "",
        "and 3 more lines in the report",
    ]


def test_a_terminal_gets_a_drawn_table_and_text_is_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    terminal.show(GRID)
    said = capsys.readouterr().out
    assert "|" not in said and "perplexity [en]" in said and "19.62" in said and "and 3 more lines" in said


def test_the_last_line_says_where_the_report_is_and_there_are_few_before_it(tmp_path, capsys):
    run = write_run(tmp_path / "run", "prealign", 0)
    terminal.finish(run, "gs://bucket/run")
    lines = capsys.readouterr().out.splitlines()
    last = "The page with all figures: gs://bucket/run/report.html; all tables: gs://bucket/run/report.md"
    assert lines[-1] == last and len(lines) < 25
    assert (run / "report.html").is_file() and (run / "report.md").is_file()


def test_headlines_are_a_line_each_with_their_controls(tmp_path):
    grid = report.headlines(write_run(tmp_path / "run", "joint", 0))
    cells = {row[0]: row[1:] for row in grid.rows}
    assert grid.header == ["", "pretrain, step 100", "control: untrained"]
    assert cells["Word retrieval en_clone dictionary words level 2"] == ["0.005", "0.010"]
    assert cells["Knowledge chance"] == ["0.250", "-"]
    empty = write_run(tmp_path / "empty", "joint", 0)
    (empty / "results.json").unlink()
    assert report.headlines(empty).rows == [] and report.headlines(empty).note == "No probe has a headline."
    with pytest.raises(UserError, match=r"no environment\.json there"):
        report.headlines(tmp_path)


def test_a_report_says_what_its_figures_mean_and_says_it_once(tmp_path):
    text = report.report(write_run(tmp_path / "run", "prealign", 0))
    tables = text.split("\n## ")[1:]
    assert all("Share of words whose nearest word" in table for table in tables if table.startswith("Word retrieval"))
    for once in ("Level 0 is the embedding", "Control untrained: the same network before training", "Held-out words"):
        assert text.count(once) == 1
    assert "Bits/byte: for each byte of text, so it compares across vocabularies." in text


def test_a_run_is_drawn_at_each_of_its_stages(tmp_path, monkeypatch):
    drawn = {}
    for draw in (plots._bars, plots._by_level):

        def kept(arms, keys, shown, draw=draw):
            drawn[keys[0].probe] = figure = draw(arms, keys, shown)
            return figure

        monkeypatch.setattr(plots, draw.__name__, kept)
    run = write_run(tmp_path / "run", "prealign", 0)
    text = report.report(run)
    assert "![perplexity](perplexity.png)" in text and (run / "perplexity.png").is_file()
    (legend,) = drawn["word_retrieval"].legends
    assert {entry.get_text() for entry in legend.get_texts()} == {"untrained", "align, step 20", "pretrain, step 100"}
    assert drawn["word_retrieval"].get_suptitle().startswith("Word retrieval. Share of words whose nearest word")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (11400, "3 h 10 min"), (187200, "2 d 4 h")],
)
def test_times_in_words(seconds, words):
    assert summary._duration(seconds) == words


def test_sizes_in_words():
    assert [summary._size(count) for count in (10, 23.4e6, 1.44e9)] == ["1 MB", "23 MB", "1.4 GB"]
