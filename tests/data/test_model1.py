"""IBM Model 1 finds a planted dictionary, whatever the text's batches are."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.data.lexicon import model1
from xalign_jax.data.lexicon.model1 import bare, estimate, near_diagonal, within_cells

WORDS = 30


@pytest.fixture(scope="module")
def text():
    """300 sentence pairs in which word aK stands for bK, in another order; and the links."""
    rng = np.random.default_rng(0)
    pairs, links = [], []
    for _ in range(300):
        words = rng.choice(WORDS, rng.integers(3, 9), replace=False)
        order = rng.permutation(len(words))
        pairs.append(([f"a{w}" for w in words], [f"B{w}" for w in words[order]]))
        links.append({(int(i), j) for j, i in enumerate(order)})
    return pairs, links


def _plain(pairs, rounds):
    """p(target | source) of Model 1 with an empty word, pair by pair."""
    table = {}
    for _ in range(rounds):
        counts = {}
        for source, target in pairs:
            for t in target:
                weights = {s: (1 - 0.08) / len(source) * table.get((s, t), 1.0 if not table else 0.0) for s in source}
                weights[None] = 0.08 * table.get((None, t), 1.0 if not table else 0.0)
                total = sum(weights.values())
                for s, weight in weights.items():
                    counts[s, t] = counts.get((s, t), 0.0) + weight / total
        sums = {}
        for (s, _), count in counts.items():
            sums[s] = sums.get(s, 0.0) + count
        table = {(s, t): count / sums[s] for (s, t), count in counts.items()}
    return table


def test_probabilities_are_those_of_its_definition(text):
    pairs = [([w.casefold() for w in source], [w.casefold() for w in target]) for source, target in text[0][:40]]
    model, wanted = estimate(lambda: pairs, rounds=3), _plain(pairs, rounds=3)
    found = {}
    sources, targets = ({number: word for word, number in table.items()} for table in (model.source, model.target))
    for key, probability in zip(model.keys.tolist(), model.backward, strict=True):
        found[sources[key // model.width], targets[key % model.width]] = probability
    common = [pair for pair in wanted if pair[0] is not None and wanted[pair] > 1e-4]
    assert len(common) > 100
    np.testing.assert_allclose([found[pair] for pair in common], [wanted[pair] for pair in common], rtol=1e-3)


def test_a_planted_dictionary_is_found(text, monkeypatch):
    pairs, links = text
    model = estimate(lambda: pairs)
    monkeypatch.setattr(model1, "_CELLS", 200)
    small = estimate(lambda: pairs)
    # Batches of another size give the same probabilities.
    np.testing.assert_array_equal(model.keys, small.keys)
    np.testing.assert_allclose(model.forward, small.forward, rtol=1e-9)
    right = 0
    for pair, gold in zip(pairs, links, strict=True):
        found = model.posteriors(model.batch([pair]))
        right += {(i, int(j)) for i, j in enumerate(found.forward[0].argmax(1))} == gold
        assert found.forward[0].sum(1).max() <= 1 + 1e-9 and found.backward[0].sum(0).max() <= 1 + 1e-9
    assert right == len(pairs)


def test_unknown_and_missing_words_have_no_probability(text):
    model = estimate(lambda: text[0])
    found = model.posteriors(model.batch([(["new", "a1"], ["b1"]), ([], ["b1"])]))
    assert found.forward.shape == (2, 2, 1)
    assert found.forward[0, 0, 0] == 0 < found.forward[0, 1, 0] and not found.forward[1].any()
    empty = estimate(lambda: [([], ["b"])])
    assert len(empty.keys) == 0


def test_nearness_is_highest_on_the_diagonal():
    near = near_diagonal(np.ones((1, 4), bool), np.array([[True] * 4 + [False] * 2]), tension=4.0)
    assert (near[0, :, :4].argmax(1) == np.arange(4)).all() and not near[0, :, 4:].any()
    assert (near_diagonal(np.ones((1, 2), bool), np.ones((1, 3), bool), tension=0.0) == 1).all()


def test_batches_hold_every_pair_once_within_their_size(monkeypatch):
    monkeypatch.setattr(model1, "_CELLS", 50)
    pairs = [(["a"] * m, ["b"] * n) for m, n in ((2, 3), (9, 9), (1, 1), (5, 5), (4, 4))]
    found = list(within_cells(pairs))
    assert sorted(number for held in found for number in held) == list(range(5)) and len(found) > 1
    for held in found:
        m, n = (max(len(pairs[number][side]) for number in held) for side in (0, 1))
        assert len(held) == 1 or len(held) * m * n <= 50


def test_words_are_compared_without_case_and_punctuation_at_their_ends():
    assert [bare(word) for word in ("Haus,", "«Maus»", "U.S.", "...", "(e-Mail)", "3.5")] == [
        *("haus", "maus", "u.s", "...", "e-mail", "3.5")
    ]
