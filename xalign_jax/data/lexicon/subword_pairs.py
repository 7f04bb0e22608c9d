"""Pieces that translate each other, found in a dictionary's words by IBM Model 1 with a prior on the diagonal."""

from __future__ import annotations

import numpy as np

from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.lexicon.lexicon import Concepts, Word, concept_table

_DIAGONAL = 4.0  # tension of the prior, fast_align's default
_ROUNDS = 10  # of expectation maximisation


def with_pieces(table: Concepts) -> Concepts:
    """The table, and a new concept for every pair of pieces that translate each other.

    The words of a concept are a tiny parallel text of pieces. Expectation maximisation estimates which piece of a
    source word stands for which piece of its translation. Pieces at similar places are preferred (Dyer et al., 2013).

    A pair counts if a model of each direction gives it a probability above one half, so no piece has two partners.
    There is no new concept for a piece that is itself a word of the table, or for a piece that stands for itself. A
    piece may be a held-out word: its translation is then inferred from longer words that are not held out. The spelling
    of a piece in the table is its number.
    """
    words = [
        Word(int(concept), int(language), tuple(table.tokens(w).tolist()), text)
        for w, (concept, language, text) in enumerate(zip(table.concept, table.language, table.words, strict=True))
    ]
    # Number the new concepts from the table's last one on.
    known = {(word.language, word.ids) for word in words}
    concept = 1 + max(word.concept for word in words)
    for language in sorted({word.language for word in words} - {0}):
        for source, target in _pairs(_links(table, language)):
            pieces = Word(concept, 0, (source,), str(source)), Word(concept, language, (target,), str(target))
            if source != target and not known & {(piece.language, piece.ids) for piece in pieces}:
                words += pieces
                concept += 1
    return concept_table(words, table.languages)


def _links(table: Concepts, language: int) -> dict[str, np.ndarray]:
    """Every piece of every source word with every piece of each of its translations into `language`: n links.

    Returns:
      source, target: (n,) int32 piece ids.
      source_at, target_at: (n,) int64, which piece it is, counted over the pieces of all pairs of words.
      prior: (n,) float64, higher for pieces at similar places in their words.
    """
    # (T,) words of the target language; concept's source words [begin, end) -> (P,) pairs of words of one concept.
    first, words = np.flatnonzero(table.language == 0), np.flatnonzero(table.language == language)
    begin, end = (np.searchsorted(table.concept[first], table.concept[words], side) for side in ("left", "right"))
    target, source = words[np.repeat(np.arange(len(words)), end - begin)], first[ranges(begin, end - begin)]
    # (P,) pairs -> (n,) links: link `inside` of a pair is piece i of the source word, piece j of the target word.
    sizes = np.diff(table.starts)
    width, count = sizes[target], sizes[source] * sizes[target]
    inside, width = ranges(np.zeros_like(count), count), np.repeat(width, count)
    i, j = inside // width, inside % width
    # Distance of the two pieces' middles, as fractions of their words.
    share = np.abs((i + 0.5) / np.repeat(sizes[source], count) - (j + 0.5) / width)
    return {
        "source": table.ids[np.repeat(table.starts[source], count) + i],
        "target": table.ids[np.repeat(table.starts[target], count) + j],
        "source_at": np.repeat(np.cumsum(sizes[source]) - sizes[source], count) + i,
        "target_at": np.repeat(np.cumsum(sizes[target]) - sizes[target], count) + j,
        "prior": np.exp(-_DIAGONAL * share),
    }


def _pairs(links: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Sorted pairs (source piece, target piece) with a probability above one half in both directions."""
    # (n,) links -> (P, 2) distinct pairs of pieces; link (n,): the pair of each link.
    pairs, link = np.unique(np.stack([links["source"], links["target"]], 1), axis=0, return_inverse=True)
    link = link.reshape(-1)
    forth = _model1(pairs[:, 0], link, links["target_at"], links["prior"])
    back = _model1(pairs[:, 1], link, links["source_at"], links["prior"])
    return [(int(s), int(t)) for s, t in pairs[(forth > 0.5) & (back > 0.5)]]


def _model1(given: np.ndarray, link: np.ndarray, place: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(P,) float64: for each pair, the probability of one piece given the other.

    Args:
      given: (P,) the piece that each pair is conditioned on.
      link: (n,) int64, the pair of each link.
      place: (n,) int64, equal for the links that compete to explain one piece.
      prior: (n,) float64, weights of the links.
    """
    _, given = np.unique(given, return_inverse=True)
    probability = np.ones(len(given))
    for _ in range(_ROUNDS):
        # Expectation: the links of one piece share it by prior times probability, (n,).
        weight = prior * probability[link]
        weight /= np.bincount(place, weight)[place]
        # Maximisation: expected counts of the pairs, (P,), normalised over the pairs with the same given piece.
        count = np.bincount(link, weight, len(given))
        probability = count / np.bincount(given, count)[given]
    return probability
