"""Measures of parallel text on vectors with known answers, and together on files."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.parallel import (
    Concepts,
    Cosines,
    Geometry,
    Identifiability,
    Isomorphism,
    Matrix,
    Mexa,
    Retrieval,
    SentenceMap,
    Similarity,
)
from xalign_jax.evaluation.parallel.measure import Sides, Together, Value
from xalign_jax.evaluation.probes import ParallelText
from xalign_jax.interfaces import ProbedRun
from xalign_jax.records.pictures import Histogram, Points

N, WIDTH = 60, 8


def vectors(seed: int = 0, n: int = N, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def sides(source: np.ndarray, target: np.ndarray, shown: list | None = None) -> Sides:
    texts = np.arange(len(source))
    take = (lambda picture: None) if shown is None else shown.append
    pooled = [{"mean": {0: vectors(9, len(source)), 1: side}, "weighted": {1: side}} for side in (source, target)]
    return Sides(("en", "de"), *pooled, texts, texts, 0, take)


def together(shown: list | None = None, **sides_: np.ndarray) -> Together:
    texts = {name: np.arange(len(side)) for name, side in sides_.items()}
    take = (lambda picture: None) if shown is None else shown.append
    return Together({name: {"mean": {0: side, 1: side}} for name, side in sides_.items()}, texts, 0, take)


def at(found, metric: str, level: int = 1, language: str | None = None) -> Value:
    (value,) = (one for one in found if (one.metric, one.level, one.language) == (metric, level, language))
    return value


def rotated(source: np.ndarray) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(source.shape[1],) * 2))[0]
    return (source @ rotation).astype(np.float32)


def test_equal_vectors_are_the_best_of_every_measure():
    same = sides(vectors(), vectors())
    found = [*Geometry().pair(same), *Similarity().pair(same), *Isomorphism().pair(same)]
    expected = {"alignment": 0, "matched": 1, "auc": 1, "cka": 1, "svcca": 1, "relational": 1, "eigenvector": 0}
    for metric, value in expected.items():
        assert at(found, metric).value == pytest.approx(value, abs=1e-5), metric
    assert at(found, "d_prime").value > 2 and at(found, "alignment").n == N
    assert at(Cosines().pair(same), "overlap", 1).value == 0


def test_a_rotation_hides_translations_from_cosines_and_not_from_patterns():
    turned = sides(vectors(), rotated(vectors()))
    found = [*Geometry().pair(turned), *Similarity().pair(turned), *Isomorphism().pair(turned)]
    assert abs(at(found, "auc").value - 0.5) < 0.2
    for metric in ("cka", "svcca", "relational"):
        assert at(found, metric).value == pytest.approx(1, abs=1e-4), metric
    assert at(found, "eigenvector").value == pytest.approx(0, abs=1e-6)


def test_a_metric_that_is_not_defined_says_why_and_the_others_remain():
    wide = sides(vectors(n=6, width=20), vectors(1, n=6, width=20))
    found = list(Similarity().pair(wide))
    assert "more rows than dimensions" in at(found, "svcca").reason and at(found, "cka").reason is None
    found = list(Isomorphism().pair(wide))
    assert at(found, "eigenvector").reason and math.isfinite(at(found, "relational").value)
    constant = np.ones((5, 3), np.float32)
    assert at(Geometry().pair(sides(constant, constant)), "d_prime").reason


def test_clusters_hold_both_languages_unless_languages_lie_apart():
    near = list(Concepts(size=6).pair(sides(vectors(), vectors() + 0.01)))
    apart = list(Concepts(size=6).pair(sides(vectors() + 20, vectors(1) - 20)))
    assert at(near, "colap").value == 1 and at(apart, "colap").value == 0
    assert at(apart, "random").value > 0.5
    with pytest.raises(UserError, match="give more sentences"):
        list(Concepts(size=100).pair(sides(vectors(), vectors())))


def test_languages_are_told_apart_where_they_lie_apart():
    source = vectors()
    alike = Identifiability().together(together(en=source, de=source, fr=source))
    apart = Identifiability().together(together(en=source, de=source + 9, fr=source - 9))
    found = list(alike)
    assert at(found, "accuracy").value == pytest.approx(1 / 3, abs=0.05)
    assert at(found, "chance").value == pytest.approx(1 / 3) and at(found, "accuracy").n == 3 * N // 2
    assert at(apart, "accuracy").value == 1


@pytest.mark.parametrize("score", ["absolute", "mexa"])
def test_the_matrix_has_every_pair_of_languages(score):
    found = list(Matrix(score=score, level=1).together(together(en=vectors(), de=vectors(), fr=vectors(1))))
    assert {one.language for one in found} == {"en->de", "de->en", "en->fr", "fr->en", "de->fr", "fr->de"}
    metric = "mexa" if score == "mexa" else "accuracy"
    assert at(found, metric, 1, "de->en").value == 1 and at(found, metric, 1, "fr->en").value < 0.2


def test_pictures_say_what_they_show():
    shown: list = []
    (value,) = SentenceMap(points=10).together(together(shown, en=vectors(), de=vectors()))
    (points,) = shown
    assert isinstance(points, Points) and len(points.x) == len(points.groups) == 20
    assert points.x[:10] == pytest.approx(points.x[10:]) and points.groups[:10] == points.groups[10:]
    assert 0 < value.value <= 1 and "level 1" in points.about and "n = 10" in points.about
    list(Cosines().pair(sides(vectors(), vectors(), shown)))
    histogram = shown[1]
    assert isinstance(histogram, Histogram) and len(histogram.edges) == 51
    assert {name: sum(counts) for name, counts in histogram.series.items()} == {"translations": N, "others": N}


def test_a_level_that_was_not_read_is_named():
    with pytest.raises(UserError, match=r"level 7 is not among the levels that are read: 0, 1"):
        list(Cosines(level=7).pair(sides(vectors(), vectors())))


def test_texts_that_occur_twice_are_counted_and_equally_right():
    same = sides(np.repeat(vectors(n=10), 2, axis=0), np.repeat(vectors(n=10), 2, axis=0))
    texts = np.arange(20) // 2
    found = list(Retrieval().pair(same._replace(source_texts=texts, target_texts=texts)))
    assert at(found, "accuracy", 1, "en->de").value == 1
    (duplicates,) = (one for one in found if one.metric == "duplicates")
    assert duplicates.value == 20 and duplicates.level is None


def probed(toy, tokenizer, shown: list | None = None) -> ProbedRun:
    table = vectors(3, tokenizer.size, 16)
    corpus = toy.corpus(tokenizer, [])
    model = toy.model(tokenizer.size, 16).bind(toy.params(table, table))
    return ProbedRun(model, corpus, show=(lambda picture: None) if shown is None else shown.append)


def test_all_languages_are_compared_on_the_sentences_that_all_have(toy, tokenizer, tmp_path):
    lines = {
        "en": [f"k{i}\tsentence {i * i}" for i in range(40)],
        "de": [f"k{i}\tSatz {i * i}" for i in range(40) if i != 3],
        "fr": [f"k{i}\tphrase {i * i}" for i in range(40) if i != 5],
    }
    for language, own in lines.items():
        (tmp_path / f"{language}.tsv").write_text("\n".join(own) + "\n")
    files = {language: str(tmp_path / f"{language}.tsv") for language in lines}
    measures = (Mexa(), Matrix(level=1), Identifiability(), SentenceMap(points=5))
    shown: list = []
    rows = ParallelText(measures=measures, files=files, length=32).rows(probed(toy, tokenizer, shown))
    matrix = [row for row in rows if row["probe"] == "matrix"]
    assert {row["n"] for row in matrix} == {38} and len(matrix) == 6
    assert {row["n"] for row in rows if row["probe"] == "mexa"} == {39}
    assert len(shown) == 1 and all(row["low"] <= row["value"] <= row["high"] for row in matrix)


def written(folder, names: dict[str, str], lines: int = 30):
    for name, language in names.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(f"{language} {i * i}\n" for i in range(lines)))


def test_patterns_name_one_file_a_language(tmp_path):
    written(tmp_path, {"n/en.txt": "en", "n/de.txt": "de", "n/zh-CN.txt": "zh-CN", "n/_lines.tsv": "no"})
    pivot, path = str(tmp_path / "n/en.txt"), str(tmp_path / "n/{language}.txt")
    every = located_files((("en", pivot), ("*", path)))
    assert [language for language, _ in every] == ["en", "de", "zh-CN"] and every[1][1] == str(tmp_path / "n/de.txt")
    assert [language for language, _ in located_files((("en", pivot), ("zh-CN,de", path)))] == ["en", "zh-CN", "de"]
    plain = (("en", pivot), ("de", str(tmp_path / "n/de.txt")))
    assert located_files(plain) == plain and all_files(plain) == plain
    for wrong, message in (
        ((("en", pivot), ("*", str(tmp_path / "n/de.txt"))), "must hold {language}"),
        ((("en", pivot), ("*", str(tmp_path / "m/{language}.txt"))), "no file fits"),
        ((("en", pivot),), "one language"),
        (("en.txt", "de.txt"), "expected {language: path}"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            located_files(wrong)


def test_each_language_may_have_lines_of_the_pivot_of_its_own(toy, tokenizer, tmp_path):
    names = {"t/t.de-en.de": "de", "t/t.de-en.en": "en", "t/t.fr-en.fr": "fr", "t/t.fr-en.en": "en", "t/t.x-y.fr": "no"}
    written(tmp_path, names)
    (tmp_path / "t/t.fr-en.en").write_text("".join(f"other {i}\n" for i in range(20)))
    (tmp_path / "t/t.fr-en.fr").write_text("".join(f"autre {i}\n" for i in range(20)))
    own = {"en": str(tmp_path / "t/t.{language}-en.en"), "*": str(tmp_path / "t/t.{language}-en.{language}")}
    probe = ParallelText(measures=(Mexa(), Identifiability()), files=own, length=32)
    rows = probe.rows(probed(toy, tokenizer))
    assert {(row["language"], row["n"]) for row in rows} == {("en->de", 30), ("en->fr", 20)}
    assert all(len(row["settings"]["files"]) == 2 for row in rows)
    assert len(probe.text_files()) == 4
    # The same as a list of mappings.
    listed = [dict(one) for one in located_files(probe.files)]
    again = ParallelText(measures=probe.measures, files=listed, length=32)
    assert [row["value"] for row in again.rows(probed(toy, tokenizer))] == [row["value"] for row in rows]
