"""`ParallelText`: one pass over the text, measures on its vectors, controls and reasons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures.mexa import mexa
from xalign_jax.evaluation.parallel import Mexa, Retrieval
from xalign_jax.evaluation.probes import ParallelText, parallel_text
from xalign_jax.interfaces import ProbedRun

# Lines of different letters: the states of the model depend on letters alone.
LINES = [f"sentence {chr(97 + i) * (2 + i)} of words" for i in range(20)]


@pytest.fixture
def probed(toy, tokenizer):
    """A run without texts, on a model whose states are random rows."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(tokenizer.size, 16)).astype(np.float32)
    return ProbedRun(toy.model(tokenizer.size, 16).bind(toy.params(table, table)), toy.corpus(tokenizer, []), 0)


def _files(folder, **texts):
    for language, lines in texts.items():
        (folder / f"{language}.txt").write_text("".join(f"{line}\n" for line in lines))
    return {language: str(folder / f"{language}.txt") for language in texts}


def _probe(files, *measures, **settings):
    return ParallelText(measures=measures or (Mexa(), Retrieval()), files=files, **settings)


def test_equal_texts_are_found_and_shuffled_ones_are_not(probed, tmp_path):
    probe = _probe(_files(tmp_path, en=LINES, de=LINES))
    probe.check(probed)
    rows = probe.rows(probed)
    # Two levels; MEXA in one direction, retrieval in two; each with its control.
    assert len(rows) == 2 * 3 * 2
    assert {row["value"] for row in rows if row["control"] is None} == {1.0}
    assert {row["value"] for row in rows if row["control"] == "shuffled"} == {0.0}
    assert {row["language"] for row in rows if row["probe"] == "retrieval"} == {"en->de", "de->en"}
    assert all(row["n"] == 20 and row["low"] <= row["value"] <= row["high"] for row in rows)


def test_a_measure_on_the_probes_vectors_is_the_pure_function(probed, tmp_path):
    from xalign_jax.evaluation.activations import Want, pooled

    others = [line.replace("sentence", "Satz").replace("words", "Worte") for line in LINES]
    rows = _probe(_files(tmp_path, en=LINES, de=others), Mexa()).rows(probed)
    tokenizer, model = probed.corpus.tokenizer, probed.model
    before, after = tokenizer.framing(model.causal)
    sides = [
        pooled(
            model,
            [np.concatenate([before, ids, after]).astype(np.int32) for ids in tokenizer.encode_documents(lines)],
            Want((0, 1), ("weighted",)),
            (len(before), len(after)),
        )["weighted"]
        for lines in (LINES, others)
    ]
    for level in (0, 1):
        (value,) = (row["value"] for row in rows if row["level"] == level and row["control"] is None)
        assert value == mexa(sides[0][level], sides[1][level]).score


def test_a_prompt_stands_around_every_text_and_is_checked(probed, tmp_path, monkeypatch):
    read = []
    pooled = parallel_text.pooled
    monkeypatch.setattr(
        parallel_text, "pooled", lambda model, rows, *rest: read.append(rows) or pooled(model, rows, *rest)
    )
    files = _files(tmp_path, en=LINES, de=LINES)
    plain, led = _probe(files, Retrieval()), _probe(files, Retrieval(), prefix="of words ", suffix=" words")
    rows = [probe.rows(probed) for probe in (plain, led)]
    before, after = probed.corpus.tokenizer.framing(probed.model.causal)
    lead, tail = (ids.tolist() for ids in probed.corpus.tokenizer.encode(["of words", " words"]))
    for without, within in zip(read[0], read[2], strict=True):
        text = without[len(before) : len(without) - len(after)]
        assert within.tolist() == [*before, *lead, *text, *tail, *after]
    # A row names its prompt, and rows without one are as they always were.
    assert not any({"prefix", "suffix"} & {*row["settings"]} for row in rows[0])
    assert all((row["settings"]["prefix"], row["settings"]["suffix"]) == ("of words ", " words") for row in rows[1])
    with pytest.raises(
        UserError, match=r"ParallelText: prefix, suffix and specials have \d+ tokens, which leave no room"
    ):
        dataclasses.replace(led, length=len(lead) + len(tail)).check(probed)


def test_the_mask_token_is_measured_where_a_prompt_has_one(probed, tmp_path, monkeypatch):
    tokenizer, files = probed.corpus.tokenizer, _files(tmp_path, en=LINES, de=LINES)
    prompted = _probe(files, Retrieval(pooling="mask"), suffix=" [MASK]")
    with pytest.raises(UserError, match=r"pooling 'mask': the vocabulary has no mask token; one of mean, weighted"):
        prompted.check(probed)
    monkeypatch.setattr(type(probed.model), "mask_id", tokenizer.mask)
    prompted.check(probed)
    # The mask token has one state in this model, whatever the text, so nothing is told apart.
    vectors = prompted._vectors(probed, tokenizer.encode(LINES), prompted._want(probed.model), "en", None)["mask"][0]
    np.testing.assert_array_equal(vectors, np.tile(probed.model.params["embedding"][tokenizer.mask], (20, 1)))
    for suffix, found in (("", 0), ("[MASK] [MASK]", 2)):
        wrong = dataclasses.replace(prompted, suffix=suffix)
        with pytest.raises(
            UserError, match=rf"a text has {found} mask tokens.* once in ParallelText.prefix or Parallel"
        ):
            wrong.check(probed)


def test_each_text_is_read_once(probed, tmp_path, monkeypatch):
    """The pivot is read once, whatever the number of languages and measures."""
    read = []
    pooled = parallel_text.pooled

    def counted(model, rows, *rest):
        read.append(len(rows))
        return pooled(model, rows, *rest)

    monkeypatch.setattr(parallel_text, "pooled", counted)
    files = _files(tmp_path, en=LINES, de=LINES, fr=LINES[::-1])
    _probe(files, Mexa(), Mexa(pooling="last"), Retrieval(), Retrieval(score="csls")).rows(probed)
    assert read == [20, 20, 20]


def test_measures_of_one_name_are_told_apart(probed, tmp_path):
    files = _files(tmp_path, en=LINES, de=LINES)
    rows = _probe(files, Retrieval(), Retrieval(score="ratio")).rows(probed)
    assert sorted({row["settings"]["score"] for row in rows}) == ["absolute", "ratio"]
    assert len({(str(row["settings"]), row["language"], row["level"], row["control"]) for row in rows}) == len(rows)


def test_too_few_sentences_give_a_reason(probed, tmp_path):
    files = _files(tmp_path, en=LINES[:1], de=LINES[:1])
    rows = _probe(files, Mexa(), least=1, controls=()).rows(probed)
    assert [row["value"] for row in rows] == [None] and "at least 2" in rows[0]["reason"]


def test_an_untrained_model_is_a_control(probed, tmp_path):
    rows = _probe(_files(tmp_path, en=LINES, de=LINES), Mexa(), controls=("untrained",)).rows(probed)
    assert [row["control"] for row in rows] == [None, None, "untrained", "untrained"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": ()}, "ParallelText.measures = "),
        ({"measures": (3,)}, "ParallelText.measures has 3"),
        ({"controls": ("random",)}, "ParallelText.controls names 'random'"),
        ({"length": 2}, "ParallelText.length = 2"),
        ({"sentences": 0}, "ParallelText.sentences = 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        ParallelText(**{"measures": (Mexa(),)} | settings)


def test_a_pooling_that_does_not_exist():
    with pytest.raises(UserError, match=r"Mexa.pooling = 'sum': must be one of mean, weighted, first, last"):
        Mexa(pooling="sum")


def test_a_level_that_does_not_exist(probed, tmp_path):
    with pytest.raises(UserError, match="levels names 7: the model has levels 0 to 1"):
        _probe(_files(tmp_path, en=LINES, de=LINES), levels=(7,)).check(probed)
