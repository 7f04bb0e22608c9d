"""Bilingual lexicon induction: is a gold translation among the best-scored words of the whole target vocabulary?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import csls, neighbours

SCORES = ("csls", "cosine")


class Induction(NamedTuple):
    """Precision of an induced lexicon.

    Attributes:
      precision: {k: P@k}, the share of asked words with a gold translation among the k best; any one counts.
      hits: {k: (asked,) bool}, for a bootstrap.
      coverage: share of the dictionary's source words that were asked. Words without a pair in both vocabularies are
        skipped (artetxem/vecmap, `eval_translation.py`).
      asked: source words asked.
      identical: pairs of equal strings; they were left out or kept, as told.
    """

    precision: dict[int, float]
    hits: dict[int, np.ndarray]
    coverage: float
    asked: int
    identical: int


def lexicon_induction(
    source: np.ndarray,
    target: np.ndarray,
    source_words: Sequence[str],
    target_words: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    at: Sequence[int] = (1, 5, 10),
    score: str = "csls",
    hood: int = 10,
    keep_identical: bool = True,
) -> Induction:
    """P@k by CSLS or cosine, searched over the whole target vocabulary.

    Args:
      source, target: (S,D) and (T,D) vectors of both vocabularies in one space.
      source_words, target_words: (S,) and (T,) their words. The first of equal words counts.
      pairs: gold (source word, target word), several to a word if it has several translations. The words of a map's
        training dictionary must not be among them.
      at: the values of k.
      score: "csls" or "cosine".
      hood: neighbours in CSLS's r, taken over both whole vocabularies.
      keep_identical: False leaves out pairs of equal strings, such as names.

    Raises:
      UserError: no pair has both words in the vocabularies, words and vectors differ in number, the widths differ, or a
        number is not finite.
    """
    checked.choice("lexicon_induction", "score", score, SCORES)
    source = checked.matrix("lexicon_induction", "source", source)
    target = checked.matrix("lexicon_induction", "target", target)
    source_row = _rows("source_words", source_words, len(source))
    target_row = _rows("target_words", target_words, len(target))
    if not at:
        checked.refuse("lexicon_induction", "at names no k")
    checked.between("lexicon_induction", "the smallest k", min(at), 1)
    gold: dict[str, set[int]] = {}
    for word, translation in pairs:
        if keep_identical or word != translation:
            gold.setdefault(word, set()).update({target_row[translation]} if translation in target_row else ())
    asked = [word for word, rows in gold.items() if rows and word in source_row]
    if not asked:
        checked.refuse("lexicon_induction", f"none of {len(pairs)} pairs has both words in the vocabularies")
    queries = source[[source_row[word] for word in asked]]
    if score == "csls":
        found = csls(queries, target, max(at), hood=hood, sources=source).indices
    else:
        found = neighbours(queries, target, max(at)).indices
    # (asked, k) bool: this candidate is a gold translation.
    right = np.asarray([[candidate in gold[w] for candidate in row] for w, row in zip(asked, found, strict=True)])
    hits = {k: np.any(right[:, :k], axis=1) for k in at}
    identical = sum(word == translation for word, translation in pairs)
    precision = {k: float(hit.mean()) for k, hit in hits.items()}
    return Induction(precision, hits, len(asked) / len(gold), len(asked), identical)


def _rows(name: str, words: Sequence[str], rows: int) -> dict[str, int]:
    """Word -> its first row."""
    if len(words) != rows:
        checked.refuse("lexicon_induction", f"{name} has {len(words)} words for {rows} vectors")
    found: dict[str, int] = {}
    for row, word in enumerate(words):
        found.setdefault(word, row)
    return found
