"""Dictionaries from links: source word, target word, how often they are linked, and how probable the translation is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from xalign_jax.data.lexicon.model1 import bare
from xalign_jax.data.text.linked import Pair
from xalign_jax.evaluation.aligning.pairs import Alignment


class Line(NamedTuple):
    """A line of a dictionary.

    Attributes:
      times: how often the two words are linked.
      probability: the share of this target word among all links of the source word.
    """

    source: str
    target: str
    times: int
    probability: float

    def __str__(self) -> str:
        return f"{self.source}\t{self.target}\t{self.times}\t{self.probability:.4f}"


class DictionaryCounts:
    """Counts linked words of sentence pairs. Memory grows with the number of distinct pairs of linked words.

    Words are compared without case and without punctuation at their ends, and written in their most frequent spelling.
    Words without a letter, and words that hold a brace (which dictionaries use for remarks), are left out.
    """

    def __init__(self) -> None:
        # (source, target) without case -> links; and each word without case -> its spellings, for both sides.
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._spellings: tuple[dict[str, Counter[str]], ...] = (defaultdict(Counter), defaultdict(Counter))

    def add(self, pair: Pair, alignment: Alignment) -> None:
        """Count the links of a sentence pair."""
        for i, j in alignment.links:
            words = pair.source[i], pair.target[j]
            folded = bare(words[0]), bare(words[1])
            if all(map(_is_word, folded)):
                self._pairs[folded] += 1
                for spellings, key, word in zip(self._spellings, folded, words, strict=True):
                    spellings[key][_trimmed(word, key)] += 1

    def lines(self, least_count: int = 2, least_probability: float = 0.1) -> Iterator[Line]:
        """Frequent source words first; the translations of one word stand together, the most probable one first.

        Args:
          least_count, least_probability: of a line; others are left out.
        """
        totals: Counter[str] = Counter()
        for (source, _), count in self._pairs.items():
            totals[source] += count
        # Ties are broken by the words, so that the order does not depend on the text's.
        order = sorted(self._pairs.items(), key=lambda item: (-totals[item[0][0]], item[0][0], -item[1], item[0][1]))
        for (source, target), count in order:
            probability = count / totals[source]
            if count >= least_count and probability >= least_probability:
                spelled = [_commonest(side[key]) for side, key in zip(self._spellings, (source, target), strict=True)]
                yield Line(spelled[0], spelled[1], count, probability)


def _commonest(spellings: Counter[str]) -> str:
    """The most frequent spelling, the first in the alphabet of equally frequent ones."""
    return min(spellings, key=lambda word: (-spellings[word], word))


def _trimmed(word: str, key: str) -> str:
    """The word without punctuation at its ends, in its own case. `key` is `bare` of it."""
    start = word.casefold().find(key)
    found = word[start : start + len(key)]
    # Folding case may change a word's length ("ß"): its folded form is taken then.
    return found if found.casefold() == key else key


def _is_word(word: str) -> bool:
    """True for words that a dictionary's file can hold."""
    return any(map(str.isalpha, word)) and not set("{}") & set(word)
