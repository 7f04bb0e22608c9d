"""Sentence retrieval from groups: which texts are paired and read; margin, n-grams and means worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import padded, text_vectors
from xalign_jax.evaluation.inputs.char_ngrams import ngram_cosines
from xalign_jax.evaluation.inputs.parallel_text import sentences
from xalign_jax.evaluation.probes import SentenceRetrieval, sentence_retrieval
from xalign_jax.interfaces import ProbedRun
from xalign_jax.objectives.parts.sentences import sentence_vectors as objective_vectors

WIDTH = 16


def _model(toy, tokenizer, causal: bool):
    table = np.random.default_rng(0).normal(size=(tokenizer.size, WIDTH))
    model = toy.model(tokenizer.size, WIDTH)
    model.causal = causal
    return model, toy.params(table, table)


def _grouped(toy, tokenizer):
    """en: groups 0..5, group 2 twice; de: 0, 2, 3, 4 with the texts of en; fr: 5 and no group; and training text."""
    rng = np.random.default_rng(1)
    texts = [[*rng.integers(10, 200, 6).tolist(), 1] for _ in range(7)]
    en = toy.store(texts, group=np.asarray([0, 1, 2, 2, 3, 4, 5]), text_hash=np.arange(7))
    de = toy.store([texts[d] for d in (5, 0, 2, 4)], "de", group=np.asarray([4, 0, 2, 3]), text_hash=np.arange(10, 14))
    fr = toy.store([texts[6], texts[1]], "fr", group=np.asarray([5, -1]), text_hash=np.arange(20, 22))
    train = [toy.store(texts, language, split="train") for language in ("en", "de")]
    return toy.corpus(tokenizer, [en, de, fr, *train])


def test_groups_pair_the_pivot_with_languages_that_share_enough(toy, tokenizer):
    corpus = _grouped(toy, tokenizer)
    (pair,) = sentences(corpus, (), 1000, "en", least=2)
    assert pair.languages == ("en", "de")
    np.testing.assert_array_equal(pair.source_hash, [0, 2, 4, 5])
    np.testing.assert_array_equal(pair.target_hash, [11, 12, 13, 10])
    for a, b in zip(pair.source, pair.target, strict=True):
        np.testing.assert_array_equal(a, b)
    both = sentences(corpus, (), 3, "en", least=1)
    assert [(pair.languages[1], len(pair.source)) for pair in both] == [("de", 3), ("fr", 1)]
    with pytest.raises(UserError, match=r"pivot = 'en' of the probe.*\.least"):
        sentences(corpus, (), 1000, "en", least=5)
    with pytest.raises(UserError, match=r"pivot = 'xx' of the probe"):
        sentences(corpus, (), 1000, "xx")


def test_rows_of_every_variant_and_control(toy, tokenizer):
    model, params = _model(toy, tokenizer, causal=False)
    names = ("accuracy", "accuracy_first", "accuracy_margin", "accuracy_centred", "accuracy_margin_centred")
    probe = SentenceRetrieval(pivot="en", least=1, metrics=names, untrained=True, length=9, batch=4)
    rows = probe.rows(ProbedRun(model.bind(params), _grouped(toy, tokenizer), 0))
    for language in ("en->de", "de->en"):
        for control in (None, "untrained"):
            for metric in ("accuracy", "accuracy_margin", "accuracy_centred", "accuracy_margin_centred"):
                assert toy.value(rows, metric, language=language, level=1, control=control) == 1.0
        # Every sentence starts with bos: all first states are equal, and the first candidate wins.
        assert toy.value(rows, "accuracy_first", language=language, level=1) == 0.25
        assert toy.value(rows, "accuracy", language=language, level=1, control="shuffled") == 0.0
        assert toy.value(rows, "accuracy", language=language, level=None, control="ngram") == 1.0
    for language, n in (("en->*", 5), ("*->en", 5), ("en->fr", 1)):
        assert toy.value(rows, "accuracy", language=language, level=0) == 1.0
        assert {row["n"] for row in rows if row["language"] == language} == {n}
    assert not [row for row in rows if row["language"] == "en->*" and row["metric"] == "accuracy_centred"]
    assert {row["level"] for row in rows if row["control"] == "ngram"} == {None}


def test_what_is_read(toy, tokenizer):
    """A bidirectional model reads bos x eos, with x cut to the room; a causal one reads x. Only x is pooled in both."""
    texts = [np.asarray(ids, np.int32) for ids in ([10, 20, 1], [30, 31, 32, 33, 34, 1], [40])]
    model, params = _model(toy, tokenizer, causal=False)
    table = np.asarray(params["embedding"])
    # The toy vocabulary may have no bos: then x stands first.
    room = 4 if tokenizer.bos is None else 3
    found = text_vectors(model.bind(params), tokenizer, texts, 5, 2, "test")
    for d, own in enumerate(([10, 20], [30, 31, 32, 33][:room], [40])):
        np.testing.assert_allclose(found["mean"][0, d], table[own].mean(0), rtol=1e-5, atol=1e-6)
        first = own[0] if tokenizer.bos is None else tokenizer.bos
        np.testing.assert_allclose(found["first"][0, d], table[first], rtol=1e-6)
    model, params = _model(toy, tokenizer, causal=True)
    found = text_vectors(model.bind(params), tokenizer, texts, 5, 2, "test")
    for d, own in enumerate(([10, 20], [30, 31, 32, 33, 34], [40])):
        np.testing.assert_allclose(found["mean"][1, d], table[own].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["first"][1, d], table[own[0]], rtol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_objectives_pool_what_probes_pool(toy, tokenizer, causal):
    """A row framed as feeds frame it, and the same text as a probe gets it."""
    model, params = _model(toy, tokenizer, causal)
    model.special = tokenizer.special
    own = np.asarray([10, 20, 30], np.int32)
    row = [own] if causal else [np.asarray([*[[tokenizer.bos], []][tokenizer.bos is None], *own, tokenizer.eos])]
    for pooling in ("mean", "first"):
        probed = text_vectors(model.bind(params), tokenizer, [own], 9, 1, "test")[pooling]
        for level in (0, 1):
            trained = objective_vectors(model.bind(params), padded(row, 9), 1, level, pooling)
            np.testing.assert_allclose(probed[level], trained, rtol=1e-6)


def test_too_few_sentences_are_refused(toy, tokenizer, tmp_path):
    """With one candidate the right one is always found. `least` counts before `sentences` cuts."""
    for language in ("en", "de"):
        (tmp_path / f"{language}.txt").write_text("one\ntwo\nthree\n")
    files = tuple((language, str(tmp_path / f"{language}.txt")) for language in ("en", "de"))
    model, params = _model(toy, tokenizer, causal=True)
    corpus = toy.corpus(tokenizer, [])
    with pytest.raises(UserError, match=r"3 sentences are in both, but least = 10; take de out"):
        SentenceRetrieval(files=files).check(ProbedRun(model, corpus))
    probe = SentenceRetrieval(files=files, least=3, sentences=1)
    probe.check(ProbedRun(model, corpus))
    rows = probe.rows(ProbedRun(model.bind(params), corpus, 0))
    assert {row["n"] for row in rows} == {1}
    assert "shuffled" not in {row["control"] for row in rows}
    clones = toy.corpus(tokenizer, [toy.store([[10, 11, 1]])])
    with pytest.raises(UserError, match=r"least = 10 of the probe: the validation text in en has 1 documents"):
        SentenceRetrieval().check(ProbedRun(model, clones))


def test_a_mean_over_languages_counts_each_alike(toy, tokenizer):
    model, params = _model(toy, tokenizer, causal=True)
    rows = SentenceRetrieval(pivot="en", least=1, metrics=("accuracy",)).rows(
        ProbedRun(model.bind(params), _grouped(toy, tokenizer), 0)
    )
    for name, pair in (("en->*", "en->{}"), ("*->en", "{}->en")):
        both = [toy.value(rows, "accuracy", language=pair.format(other), level=1) for other in ("de", "fr")]
        assert toy.value(rows, "accuracy", language=name, level=1) == pytest.approx(np.mean(both))
    assert not [row for row in rows if row["control"] == "shuffled" and "*" in row["language"]]  # fr has one sentence


def test_files_are_read_as_other_text_is(toy, tokenizer, tmp_path, monkeypatch):
    """A byte-order mark and CRLF are not text, ~ is the home folder, and a byte that is not UTF-8 is reported."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "en.tsv").write_bytes(b"\xef\xbb\xbfa\tone\r\nb\ttwo\r\n")
    (tmp_path / "de.tsv").write_bytes(b"b\tzwei\na\teins")
    corpus = toy.corpus(tokenizer, [])
    (pair,) = sentences(corpus, (("en", "~/en.tsv"), ("de", "~/de.tsv")), 9)
    assert pair.texts == (("one", "two"), ("eins", "zwei"))
    (tmp_path / "de.tsv").write_bytes(b"a\teins\nb\tzw\xf6lf")
    with pytest.raises(UserError, match=r"de\.tsv:2: not UTF-8"):
        sentences(corpus, (("en", "~/en.tsv"), ("de", "~/de.tsv")), 9)
    with pytest.raises(UserError, match="parallel text needs two or more"):
        sentences(corpus, (("en", "~/en.tsv"),), 9)


@pytest.mark.parametrize(
    ("names", "contents", "said"),
    [
        ("tsv", ("a\tone\nb\ttwo\n", "a\teins\nb\tzwei\na\tdrei\n"), r"de\.tsv:3: id 'a' stands on line 1 already"),
        ("tsv", ("a\ten\tone\n", "a\tde\teins\n"), r"en\.tsv:1: expected id<TAB>text"),
        ("tsv", ("a\tone\nno tab\n", "a\teins\n"), r"en\.tsv:2: expected id<TAB>text"),
        ("tsv", ("a\tone\n", "b\tzwei\n"), r"en\.tsv and .*de\.tsv: no sentence is in both"),
        ("txt", ("one\ntwo\n", "eins\n"), r"de\.txt:2: the file ends here, .*en\.txt goes on"),
        ("txt", ("one\rtwo\r", "eins\rzwei\r"), r"en\.txt:1: a carriage return within a line"),
    ],
)
def test_files_are_refused_as_a_task_refuses_them(toy, tokenizer, tmp_path, names, contents, said):
    files = tuple((language, str(tmp_path / f"{language}.{names}")) for language in ("en", "de"))
    for (_, path), content in zip(files, contents, strict=True):
        Path(path).write_text(content, newline="")
    with pytest.raises(UserError, match=said):
        sentences(toy.corpus(tokenizer, []), files, 9)


def test_blank_lines_spaces_and_ids_without_text_are_read_as_a_task_reads_them(toy, tokenizer, tmp_path):
    corpus = toy.corpus(tokenizer, [])
    (tmp_path / "en.tsv").write_text("a \t one \n\n b\ttwo\nc\t\n")
    (tmp_path / "de.tsv").write_text("\nb\tzwei\na\teins\t\nc\tdrei\n")
    (tmp_path / "fr.tsv").write_text("b\tdeux\n")
    files = tuple((language, str(tmp_path / f"{language}.tsv")) for language in ("en", "de", "fr"))
    german, french = sentences(corpus, files, 9)
    assert german.texts == (("one", "two"), ("eins", "zwei"))
    assert french.languages == ("en", "fr") and french.texts == (("two",), ("deux",))
    (tmp_path / "a.en").write_text("one\n\nthree \n")
    (tmp_path / "a.de").write_text("eins\nzwei\n drei\n")
    (pair,) = sentences(corpus, (("en", str(tmp_path / "a.en")), ("de", str(tmp_path / "a.de"))), 9)
    assert pair.texts == (("one", "three"), ("eins", "drei"))
    with pytest.raises(UserError, match=r"a\.de: not a \.tsv file"):
        sentences(corpus, (files[0], ("de", str(tmp_path / "a.de"))), 9)
    with pytest.raises(UserError, match="two files are in 'en'"):
        sentences(corpus, (files[0], ("en", files[1][1])), 9)


@pytest.mark.parametrize(("fitted", "expected"), [(256, range(10)), (8, [0, 3, 6, 9])])
def test_means_are_fitted_on_documents_spread_over_a_store(toy, fitted, expected, monkeypatch):
    """Two stores give half of the documents each, or all of theirs if they have fewer."""
    monkeypatch.setattr(sentence_retrieval, "FITTED", fitted)
    store = toy.store([[10 + d, 1] for d in range(10)])
    found = [document.tolist() for document in sentence_retrieval._spread(store, [store, store])]
    assert found == [[10 + d, 1] for d in expected]


def test_a_line_that_is_blank_on_either_side_is_no_sentence(toy, tokenizer, tmp_path):
    (tmp_path / "en.txt").write_text("one\n \nthree\nfour\nfive\n")
    (tmp_path / "de.txt").write_text("eins\nzwei\n\nvier\nfünf\n")
    files = (("en", str(tmp_path / "en.txt")), ("de", str(tmp_path / "de.txt")))
    corpus = toy.corpus(tokenizer, [])
    (pair,) = sentences(corpus, files, 2)
    assert pair.texts == (("one", "four"), ("eins", "vier"))


def test_ngrams_are_of_texts_as_they_are_written_where_these_are_known(toy, tokenizer, tmp_path, monkeypatch):
    """Decoding tokens may lose characters that the vocabulary lacks."""
    (tmp_path / "text.txt").write_text("one\nzwei\n")
    files = {"en": str(tmp_path / "text.txt"), "de": str(tmp_path / "text.txt")}
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "lost")
    model, params = _model(toy, tokenizer, causal=False)
    rows = SentenceRetrieval(files=files, metrics=["accuracy"], least=2).rows(
        ProbedRun(model.bind(params), toy.corpus(tokenizer, []), 0)
    )
    assert toy.value(rows, "accuracy", language="en->de", control="ngram") == 1.0


def test_a_sentence_longer_than_the_model_is_refused_before_training(toy, tokenizer):
    model, _ = _model(toy, tokenizer, causal=False)
    with pytest.raises(UserError, match=r"SentenceRetrieval\.length = 65: longer than the model's max_length = 64"):
        SentenceRetrieval(pivot="en", length=65).check_model(model)


def test_ngrams_know_case_and_space_and_nothing_else():
    cosines = ngram_cosines(["Open  the file", "ab", ""], ["open the FILE", "xyz", "cab"])
    assert cosines[0, 0] == pytest.approx(1.0)
    assert cosines[0, 1] == cosines[1, 1] == 0
    # " ab " has ' a','ab','b ',' ab','ab ',' ab '; " cab " shares 'ab', 'b ', 'ab ' of its 9.
    assert cosines[1, 2] == pytest.approx(3 / np.sqrt(6 * 9))
    np.testing.assert_array_equal(cosines[2], 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["accuracy_centred_margin"]}, r"SentenceRetrieval\.metrics"),
        ({"length": 2}, r"\.length = 2"),
        ({"sentences": 0}, r"SentenceRetrieval\.sentences = 0: must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        SentenceRetrieval(**settings)
