"""Word and sentence retrieval: 1 for equal vectors, chance for shuffled answers; duplicates and means by hand."""

from __future__ import annotations

import types

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.probes import SentenceRetrieval, WordRetrieval
from xalign_jax.interfaces import ProbedRun

CONCEPTS = 40


def _lexicon(toy, tokenizer, heldout: int = 10):
    def table(first: int, last: int):
        ids = range(first, last)
        words = [([10 + i], i, 0, i) for i in ids] + [([int(tokenizer.clone(10 + i, 1))], i, 1, i) for i in ids]
        return toy.concepts(words)

    known = CONCEPTS - heldout
    return types.SimpleNamespace(
        dictionary=table(0, known), heldout=table(known, CONCEPTS), languages=("en", "en_clone")
    )


def _aligned(toy, tokenizer):
    """Clone rows equal the base rows."""
    base = np.random.default_rng(0).normal(size=(tokenizer.base_size, 16))
    table = np.zeros((tokenizer.size, 16))
    table[: 2 * tokenizer.base_size] = np.concatenate([base, base])
    return toy.model(tokenizer.size, 16, layers=2), toy.params(table, table, layers=2)


def test_equal_vectors_are_found_and_shuffled_answers_are_not(toy, tokenizer):
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [], _lexicon(toy, tokenizer))
    rows = WordRetrieval(batch=16).rows(ProbedRun(model.bind(params), corpus, 0))
    for split, n in (("dictionary", 30), ("heldout", 10)):
        for level in (0, 1, 2, "head"):
            about = {"split": split, "level": level, "language": "en_clone"}
            assert toy.value(rows, "accuracy", **about) == 1.0
            assert toy.value(rows, "accuracy", control="shuffled", **about) == 0.0
            assert toy.value(rows, "accuracy", control="untrained", **about) <= 4 / n
            assert {row["n"] for row in rows if row["split"] == split} == {n}


def test_centring_takes_a_language_offset_away(toy, tokenizer):
    """Opposite constants in both languages move raw cosines, not centred ones. Means come from the other split."""
    model, params = _aligned(toy, tokenizer)
    apart = np.where(np.arange(tokenizer.size) < tokenizer.base_size, 50, -50)[:, None] * np.eye(16)[0]
    params |= {"embedding": params["embedding"] + apart.astype(np.float32)}
    rows = WordRetrieval(batch=16).rows(
        ProbedRun(model.bind(params), toy.corpus(tokenizer, [], _lexicon(toy, tokenizer, 20)), 0)
    )
    about = {"split": "dictionary", "level": 1, "language": "en_clone"}
    assert toy.value(rows, "accuracy_centred", **about) == 1.0
    assert toy.value(rows, "accuracy", **about) < 0.9


def test_candidates_are_limited_and_the_same_for_every_run(toy, tokenizer):
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [], _lexicon(toy, tokenizer))
    first, second = (
        WordRetrieval(candidates=8, batch=16).rows(ProbedRun(model.bind(params), corpus, 0)) for _ in range(2)
    )
    assert {row["n"] for row in first} == {8}
    assert first == second


def test_one_concept_leaves_nothing_to_choose_from(toy, tokenizer):
    model, params = _aligned(toy, tokenizer)
    rows = WordRetrieval(batch=4).rows(
        ProbedRun(model.bind(params), toy.corpus(tokenizer, [], _lexicon(toy, tokenizer, 1)), 0)
    )
    assert {row["split"] for row in rows} == {"dictionary"}


def test_an_encoder_reads_words_between_bos_and_eos(toy, tokenizer):
    """A word of one token is a row of three, and the mean is over the word only."""
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [], _lexicon(toy, tokenizer))
    read = []

    class Reading(type(model)):
        def hidden(self, inputs, *, levels):
            read.append(inputs.tokens.shape[1])
            return super().hidden(inputs, levels=levels)

    model.__class__ = Reading
    for causal, longest in ((True, 1), (False, 3)):
        model.causal = causal
        rows = WordRetrieval(batch=16 if causal else 15).rows(ProbedRun(model.bind(params), corpus, 0))
        assert read[-1] == longest
        assert toy.value(rows, "accuracy", split="heldout", level=1) == 1.0


def test_a_word_written_like_the_right_one_is_right(toy, tokenizer):
    """Two concepts have targets of the same spelling, so either answer counts for both."""
    words = [([10], 0, 0, 0), ([11], 1, 0, 1), ([271], 0, 1, 7), ([271], 1, 1, 7)]
    lexicon = types.SimpleNamespace(
        dictionary=toy.concepts(words), heldout=toy.concepts([]), languages=("en", "en_clone")
    )
    model, params = _aligned(toy, tokenizer)
    rows = WordRetrieval(batch=4).rows(ProbedRun(model.bind(params), toy.corpus(tokenizer, [], lexicon), 0))
    assert toy.value(rows, "accuracy", level=0) == 1.0
    assert not [row for row in rows if row["split"] == "heldout"]
    assert not [row for row in rows if row["metric"] == "accuracy_centred"]


def test_tied_models_have_no_head_level(toy, tokenizer):
    model, params = _aligned(toy, tokenizer)
    model.tied = True
    rows = WordRetrieval(batch=16).rows(
        ProbedRun(model.bind(params), toy.corpus(tokenizer, [], _lexicon(toy, tokenizer)), 0)
    )
    assert "head" not in {row["level"] for row in rows}


def test_no_dictionary_is_an_error(toy, tokenizer):
    with pytest.raises(UserError, match=r"Recipe\.lexicon"):
        WordRetrieval().rows(ProbedRun(toy.model(8, 2).bind({}), toy.corpus(tokenizer, []), 0))


def _documents(count: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [[*rng.integers(10, 200, 12).tolist(), 1] for _ in range(count)]


def test_validation_documents_find_their_clones(toy, tokenizer):
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [toy.store(_documents(20)), toy.store(_documents(30), split="train")])
    rows = SentenceRetrieval(sentences=15, length=8, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    for language in ("en->en_clone", "en_clone->en"):
        for metric in ("accuracy", "accuracy_centred"):
            assert toy.value(rows, metric, language=language, level=2) == 1.0
            assert toy.value(rows, metric, language=language, level=2, control="shuffled") == 0.0
    assert {row["n"] for row in rows} == {15}


def test_parallel_sentences_from_files(toy, tokenizer, tmp_path):
    lines = [f"sentence number {word}" for word in ("one", "two", "three", "four")]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(lines) + "\n")
    keyed = [f"k{i}\t{line}" for i, line in enumerate(lines)]
    (tmp_path / "a.tsv").write_text("\n".join(keyed) + "\n")
    (tmp_path / "b.tsv").write_text("\n".join(reversed(keyed[1:])) + "\n")
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [toy.store(_documents(5))])
    for kind, n in (("txt", 4), ("tsv", 3)):
        files = {"en": str(tmp_path / f"a.{kind}"), "en_clone": str(tmp_path / f"b.{kind}")}
        rows = SentenceRetrieval(files=files, least=3, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
        assert toy.value(rows, "accuracy", language="en->en_clone", level=0) == 1.0
        assert {row["n"] for row in rows} == {n}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.txt", "one\n", r"b\.txt:2: the file ends here"),
        ("b.tsv", "no tab\n", r"b\.tsv:1"),
        ("none.txt", None, "no such file"),
    ],
)
def test_bad_sentence_files(toy, tokenizer, tmp_path, name, text, message):
    first = tmp_path / ("a" + name[name.index(".") :])
    first.write_text("k\tone\nl\ttwo\n")
    if text is not None:
        (tmp_path / name).write_text(text)
    model, params = _aligned(toy, tokenizer)
    corpus = toy.corpus(tokenizer, [toy.store(_documents(5))])
    with pytest.raises(UserError, match=message):
        SentenceRetrieval(files={"en": str(first), "de": str(tmp_path / name)}).rows(
            ProbedRun(model.bind(params), corpus, 0)
        )
