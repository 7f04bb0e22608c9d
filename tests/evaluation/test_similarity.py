"""Cosines of hidden states and of gradients; knowledge queries."""

from __future__ import annotations

import types

import jax.numpy as jnp
import numpy as np
import pytest
from bindable import Bindable

from xalign_jax import config
from xalign_jax.alignment.neighbours import unit
from xalign_jax.errors import UserError
from xalign_jax.evaluation import encode, probes
from xalign_jax.evaluation.probes import GradientCosine, HiddenCosine, Knowledge
from xalign_jax.evaluation.probes.gradient_cosine import _causal_rows
from xalign_jax.evaluation.probes.hidden_cosine import _token_cosines
from xalign_jax.interfaces import ProbedRun
from xalign_jax.recipe import Evaluation


def _text(toy, count: int = 60):
    rng = np.random.default_rng(5)
    return toy.store([[*rng.integers(10, 200, 20).tolist(), 1] for _ in range(count)])


def _tables(tokenizer, clone: str, width: int = 16):
    """Embedding and head whose clone rows equal the base rows ("equal") or are unrelated to them ("other")."""
    rng = np.random.default_rng(0)
    base, other = rng.normal(size=(2, tokenizer.base_size, width))
    table = np.zeros((tokenizer.size, width))
    table[: 2 * tokenizer.base_size] = np.concatenate([base, base if clone == "equal" else other])
    return table


@pytest.mark.parametrize(("clone", "parallel"), [("equal", 1.0), ("other", 0.0)])
def test_centred_cosine(toy, tokenizer, clone, parallel):
    table = _tables(tokenizer, clone) + 5.0
    corpus = toy.corpus(tokenizer, [_text(toy)])
    probe = HiddenCosine(length=12, windows=32, batch=8)  # not the width
    rows = probe.rows(ProbedRun(toy.model(tokenizer.size, 16).bind(toy.params(table, table)), corpus, 0))
    for level in (0, 1):
        about = {"language": "en_clone", "level": level}
        assert toy.value(rows, "parallel", **about) == pytest.approx(parallel, abs=0.12)
        assert toy.value(rows, "shuffled", **about) == pytest.approx(0.0, abs=0.12)
        gap = toy.value(rows, "parallel", **about) - toy.value(rows, "shuffled", **about)
        assert toy.value(rows, "gap", **about) == pytest.approx(gap)


def test_cosine_of_sentence_pairs(toy, tokenizer, tmp_path):
    rng = np.random.default_rng(1)
    lines = ["".join(chr(c) for c in rng.integers(97, 122, 20)) for _ in range(30)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    table = _tables(tokenizer, "equal")
    files = {"en": str(tmp_path / "a.txt"), "en_clone": str(tmp_path / "b.txt")}
    rows = HiddenCosine(length=32, files=files, batch=8).rows(
        ProbedRun(toy.model(tokenizer.size, 16).bind(toy.params(table, table)), toy.corpus(tokenizer, [_text(toy)]), 0)
    )
    assert toy.value(rows, "parallel", level=1) > 0.95
    assert {row["n"] for row in rows} == {30}


def test_one_window_or_sentence_is_compared_with_no_other(toy, tokenizer, tmp_path):
    """A single text would also be its own text that is not parallel."""
    model, params = toy.model(tokenizer.size, 16), toy.params(*[_tables(tokenizer, "other")] * 2)
    corpus = toy.corpus(tokenizer, [toy.store([[*range(10, 18), 1]])])
    (tmp_path / "a.txt").write_text("one line\n")
    files = {"en": str(tmp_path / "a.txt"), "en_clone": str(tmp_path / "a.txt")}
    for probe in (HiddenCosine(length=16), HiddenCosine(length=16, files=files)):
        rows = probe.rows(ProbedRun(model.bind(params), corpus, 0))
        assert {row["metric"] for row in rows} == {"parallel"}
        assert len(rows) == 2
    assert (
        probe.rows(ProbedRun(model.bind(params), toy.corpus(tokenizer, []), 0)) == []
    )  # nor can it be centred on itself


def test_an_encoder_is_compared_on_framed_documents(toy, tokenizer):
    """Encoders read documents and not windows, which lack bos and eos. n counts the documents' own tokens."""
    table = _tables(tokenizer, "equal")
    model = toy.model(tokenizer.size, 16)
    model.causal = False
    corpus = toy.corpus(tokenizer, [toy.store([[*range(10, 15), 1], [*range(20, 60), 1]])])
    rows = HiddenCosine(length=16, batch=2).rows(ProbedRun(model.bind(toy.params(table, table)), corpus, 0))
    room = 16 - 1 - (tokenizer.bos is not None)
    assert {row["n"] for row in rows} == {5 + room}
    with pytest.raises(UserError, match=r"HiddenCosine\.length = 2: at least 3"):
        HiddenCosine(length=2, files=(("en", "a"), ("de", "b"))).check_model(model)


def test_cosines_of_sentences_by_hand_and_files_pass_the_check(toy, tokenizer, tmp_path):
    """Languages without text of their own are centred on the sentences. Each sentence's control is the next one."""
    written = {"xx": ["abcd", "efg", "hijklm", "no"], "yy": ["bcde", "fgh", "ijk", "p"]}
    for name, lines in written.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    table = np.random.default_rng(3).normal(size=(tokenizer.size, 16))
    model, params = toy.model(tokenizer.size, 16), toy.params(table, table)
    corpus = toy.corpus(tokenizer, [_text(toy)])
    files = {name: str(tmp_path / name) for name in written}
    probe = HiddenCosine(length=32, files=files, batch=8)
    for each in (probe, GradientCosine(length=32, files=files)):
        each.check(ProbedRun(model, corpus))
    rows = probe.rows(ProbedRun(model.bind(params), corpus, 0))
    sides = [np.stack([table[ids].mean(0) for ids in tokenizer.encode(lines)]) for lines in written.values()]
    a, b = (unit(side - side.mean(0)) for side in sides)
    for level in (0, 1):
        same, other = np.sum(a * b, 1).mean(), np.sum(a * np.roll(b, -1, 0), 1).mean()
        for metric, value in (("parallel", same), ("shuffled", other), ("gap", same - other)):
            assert toy.value(rows, metric, level=level, language="yy") == pytest.approx(value, abs=1e-5)
    assert len(rows) == 6 and {row["n"] for row in rows} == {4}


def test_cosines_of_tokens_are_over_the_places_that_both_texts_have(toy, tokenizer):
    table = np.random.default_rng(3).normal(size=(tokenizer.size, 16))
    model, params = toy.model(tokenizer.size, 16), toy.params(table, table)
    a = encode.padded([np.arange(10, 15), np.arange(20, 22), np.arange(30, 37)], 6)
    b = encode.padded([np.arange(40, 44), np.arange(50, 53), np.arange(60, 67)], 6)
    for side in (a, b):
        side["own"] = side["segment_ids"] > 0
    means = [np.full((2, 16), value, np.float32) for value in (0.1, -0.2)]
    found, n = _token_cosines(model.bind(params), a, b, tuple(means), 2)
    x, y = (unit(table[side["tokens"]] - mean[0]) for side, mean in ((a, means[0]), (b, means[1])))
    both = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1] * 6]) > 0
    assert n == both.sum()
    np.testing.assert_allclose(found, [np.sum(x * y, -1)[both].mean()] * 2, atol=1e-5)


def test_gradients_of_the_same_text(toy, tokenizer):
    """A tied clone has the same block gradients; another embedding has unrelated ones."""
    corpus = toy.corpus(tokenizer, [_text(toy)])
    probe = GradientCosine(length=16, batches=2, batch=8)
    found = {}
    for clone in ("equal", "other"):
        table = _tables(tokenizer, clone)
        params = toy.params(table, table, layers=2)
        params["layers"] = params["layers"].at[1].multiply(0.5)
        found[clone] = probe.rows(ProbedRun(toy.model(tokenizer.size, 16, layers=2).bind(params), corpus, 0))
    same = toy.value(found["equal"], "cosine", language="en_clone")
    assert same > 0.9
    assert toy.value(found["equal"], "cosine", control="shuffled") < same
    assert toy.value(found["other"], "cosine") < 0.9
    assert [row["n"] for row in found["equal"]] == [2, 1]


def test_gradient_cosine_is_exact_on_one_tensor(toy, tokenizer):
    """Compared with the gradient of a bigram model's middle matrix, worked out in numpy."""
    rng = np.random.default_rng(2)
    embedding, head = rng.normal(size=(2, tokenizer.size, 4))
    params = toy.params(embedding, head)
    store = _text(toy, 4)
    rows = GradientCosine(length=16, batches=1, batch=4).rows(
        ProbedRun(toy.model(tokenizer.size, 4).bind(params), toy.corpus(tokenizer, [store]), 0)
    )
    gradients = []
    for k in (0, 1):
        ids = tokenizer.clone(store.tokens[:64].astype(np.int32), k)
        starts = np.isin(np.arange(64), store.offsets)
        inputs = np.where(starts, 3, np.roll(ids, 1))
        x, probabilities = embedding[inputs], np.exp(embedding[inputs] @ head.T)
        error = probabilities / probabilities.sum(1, keepdims=True) - np.eye(tokenizer.size)[ids]
        gradients.append((x.T @ (error @ head)).ravel())
    a, b = gradients
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert toy.value(rows, "cosine") == pytest.approx(expected, rel=1e-4)


def test_sentences_predict_their_own_next_tokens():
    rows = _causal_rows([np.array([7, 8, 9, 1]), np.array([5, 1]), np.arange(2, 8)], 4)
    assert rows["tokens"].tolist() == [[7, 8, 9, 1], [5, 1, 0, 0], [2, 3, 4, 5]]
    assert rows["targets"].tolist() == [[8, 9, 1, 0], [1, 0, 0, 0], [3, 4, 5, 6]]
    assert rows["weights"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert rows["segment_ids"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert rows["positions"].tolist() == [[0, 1, 2, 3]] * 3


def test_less_text_than_a_batch_of_gradients_is_one_batch(toy, tokenizer):
    corpus, table = toy.corpus(tokenizer, [_text(toy, 4)]), _tables(tokenizer, "other")  # six rows
    model, params = toy.model(tokenizer.size, 16), toy.params(table, table)
    (whole,) = GradientCosine(length=16, batch=8).rows(ProbedRun(model.bind(params), corpus, 0))
    assert [whole] == GradientCosine(length=16, batch=6).rows(ProbedRun(model.bind(params), corpus, 0)) and whole[
        "n"
    ] == 1


def _facts(tokenizer, count: int = 12, choices: int = 4):
    """Fact q is tokens (10 + q, 40) with answer 60 + q. Its other choices are answers of other facts."""

    def queries(language: int):
        rng = np.random.default_rng(0)
        prompts = np.stack([np.arange(count) + 10, np.full(count, 40)], 1)
        answer = rng.integers(0, choices, count).astype(np.int32)
        first = 60 + (np.arange(count)[:, None] + (np.arange(choices) - answer[:, None])) % count
        candidates = np.stack([first, np.full_like(first, 120)], 2)
        return types.SimpleNamespace(
            prompts=tokenizer.clone(prompts, language),
            prompt_lengths=np.full(count, 2),
            candidates=tokenizer.clone(candidates, language),
            candidate_lengths=np.ones_like(first),
            answer=answer,
        )

    return types.SimpleNamespace(queries=queries)


class _Knowing(Bindable):
    """Answers fact q with token 60 + q in the languages it knows, by the token two places back."""

    causal, num_layers = True, 1

    def __init__(self, size: int, known: int) -> None:
        self.vocabulary_size, self.known = size, known

    def init(self, rng):
        return {"scale": jnp.zeros(())}

    def hidden(self, inputs, *, levels):
        subject = jnp.roll(inputs.tokens, 1, axis=1)
        known = jnp.where(subject % 261 < 10 + 12, subject + 50, 0)
        known = jnp.where(subject // 261 < self.known, known, 0)
        return {1: self.params["scale"] * (jnp.arange(self.vocabulary_size) == known[..., None])}

    def head_input(self, h):
        return h

    def head_weight(self):
        return jnp.eye(self.vocabulary_size)

    def head_bias(self):
        return None


@pytest.mark.parametrize("known", [1, 2])
def test_knowledge_in_the_language_and_across(toy, tokenizer, known):
    lexicon = types.SimpleNamespace(languages=("en", "en_clone"))
    corpus = toy.corpus(tokenizer, [], lexicon, _facts(tokenizer))
    model = _Knowing(tokenizer.size, known)
    rows = Knowledge(batch=16).rows(ProbedRun(model.bind({"scale": jnp.full((), 9.0)}), corpus, 0))
    assert toy.value(rows, "in_language_accuracy", language="en") == 1.0
    across = toy.value(rows, "accuracy", language="en_clone")
    assert across == 1.0 if known == 2 else across < 0.8
    assert toy.value(rows, "accuracy", control="untrained") < 0.8
    assert toy.value(rows, "chance") == 0.25
    assert not [row for row in rows if row["metric"].endswith("_mean")]


def test_knowledge_scores_are_sums_and_means_where_lengths_differ(toy, tokenizer):
    """After 10, one token of log-probability -2 competes with two of -1.5. The sum prefers it, the mean does not."""
    size = tokenizer.size
    known = {10: {20: -2.0, 21: -1.5}, 21: {22: -1.5}}
    table = np.zeros((size, size))
    for before, found in known.items():
        table[before] = np.log((1 - sum(map(np.exp, found.values()))) / (size - len(found)))
        table[before, list(found)] = list(found.values())
    queries = types.SimpleNamespace(
        prompts=np.array([[30, 10], [10, 0]]),
        prompt_lengths=np.array([2, 1]),
        candidates=np.array([[[20, 0], [21, 22]]] * 2),
        candidate_lengths=np.array([[1, 2]] * 2),
        answer=np.array([0, 1], np.int32),
    )
    facts = types.SimpleNamespace(queries=lambda language: queries)
    corpus = toy.corpus(tokenizer, [], types.SimpleNamespace(languages=("en",)), facts)
    model, params = toy.model(size, size), toy.params(np.eye(size), table.T)
    scores = Knowledge(batch=4)._scores(model.bind(params), tokenizer, "en", queries)
    np.testing.assert_allclose(scores[""], [[-2, -3]] * 2, rtol=1e-4)
    np.testing.assert_allclose(scores["_mean"], [[-2, -1.5]] * 2, rtol=1e-4)
    rows = Knowledge(batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    assert toy.value(rows, "in_language_accuracy") == toy.value(rows, "in_language_accuracy_mean") == 0.5
    assert {row["n"] for row in rows} == {2}
    queries.answer = np.zeros(2, np.int32)
    rows = Knowledge(batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    assert (toy.value(rows, "in_language_accuracy"), toy.value(rows, "in_language_accuracy_mean")) == (1.0, 0.0)


def test_knowledge_without_facts_says_so_and_has_no_rows(toy, tokenizer, capsys):
    corpus = toy.corpus(tokenizer, [])
    Knowledge().check(ProbedRun(_Knowing(8, 1), corpus))
    assert 'name "facts" in Mixture.rates' in capsys.readouterr().err
    assert Knowledge().rows(ProbedRun(_Knowing(8, 1).bind({}), corpus, 0)) == []


def test_probe_files_build():
    """The probes of the packaged gin files, and parallel text given on the command line."""
    (evaluation,) = config.load(["probes/clone.gin"], [], (Evaluation,))
    assert {type(probe).__name__ for probe in evaluation.probes} < set(probes.__all__)
    binding = 'SENTENCES = {"en": "a.tsv", "de": "b.tsv"}'
    (evaluation,) = config.load(["probes/alignment.gin"], [binding], (Evaluation,))
    assert evaluation.probes[-1].files == (("en", "a.tsv"), ("de", "b.tsv"))
