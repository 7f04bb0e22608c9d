"""Token efficiency: the curve, and its table in a comparison of runs that the tests write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from xalign_jax.evaluation.encode import row
from xalign_jax.evaluation.probes import Perplexity
from xalign_jax.reports.efficiency import fit
from xalign_jax.reports.report import compare
from xalign_jax.runtime.logs import write_shown

UNIT = 1_000_000


@pytest.mark.parametrize("b", [0.6, 0.2, -0.4])
def test_the_curve_comes_back_from_runs_that_follow_it(b):
    """Long runs have b > 0 and approach a limit; short ones have b < 0."""
    x = np.array([0.05, 0.1, 0.25, 0.5, 1.0])
    inverse = 0.05 - 0.02 * (x**-b - 1) / b / 4
    curve = fit((x * UNIT).tolist(), (1 / inverse).tolist())
    assert curve.b == pytest.approx(b, abs=1e-3) and curve.off < 1e-4
    np.testing.assert_allclose(curve.ppl(x * UNIT), 1 / inverse, rtol=1e-4)
    # The tokens of a perplexity undo the perplexity of tokens, also beyond the runs.
    for tokens in (60_000, 333_333, 1_500_000):
        assert curve.tokens(float(curve.ppl(tokens))) == pytest.approx(tokens, rel=1e-6)
    assert curve.reaches(60_000) and not curve.reaches(1_500_000)
    # Perplexities that the curve never reaches.
    assert curve.tokens(1.01) == (np.inf if b > 0 else pytest.approx(curve.tokens(1.01)))
    assert curve.tokens(1e9) < 50_000


def test_published_runs_give_the_published_efficiency():
    """Three amounts are published, which fix the curve. Its values are within a few per cent of the authors' fit."""
    curve = fit([0.1, 0.5, 1.0], [48.36, 25.31, 21.93])
    assert curve.b > 0 and curve.off < 1e-4
    for perplexity, share, published in ((26.13, 0.5, 0.887), (32.81, 0.1, 2.076), (24.97, 0.6, 0.894)):
        assert curve.tokens(perplexity) / share == pytest.approx(published, rel=0.05)


def test_more_text_that_does_not_help_has_no_curve():
    assert fit([1e4, 1e5, 2e5, 1e6], [50.0, 50.0, 50.0, 50.0]) is None
    assert fit([1e4, 1e5, 2e5, 1e6], [50.0, 55.0, 60.0, 70.0]) is None


def write(folder: Path, tokens: dict[str, int], perplexities: dict[str, float], seed=1, layers=2, text="t1") -> Path:
    """A model directory of a run that read so many tokens of each language, in two rows of its log."""
    folder.mkdir(parents=True)
    environment = {"recipe_name": "r", "seed": seed, "vocabulary_fingerprint": "v", "identity": "x"}
    environment |= {"texts": {"task": {"validation": {"en": text}}}, "recipe": {"model": {"layers": layers}}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "config.gin").write_text(f"Run.tokens = {tokens!r}\nModel.layers = {layers}\nRecipe.seed = {seed}\n")
    write_shown(folder, {Perplexity.name: Perplexity(length=8).shown()})
    rows = [row("perplexity", "perplexity_in_language", p, 1000, language=lang) for lang, p in perplexities.items()]
    (folder / "results.json").write_text(json.dumps([{"stage": "s", "step": 20, "seed": seed, **r} for r in rows]))
    log = [
        {"stage": "s", "step": step, "loss": 1.0} | {f"tokens/{lang}": n // 2 for lang, n in tokens.items()}
        for step in (10, 20)
    ]
    # A step after the probe was not part of what it measured.
    log.append({"stage": "s", "step": 30, "loss": 1.0, "tokens/en": 999_999, "tokens/de": 5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


def inverse(tokens: float) -> float:
    return 0.05 - 0.005 * (tokens / UNIT) ** -0.5


def alone(tmp_path, amounts=(50_000, 100_000, 250_000, 1_000_000), **settings):
    return [write(tmp_path / f"alone{n}", {"en": n}, {"en": 1 / inverse(n)}, **settings) for n in amounts]


def cells(text: str, name: str) -> list[list[str]]:
    lines = re.split(r"^## ", text[text.index("## Token efficiency") :], flags=re.MULTILINE)[1].splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if re.match(rf"\| r.*{name}", line)]


def test_the_table_says_what_each_language_is_worth(tmp_path):
    reached = {"en": 1 / inverse(400_000), "en_clone": 1 / inverse(200_000)}
    runs = [write(tmp_path / f"mixed{s}", {"en": 800_000, "en_clone": 100_000}, reached, seed=s) for s in (1, 2)]
    text = compare([*alone(tmp_path), *runs], tmp_path / "out")
    english, clone = cells(text, "mixed")
    assert english[1:3] == ["2", "en"] and english[4:] == ["0.800 ± 0.000", "0.400 ± 0.000", "0.500 ± 0.000"]
    assert clone[2] == "en_clone" and clone[4:] == ["0.100 ± 0.000", "0.200 ± 0.000", "2.000 ± 0.000"]
    assert "within 0.0 % of it" in text and "extrapolated" not in text


def test_extrapolations_and_unreachable_perplexities_are_marked(tmp_path):
    reached = {"en": 1 / inverse(3_000_000), "en_clone": 1 / 0.051}
    mixed = write(tmp_path / "mixed", {"en": 800_000, "en_clone": 100_000}, reached)
    text = compare([*alone(tmp_path), mixed], tmp_path / "out")
    english, clone = cells(text, "mixed")
    assert english[5:] == ["3.000 \\*", "3.750 \\*"] and clone[5:] == ["-", "-"]
    assert "beyond the runs on one language alone" in text and "no amount of the language alone gives" in text


def test_without_enough_runs_alone_there_is_a_note_and_no_figure(tmp_path):
    mixed = write(tmp_path / "mixed", {"en": 800_000, "en_clone": 100_000}, {"en": 30.0, "en_clone": 40.0})
    assert "Token efficiency" not in compare([mixed], tmp_path / "out")
    few = alone(tmp_path, (50_000, 100_000, 250_000))
    assert "Token efficiency" not in compare(few, tmp_path / "out")
    text = compare([*few, mixed], tmp_path / "out")
    assert "runs on en alone read 3 different amounts of text; at least 4 are needed" in text
    assert "TEff" not in text


@pytest.mark.parametrize("other", [{"layers": 4}, {"text": "t2"}])
def test_runs_of_another_model_or_text_give_no_curve(tmp_path, other):
    mixed = write(tmp_path / "mixed", {"en": 8_000, "en_clone": 1_000}, {"en": 30.0, "en_clone": 40.0}, **other)
    text = compare([*alone(tmp_path), mixed], tmp_path / "out")
    assert "No token efficiency for 1 runs: no run of their model and text has one language alone." in text
