"""Share of texts whose best-scored candidate in the other language is their translation.

Shapes: N pairs, D the width; row i of the source translates row i of the target. Accuracies are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import MARGINS, Neighbours, by_margin, csls, neighbours

Texts = Sequence[str] | np.ndarray


class Retrieval(NamedTuple):
    """Both directions of retrieval.

    Attributes:
      forward: accuracy from source to target.
      backward: accuracy from target to source.
      forward_hits, backward_hits: (N,) bool, for a bootstrap.
      duplicates: how many texts of the source and of the target repeat an earlier one; 0 where no texts were given.
    """

    forward: float
    backward: float
    forward_hits: np.ndarray
    backward_hits: np.ndarray
    duplicates: tuple[int, int]


def hits(best: np.ndarray, texts: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(Q,) bool: the best candidate has the text of the right one. Equal texts are equally right.

    Args:
      best: (Q,) row of each query's best candidate.
      texts: (C,) text, hash or number of each candidate.
      right: (Q,) text, hash or number of each query's right answer.
    """
    return texts[best] == right


def retrieval(
    source: np.ndarray,
    target: np.ndarray,
    *,
    score: str = "absolute",
    k: int = 4,
    source_texts: Texts | None = None,
    target_texts: Texts | None = None,
) -> Retrieval:
    """acc(A->B) = (1/N) #{i : argmax_j score(x_i, y_j) = i}, in both directions; chance is 1/N.

    Args:
      source, target: (N,D) vectors of any length.
      score: "absolute" is the cosine. "ratio" and "distance" order the k nearest by their margin. "csls" orders all.
      k: neighbours of each side in r_k: 4 for mining, 10 for lexicons. The cosine ignores it.
      source_texts, target_texts: (N,) texts or hashes. A candidate with the text of the right one counts as right.

    Raises:
      UserError: the sides do not pair, fewer than two pairs, or a number is not finite.
    """
    source, target = checked.paired("retrieval", source, target)
    checked.choice("retrieval", "score", score, MARGINS)
    texts = [_numbers(name, given, len(source)) for name, given in (("source", source_texts), ("target", target_texts))]
    near = _best(source, target, score, k)
    # The candidates of a direction are the other side's texts.
    forward, backward = (hits(side.indices[:, 0], own, own) for side, own in zip(near, texts[::-1], strict=True))
    duplicates = len(source) - len(np.unique(texts[0])), len(target) - len(np.unique(texts[1]))
    return Retrieval(float(forward.mean()), float(backward.mean()), forward, backward, duplicates)


def xsim(
    source: np.ndarray, target: np.ndarray, *, score: str = "ratio", k: int = 4, target_texts: Texts | None = None
) -> float:
    """xsim error in percent, 100 wrong / N from source to target; lower is better (LASER, `source/xsim.py`).

    A margin orders the k nearest candidates of each source only. A wrong candidate with the right one's text counts as
    right. Arguments and errors are those of `retrieval`.
    """
    source, target = checked.paired("xsim", source, target)
    texts = _numbers("target", target_texts, len(target))
    best = _best(source, target, score, k)[0].indices[:, 0]
    return 100 * float(np.mean(~hits(best, texts, texts)))


def _best(source: np.ndarray, target: np.ndarray, score: str, k: int) -> tuple[Neighbours, Neighbours]:
    """The best candidates of each source and of each target, best first."""
    if score == "csls":
        return csls(source, target, hood=k), csls(target, source, hood=k)
    most = 1 if score == "absolute" else k
    forward, backward = neighbours(source, target, most), neighbours(target, source, most)
    return by_margin(forward, backward, score), by_margin(backward, forward, score)


def _numbers(side: str, texts: Texts | None, rows: int) -> np.ndarray:
    """(N,) integers that are equal where texts are; 0..N-1 without texts."""
    if texts is None:
        return np.arange(rows)
    return np.unique(checked.labels("retrieval", f"{side}_texts", np.asarray(texts), rows), return_inverse=True)[1]
