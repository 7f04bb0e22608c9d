"""Static vectors of words from the states of a model: the mean over a word's occurrences in a text.

An occurrence has the mean state of its tokens at one level. So Bommasani et al. 2020 (ACL) aggregate states. X2Static
(Gupta and Jaggi 2021) trains vectors instead, which is not done here.

Shapes: N words, T tokens of a text, D the model's width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want, capture
from xalign_jax.evaluation.inputs.texts import ReadText, TextReader
from xalign_jax.evaluation.loaded import LoadedModel


class StaticVectors(NamedTuple):
    """N words, the most frequent first, their vectors (N,D) float32, and how often each was read (N,) int64."""

    words: list[str]
    vectors: np.ndarray
    counts: np.ndarray


def static_vectors(
    model: LoadedModel, texts: Sequence[str], level: int, least_count: int = 5, most: int = 100_000, name: str = "texts"
) -> StaticVectors:
    """The static vectors of the words of texts. The vocabulary says where words begin; punctuation is no word.

    Args:
      level: whose states are averaged.
      least_count: rarer words are left out.
      most: words that are kept, the most frequent ones.
      name: what messages call the texts, such as the path of a file.

    Raises:
      UserError: the level does not exist, the model has maps, a text is empty, or no word is so frequent.
    """
    if model.maps is not None:
        raise UserError("static vectors are of a model without maps; map the vectors instead (alignment.fitting)")
    want = Want((level,), tokens=True)
    want.check(model.model)
    reader = TextReader(model.tokenizer, model.frame, model.model.max_length)
    read = reader.read(texts)
    found = Counter(word for text in read for word, _ in occurrences(text))
    chosen = [word for word, n in sorted(found.items(), key=lambda item: (-item[1], item[0])) if n >= least_count][
        :most
    ]
    if not chosen:
        raise UserError(
            f"{name}: no word is read {least_count} times or more; give more text, or a smaller --least_count"
        )
    place = {word: n for n, word in enumerate(chosen)}
    sums = np.zeros((len(chosen), model.model.width))
    with model.on_devices():
        for part in capture(model.model, [text.ids for text in read], want, reader.around):
            for number, states in zip(part.numbers.tolist(), part.tokens, strict=True):
                for word, tokens in occurrences(read[number]):
                    if word in place:
                        sums[place[word]] += states[level][tokens].mean(0, dtype=np.float64)
    counts = np.array([found[word] for word in chosen], np.int64)
    return StaticVectors(chosen, (sums / counts[:, None]).astype(np.float32), counts)


def occurrences(text: ReadText) -> Iterator[tuple[str, slice]]:
    """The words of a text that have a letter or a digit, with the places of their tokens."""
    # Tokens of a word stand side by side. The frame has the word -1.
    begins = np.flatnonzero(np.diff(text.words, prepend=-2))
    for first, last in zip(begins, [*begins[1:], len(text.words)], strict=True):
        word = text.text[text.spans[first, 0] : text.spans[last - 1, 1]]
        if text.own[first] and any(map(str.isalnum, word)) and not any(map(str.isspace, word)):
            yield word, slice(int(first), int(last))
