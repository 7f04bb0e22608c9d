"""Pieces that translate each other: found in a dictionary's words by IBM Model 1 with a prior on the diagonal."""

from __future__ import annotations

import numpy as np

from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.lexicon.lexicon import Concepts, Word, concept_table

_DIAGONAL = 4.0  # tension of the prior, fast_align's default
_ROUNDS = 10


def with_pieces(table: Concepts) -> Concepts:
    """The table, and a concept of its own for every pair of pieces that translate each other more likely than not.

    The words of a concept are a tiny parallel text of pieces: expectation maximisation shares out which piece of a source
    word stands for which of its translation, pieces at like places more readily (Dyer et al., 2013). A pair counts if
    either piece means the other with a probability above one half, by models of both directions; so no piece has two
    partners. Pieces that are words of the table themselves keep their own concepts; a piece of both languages that stands
    for itself needs none. A piece may be a held-out word; its translation is then inferred from longer words that are not
    held out. Pieces are spelt by their numbers.
    """
    words = [
        Word(int(concept), int(language), tuple(table.tokens(w).tolist()), text)
        for w, (concept, language, text) in enumerate(zip(table.concept, table.language, table.words, strict=True))
    ]
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
    """Every piece of a source word with every piece of its translation.

    Returns:
      source, target (n,) piece ids; source_at, target_at (n,) which piece of which pair of words; prior (n,) float64.
    """
    first, words = np.flatnonzero(table.language == 0), np.flatnonzero(table.language == language)
    begin, end = (np.searchsorted(table.concept[first], table.concept[words], side) for side in ("left", "right"))
    target, source = words[np.repeat(np.arange(len(words)), end - begin)], first[ranges(begin, end - begin)]
    sizes = np.diff(table.starts)
    width, count = sizes[target], sizes[source] * sizes[target]
    inside, width = ranges(np.zeros_like(count), count), np.repeat(width, count)
    i, j = inside // width, inside % width
    share = np.abs((i + 0.5) / np.repeat(sizes[source], count) - (j + 0.5) / width)
    return {
        "source": table.ids[np.repeat(table.starts[source], count) + i],
        "target": table.ids[np.repeat(table.starts[target], count) + j],
        "source_at": np.repeat(np.cumsum(sizes[source]) - sizes[source], count) + i,
        "target_at": np.repeat(np.cumsum(sizes[target]) - sizes[target], count) + j,
        "prior": np.exp(-_DIAGONAL * share),
    }


def _pairs(links: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (source piece, target piece) that are likelier than not in both directions, sorted."""
    pairs, link = np.unique(np.stack([links["source"], links["target"]], 1), axis=0, return_inverse=True)
    link = link.reshape(-1)
    forth = _model1(pairs[:, 0], link, links["target_at"], links["prior"])
    back = _model1(pairs[:, 1], link, links["source_at"], links["prior"])
    return [(int(s), int(t)) for s, t in pairs[(forth > 0.5) & (back > 0.5)]]


def _model1(given: np.ndarray, link: np.ndarray, place: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(P,) probability of each pair's other piece given one of them.

    Args:
      given: (P,) the piece each pair is conditioned on.   link: (n,) the pair of each link.
      place: (n,) the place that the links of one piece to be explained share.   prior: (n,) their weights.
    """
    _, given = np.unique(given, return_inverse=True)
    probability = np.ones(len(given))
    for _ in range(_ROUNDS):
        weight = prior * probability[link]
        weight /= np.bincount(place, weight)[place]
        count = np.bincount(link, weight, len(given))
        probability = count / np.bincount(given, count)[given]
    return probability
