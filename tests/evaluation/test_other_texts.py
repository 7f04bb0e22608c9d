"""Probes of dictionaries, of questions with contexts, and of losses on parallel text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_parallel_measures import vectors

from xalign_jax import config
from xalign_jax.errors import UserError
from xalign_jax.evaluation.probes import InformationParity, LexiconInduction, ParallelText, PoolRetrieval
from xalign_jax.evaluation.probes.lexicon_induction import asked_words
from xalign_jax.interfaces import ProbedRun
from xalign_jax.recipe import Evaluation
from xalign_jax.records.files import read_results, read_shown
from xalign_jax.runtime.logs import RESULT_KEYS
from xalign_jax.training import run_directory


def probed(toy, tokenizer, head: float = 1.0) -> ProbedRun:
    """A model whose states are those of the tokens alone: texts of equal letters have equal vectors."""
    table = vectors(3, tokenizer.size, 16)
    return ProbedRun(toy.model(tokenizer.size, 16).bind(toy.params(table, table * head)), toy.corpus(tokenizer, []))


def check_rows(folder, probe, rows) -> None:
    """The rows are strict JSON with all keys, and reports know their metrics."""
    run_directory.add_results(folder, [probe], rows, "import", 0, 0)
    found = read_results(folder)
    assert len(found) == len(rows) and {tuple(row) for row in found} == {RESULT_KEYS}
    assert all(row["n"] >= 1 and len(row["data"]) == 12 and math.isfinite(row["value"]) for row in found)
    (shown,) = read_shown(folder).values()
    assert {row["metric"] for row in found} <= shown["columns"].keys()
    assert shown["title"] == probe.title


def word(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in f"{number:04d}")


def test_words_of_the_same_letters_are_found(toy, tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    pairs = {one: "".join(rng.permutation(list(one))) for one in (word(i) for i in range(400, 700))}
    lines = [f"{source}\t{target}" for source, target in pairs.items()]
    lines += [f"{source}\tof two words" for source in [*pairs][:50]] + ["xyz\tonly two words"]
    (tmp_path / "d.tsv").write_text("\n".join(lines) + "\n")
    probe = LexiconInduction({"de": str(tmp_path / "d.tsv")}, test=0.5, controls=("characters",))
    rows = probe.rows(probed(toy, tokenizer))
    check_rows(tmp_path, probe, rows)
    at = {(row["metric"], row["level"], row["control"]): row for row in rows}
    # Several words have the same letters, so the translation is among the best, not always the best one.
    assert at["precision_5", 1, None]["value"] > 0.5 > at["precision", None, "characters"]["value"]
    assert at["precision", 1, None]["low"] <= at["precision", 1, None]["value"] <= at["precision", 1, None]["high"]
    identical = at["identical", None, None]
    assert 0 <= identical["value"] < 0.2 and at["precision_distinct", 1, None]["n"] <= at["precision", 1, None]["n"]
    assert at["coverage", None, None]["value"] >= 1 - 1.5 / at["precision", 1, None]["n"]


def test_a_word_is_asked_or_free_for_fitting_whatever_the_others_are():
    words = [word(i) for i in range(2000)]
    asked = asked_words(words, 0.2)
    assert abs(len(asked) - 400) < 80 and asked_words(asked, 0.2) == asked
    assert not set(asked_words(words[::2], 0.2)) - set(asked) and asked_words(words, 0.2, seed=1) != asked
    assert asked_words(words, 1.0) == words


def test_a_dictionary_without_words_is_refused(toy, tokenizer, tmp_path):
    (tmp_path / "d.tsv").write_text("one\tzwei Wörter\n")
    probe = LexiconInduction({"de": str(tmp_path / "d.tsv")})
    with pytest.raises(UserError, match=r"d\.tsv: 1 words with 0 translations of one word"):
        probe.check(probed(toy, tokenizer))
    with pytest.raises(UserError, match="the model has levels 0"):
        LexiconInduction({"de": str(tmp_path / "d.tsv")}, levels=(9,)).check(probed(toy, tokenizer))
    with pytest.raises(UserError, match="expected"):
        LexiconInduction(("d.tsv",))


def squad(folder, languages=("en", "de"), contexts: int = 12, shift: int = 0):
    """Questions that are letters of their context; languages write the same text unless they are shifted."""
    for number, language in enumerate(languages):
        lines = []
        for c in range(contexts):
            text = "".join(chr(97 + (c * 2 + i) % 24 + number * shift) for i in range(4))
            lines += [f"d.p{c}.context\t{text}"] + [f"d.p{c}.q{q:02d}\t{text[: 3 + q]}" for q in range(2)]
        (folder / f"{language}.tsv").write_text("\n".join(lines) + "\n")
    return {"en": str(folder / "en.tsv"), "*": str(folder / "{language}.tsv")}


def test_a_pool_of_all_languages_is_searched(toy, tokenizer, tmp_path):
    probe = PoolRetrieval(squad(tmp_path), length=32)
    rows = probe.rows(probed(toy, tokenizer))
    check_rows(tmp_path, probe, rows)
    at = {(row["metric"], row["language"], row["level"], row["control"]): row for row in rows}
    assert at["map", "*", 1, None]["n"] == 48 and at["map", "de", 1, None]["n"] == 24
    assert at["map", "*", 1, None]["value"] > 0.9 > at["map", "*", 1, "shuffled"]["value"] + 0.3
    assert at["expected_bias", "*", 1, None]["value"] == 0.5
    # Languages of other letters: the best answer is in the question's language.
    apart = PoolRetrieval(squad(tmp_path, shift=1), length=32, contexts=5).rows(probed(toy, tokenizer))
    (bias,) = (row["value"] for row in apart if row["metric"] == "bias" and row["level"] == 1)
    assert bias > 0.7


def test_files_without_questions_are_refused(toy, tokenizer, tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"{language}.tsv").write_text("k1\tone\nk2\ttwo\n")
    files = {language: str(tmp_path / f"{language}.tsv") for language in ("en", "de")}
    with pytest.raises(UserError, match="0 contexts and 0 questions"):
        PoolRetrieval(files, length=32).check(probed(toy, tokenizer))


def test_parity_is_the_ratio_of_losses(toy, tokenizer, tmp_path):
    (tmp_path / "en.txt").write_text("".join(f"line {i}\n" for i in range(20)))
    (tmp_path / "de.txt").write_text("".join(f"line {i}line {i}\n" for i in range(20)))
    files = {language: str(tmp_path / f"{language}.txt") for language in ("en", "de", "fr")}
    (tmp_path / "fr.txt").write_text((tmp_path / "en.txt").read_text())
    # All logits are 0: each token costs the log of the vocabulary's size.
    probe = InformationParity(files, length=64)
    rows = probe.rows(probed(toy, tokenizer, head=0.0))
    check_rows(tmp_path, probe, rows)
    at = {(row["metric"], row["language"]): row for row in rows}
    assert at["parity", "en->fr"]["value"] == 1 and at["parity", "en->fr"]["n"] == 20
    size = {name: sum(len(line) for line in (tmp_path / f"{name}.txt").read_text().split("\n")) for name in files}
    tokens = {name: count + 20 for name, count in size.items()}  # a space begins each of 20 texts
    assert at["parity", "en->de"]["value"] == pytest.approx(tokens["de"] / tokens["en"], rel=1e-5)
    nats = math.log(tokenizer.size)
    assert at["nats", "de"]["value"] == pytest.approx(nats * tokens["de"] / 20, rel=1e-5)
    assert at["bits_per_byte", "de"]["value"] == pytest.approx(nats * tokens["de"] / size["de"] / math.log(2), rel=1e-5)
    with pytest.raises(UserError, match="0 sentences of at most"):
        InformationParity(files, length=3).rows(probed(toy, tokenizer))


@pytest.mark.parametrize(
    ("file", "binding", "cls"),
    [
        ("words", "DICTIONARIES", LexiconInduction),
        ("pools", "QUESTIONS", PoolRetrieval),
        ("parity", "SENTENCES", InformationParity),
        ("files", "SENTENCES", ParallelText),
    ],
)
def test_the_packaged_files_build(file, binding, cls):
    bindings = [binding + ' = {"en": "a.tsv", "de": "b.tsv"}']
    (evaluation,) = config.load([f"probes/{file}.gin"], bindings, (Evaluation,))
    (probe,) = evaluation.probes
    assert type(probe) is cls and ("en", "a.tsv") in (*getattr(probe, "files", ()), *getattr(probe, "dictionaries", ()))
