"""Perplexity, perplexity in a language and bits per byte, compared with values worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.evaluation.inputs.windows import consecutive
from xalign_jax.evaluation.probes import ForeignMass, Perplexity
from xalign_jax.interfaces import ProbedRun

TEXT = [[*range(10, 30), 1], [*range(40, 45), 1], [*range(60, 90), 1]]


def test_uniform_model_is_exact(toy, tokenizer):
    model = toy.model(tokenizer.size, 4)
    params = toy.params(np.zeros((tokenizer.size, 4)), np.zeros((tokenizer.size, 4)))
    corpus = toy.corpus(tokenizer, [toy.store(TEXT)])
    rows = Perplexity(length=8, windows=100, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    tokens, nbytes = 58, 55
    for language, own in (("en", 261), ("en_clone", 261)):
        assert toy.value(rows, "perplexity", language=language) == pytest.approx(tokenizer.size, rel=1e-5)
        assert toy.value(rows, "perplexity_in_language", language=language) == pytest.approx(own, rel=1e-5)
        bits = tokens * math.log2(tokenizer.size) / nbytes
        assert toy.value(rows, "bits_per_byte", language=language) == pytest.approx(bits, rel=1e-5)
    assert {row["n"] for row in rows} == {tokens}


def test_known_bigram(toy, tokenizer):
    """Logits are a table by the previous token, so the loss is worked out from its softmax."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(tokenizer.size, tokenizer.size))
    model = toy.model(tokenizer.size, tokenizer.size)
    params = toy.params(np.eye(tokenizer.size), table.T)
    corpus = toy.corpus(tokenizer, [toy.store(TEXT)])
    rows = Perplexity(length=8, windows=100, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    for k, language in enumerate(("en", "en_clone")):
        own = tokenizer.language_rows(k)
        losses, inside = [], []
        for document in TEXT:
            ids = tokenizer.clone(np.asarray([3, *document]), k)
            for before, after in itertools.pairwise(ids):
                logits = table[before]
                losses.append(np.log(np.exp(logits).sum()) - logits[after])
                inside.append(np.log(np.exp(logits[own]).sum()) - logits[after])
        assert toy.value(rows, "perplexity", language=language) == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
        expected = np.exp(np.mean(inside))
        assert toy.value(rows, "perplexity_in_language", language=language) == pytest.approx(expected, rel=1e-5)


def test_tied_clone_oracle(toy, tokenizer):
    """Clone rows equal the base rows: equal perplexity in the language, twice as much overall if nothing is shared."""
    base = np.random.default_rng(1).normal(size=(tokenizer.base_size, 8))
    table = np.concatenate([base, base])
    head = np.concatenate([table, np.full((tokenizer.size - len(table), 8), 0.0)])
    head = np.concatenate([head, np.full((len(head), 1), 0.0)], axis=1)
    head[len(table) :, -1] = -1e4
    embedding = np.concatenate([head[:, :-1], np.ones((len(head), 1))], axis=1)
    model, params = toy.model(tokenizer.size, 9), toy.params(embedding, head)
    corpus = toy.corpus(tokenizer, [toy.store([document[:-1] for document in TEXT])])
    rows = Perplexity(length=8, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    one, two = (toy.value(rows, "perplexity", language=name) for name in ("en", "en_clone"))
    assert two == pytest.approx(one, rel=1e-5)
    inside, cloned = (toy.value(rows, "perplexity_in_language", language=name) for name in ("en", "en_clone"))
    assert inside == pytest.approx(one / 2, rel=1e-5)
    assert cloned == pytest.approx(inside, rel=1e-5)


def test_windows_are_consecutive_and_count_bytes(toy, tokenizer):
    store = toy.store(TEXT)
    whole = consecutive(store, tokenizer, 8, 100)
    real = whole["weights"] > 0
    assert whole["targets"][real].tolist() == store.tokens.tolist()
    assert (
        not any(whole[key][~real].any() for key in ("tokens", "targets", "positions", "segment_ids")) and not real.all()
    )
    assert whole["tokens"][0].tolist() == [3, *range(10, 17)]
    assert whole["bytes"].sum() == pytest.approx(55)
    assert whole["segment_ids"][2].tolist() == [1, 1, 1, 1, 1, 2, 2, 2]
    assert whole["positions"][2].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    part = consecutive(store, tokenizer, 8, 2, first=1)
    assert all((part[key] == whole[key][1:3]).all() for key in whole)
    assert part["bytes"][0] == pytest.approx(8 * 20 / 21)


def test_without_bos_a_document_starts_unscored(toy, tokenizer):
    tokenizer.bos = None
    whole = consecutive(toy.store(TEXT), tokenizer, 8, 100)
    assert whole["weights"].sum() == 58 - 3
    assert whole["weights"][0, 0] == 0


def test_stores_of_a_language_share_the_windows(toy, tokenizer):
    first = toy.store(TEXT)
    other = toy.store([[7] * 40])
    corpus = toy.corpus(tokenizer, [first])
    corpus.stores["more"] = {"validation": {"en": other}}
    model = toy.model(tokenizer.size, 2)
    params = toy.params(np.zeros((tokenizer.size, 2)), np.zeros((tokenizer.size, 2)))
    rows = Perplexity(length=8, windows=4, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    assert {row["n"] for row in rows} == {32}
    alone = Perplexity(length=8, windows=100, tasks=("more",), batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    assert {row["n"] for row in alone} == {40}
    with pytest.raises(UserError, match="no task 'less'"):
        Perplexity(length=8, tasks=("less",)).rows(ProbedRun(model.bind(params), corpus, 0))


def test_bidirectional_models_are_refused(toy, tokenizer):
    model = toy.model(tokenizer.size, 2)
    model.causal = False
    with pytest.raises(UserError, match="causal"):
        Perplexity(length=8).check_model(model)


def test_foreign_mass_of_a_clone(toy, tokenizer):
    """With equal logits, the clone's own rows have their share of the vocabulary as mass."""
    model = toy.model(tokenizer.size, 2)
    params = toy.params(np.zeros((tokenizer.size, 2)), np.zeros((tokenizer.size, 2)))
    corpus = toy.corpus(tokenizer, [toy.store(TEXT), toy.store(TEXT, split="train")])
    rows = ForeignMass(length=8, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    own = int((~tokenizer.shared).sum())
    assert toy.value(rows, "mass", language="en_clone") == pytest.approx(own / tokenizer.size, rel=1e-5)
    assert rows[0]["n"] == 58 - 10  # the first of each window and document has no context


def test_foreign_mass_reads_the_first_language(toy, tokenizer):
    """Held-out text of another language does not serve as context."""
    stores = [toy.store(TEXT, split="train"), toy.store(TEXT, "de", "train"), toy.store(TEXT, "de")]
    probe, model = ForeignMass(length=8), toy.model(tokenizer.size, 2)
    with pytest.raises(UserError, match="ForeignMass: no validation text in en, the run's first language"):
        probe.check(ProbedRun(model, toy.corpus(tokenizer, stores)))
    probe.check(ProbedRun(model, toy.corpus(tokenizer, [*stores, toy.store(TEXT)])))


@pytest.mark.parametrize("settings", [{"windows": 0}, {"length": 0}, {"length": 8, "batch": 2.5}])
def test_counts_are_whole_and_positive(settings):
    with pytest.raises(
        UserError, match=r"Perplexity\.(windows|length|batch) = .*: (must be at least 1|expected a whole number)"
    ):
        Perplexity(**{"length": 8} | settings)


def test_foreign_mass_by_counts(toy, tokenizer):
    """With a shared vocabulary, tokens count that occur in language 2 in more than 99 % of the cases."""
    tokenizer.clones = 0
    model = toy.model(tokenizer.size, 1)
    head = np.zeros((tokenizer.size, 1))
    head[50] = np.log(3.0)
    params = toy.params(np.ones((tokenizer.size, 1)), head)
    german = [[50] * 200 + [51] * 98, [52] * 2]
    stores = [toy.store([[20, 51] * 2, [52]], split="train"), toy.store(german, "de", "train"), toy.store(TEXT)]
    corpus = toy.corpus(tokenizer, stores)
    rows = ForeignMass(length=8, batch=4).rows(ProbedRun(model.bind(params), corpus, 0))
    assert toy.value(rows, "mass", language="de") == pytest.approx(3 / (tokenizer.size + 2), rel=1e-5)
