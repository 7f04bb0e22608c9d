"""The average log-probability of text under a vocabulary, and the search for a size."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.data.vocabulary_sizes import average_log_probability, lines, tried
from xalign_jax.errors import UserError


@pytest.fixture(scope="module")
def texts():
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghij"), 5)) for _ in range(60)]
    return [" ".join(random.choice(words, 8)) for _ in range(200)]


def plain(texts, size):
    """UniBridge's formula, word for word, on the pieces of a vocabulary of that size."""
    pieces = SentencePieces(train_sentencepiece(texts, size, "unigram", False)).encode(texts)
    counts = Counter(piece for line in pieces for piece in line)
    total = sum(counts.values())
    return sum(math.log(counts[piece] / total) for line in pieces for piece in line) / len(texts), total / len(texts)


def test_it_is_the_mean_log_probability_of_lines(texts):
    found = list(tried(texts, Vocabulary(), (290, 320), 0.0))
    for one, size in zip(found, (290, 320), strict=True):
        np.testing.assert_allclose(one[1:], plain(texts, size), rtol=1e-9)
    assert found[0].log_probability < found[1].log_probability and found[0].tokens > found[1].tokens
    # Two tokens of probability 1/4, one of 1/2; a line has the mean of two.
    np.testing.assert_allclose(average_log_probability([np.array([7, 7]), np.array([3, 9])]), 3 * math.log(0.5))


def test_the_search_ends_with_the_first_size_that_gains_little(texts):
    sizes = (290, 320, 321, 340)
    found = list(tried(texts, Vocabulary(), sizes, 2.0))
    assert [one.pieces for one in found] == [290, 320, 321]
    assert list(lines(found, 2.0))[-1] == "Vocabulary.size = 321: the first that gains less than 2 nats a line"
    assert "try larger ones" in [*lines(found[:2], 2.0)][-1]
    with pytest.raises(UserError, match=r"Vocabulary\.size = 9000: the text is too small"):
        list(tried(texts, Vocabulary(), (290, 9000), 0.0))


def test_settings_of_the_vocabulary_are_kept(texts):
    upper = [text.upper() for text in texts]
    (low,) = tried(upper, Vocabulary(lowercase=True), (290,), 0.0)
    np.testing.assert_allclose(low[1:], plain(texts, 290), rtol=1e-9)
    (bpe,) = tried(texts, Vocabulary(model_type="bpe", clones=2), (290,), 0.0)
    assert bpe.log_probability != low.log_probability
