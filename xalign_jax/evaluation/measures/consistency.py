"""Whether a model gives the same answers in two languages. N queries, K candidate answers of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked


class Consistency(NamedTuple):
    """Agreement of two languages over N queries.

    Attributes:
      same: share of queries with the same best candidate.
      overlap: queries right in both languages / queries right in at least one; NaN if none is right.
      rank_consistency: RankC, the mean over queries of `rank_consistency`.
      n: queries.
    """

    same: float
    overlap: float
    rank_consistency: float
    n: int


def answer_consistency(first: np.ndarray, second: np.ndarray, right: np.ndarray) -> Consistency:
    """Compare the candidates' scores in two languages.

    Args:
      first, second: (N,K) scores, higher is better. Column k is the same answer in both languages.
      right: (N,) column of the right answer.

    Raises:
      UserError: the tables do not pair, fewer than two candidates, or a right answer that is no column.
    """
    first, second = checked.paired("answer_consistency", first, second, 1)
    right = checked.labels("answer_consistency", "right", right, len(first))
    if ((right < 0) | (right >= first.shape[1])).any():
        checked.refuse("answer_consistency", f"right answers must be columns 0 to {first.shape[1] - 1}")
    best = first.argmax(1), second.argmax(1)
    correct = best[0] == right, best[1] == right
    either = (correct[0] | correct[1]).sum()
    overlap = float((correct[0] & correct[1]).sum() / either) if either else float("nan")
    ranked = float(rank_consistency(first, second).mean())
    return Consistency(float((best[0] == best[1]).mean()), overlap, ranked, len(first))


def rank_consistency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """RankC of each query, (N,): sum_j w_j P@j, with P@j = |top j of both languages| / j and w_j = e^-j / sum_i e^-i.

    Qi et al. 2023 (arXiv 2310.10378) and its released code (Betswish/Cross-Lingual-Consistency, `RankC.py`, weight
    "softmax"). j = 1..K. Equal scores rank in the order of their columns.

    Args:
      first, second: (N,K) scores as in `answer_consistency`.

    Raises:
      UserError: the tables do not pair, or fewer than two candidates.
    """
    first, second = checked.paired("rank_consistency", first, second, 1)
    k = first.shape[1]
    if k < 2:
        checked.refuse("rank_consistency", "one candidate is always first; at least two are needed")
    # (N,K) rank of each candidate in each language, from 0.
    ranks = [np.argsort(np.argsort(-side, axis=1, kind="stable"), axis=1) for side in (first, second)]
    # A candidate is in the top j of both from its larger rank on: count these ranks, and add up.
    shared = np.zeros(first.shape)
    np.add.at(shared, (np.arange(len(first))[:, None], np.maximum(*ranks)), 1)
    places = np.arange(1, k + 1)
    weights = np.exp(-places.astype(np.float64))
    return (shared.cumsum(1) / places) @ (weights / weights.sum())
