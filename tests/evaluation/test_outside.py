"""Correlation of results with a table of outside scores."""

from __future__ import annotations

import json

import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.outside import correlations

VALUES = {"de": 0.9, "fr": 0.8, "hi": 0.5, "sw": 0.3, "am": 0.1}


def row(language: str, value: float | None, **about) -> dict:
    base = {"stage": "import", "step": 0, "probe": "mexa", "metric": "mexa", "value": value, "n": 100, "level": 8}
    return {
        **base,
        "language": language,
        "split": None,
        "seed": 0,
        "control": None,
        "settings": {},
        "data": language,
    } | about


@pytest.fixture
def folder(tmp_path):
    rows = [row(f"en->{name}", value) for name, value in VALUES.items()]
    rows += [row(f"en->{name}", -value, level=9) for name, value in VALUES.items()]
    rows += [row(f"{name}->en", value, probe="retrieval") for name, value in VALUES.items()]
    rows += [row(name, value**2, probe="nats", level=None) for name, value in VALUES.items()]
    rows += [row("en->de", None, control="shuffled"), row("en->xx", 0.2)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "scores.tsv").write_text("".join(f"{name}\t{50 + 30 * value}\n" for name, value in VALUES.items()))
    return tmp_path


def test_every_metric_is_correlated_over_its_languages(folder):
    found = {(one.probe, one.level, one.direction): one for one in correlations(folder, folder / "scores.tsv")}
    assert found.keys() == {("mexa", 8, "en->*"), ("mexa", 9, "en->*"), ("retrieval", 8, "*->en"), ("nats", None, "*")}
    best, worst = found["mexa", 8, "en->*"], found["mexa", 9, "en->*"]
    assert best.estimate.value == pytest.approx(1) and worst.estimate.value == pytest.approx(-1)
    assert best.languages == ("am", "de", "fr", "hi", "sw") and best.n == (100, 100) and best.estimate.n == 5
    assert 0.9 < found["nats", None, "*"].estimate.value < 1
    ranks = {one.probe: one.estimate.value for one in correlations(folder, folder / "scores.tsv", method="spearman")}
    assert ranks["nats"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("de\t1\nfr\tgood\n", r"scores\.tsv:2: expected language<TAB>score, found 'fr\\tgood'"),
        ("de\t1\nde\t2\n", r"scores\.tsv:2: 'de' has a score already"),
        ("de\t1\nfr\t2\nhi\t3\n", r"no metric has 4 of its languages"),
        ("de\t1\nfr\t1\nhi\t1\nsw\t1\n", r"no metric has 4 of its languages"),
    ],
)
def test_a_table_that_does_not_fit_is_named(folder, table, message):
    (folder / "scores.tsv").write_text(table)
    with pytest.raises(UserError, match=message):
        correlations(folder, folder / "scores.tsv")
