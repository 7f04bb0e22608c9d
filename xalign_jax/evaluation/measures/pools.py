"""Retrieval from a pool in which all languages are mixed, as in LAReQA (Roy et al. 2020, arXiv 2004.05484).

The definitions follow the paper as we know it; they were not compared with its code. Shapes: Q queries, A answers, D the
width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import unit

SCORES_AT_ONCE = 2**24  # cosines that are held together, 64 MiB


class Pool(NamedTuple):
    """Retrieval of the right answers in all languages.

    Attributes:
      average_precision: (Q,); its mean is mAP.
      mean_average_precision: in [0, 1].
      same_language_bias: share of queries whose best answer, right or wrong, is in their own language.
      expected_bias: the mean share of the pool that is in the query's language: the bias of an unbiased model.
    """

    average_precision: np.ndarray
    mean_average_precision: float
    same_language_bias: float
    expected_bias: float


def pool_retrieval(
    queries: np.ndarray,
    answers: np.ndarray,
    query_group: np.ndarray,
    answer_group: np.ndarray,
    query_language: np.ndarray,
    answer_language: np.ndarray,
) -> Pool:
    """mAP = mean over queries of (1/|R|) sum_{r in R} precision at the rank of r, answers in order of their cosine.

    R are the answers of the query's group, one in each language. A wrong answer in the query's language that is nearer
    than a right one in another language costs precision, so mAP tests whether language is ignored. Among equal cosines
    the answer of lower index comes first. Memory is bounded.

    Args:
      queries, answers: (Q,D) and (A,D) vectors.
      query_group, answer_group: (Q,) and (A,) labels; equal labels mean a right answer.
      query_language, answer_language: (Q,) and (A,) labels.

    Raises:
      UserError: the widths differ, a query without a right answer, labels of another length, or a number that is not
        finite.
    """
    queries = checked.matrix("pool_retrieval", "queries", queries)
    answers = checked.matrix("pool_retrieval", "answers", answers, 2)
    if queries.shape[1] != answers.shape[1]:
        checked.refuse("pool_retrieval", f"queries have width {queries.shape[1]}, answers {answers.shape[1]}")
    groups = _numbers("group", query_group, answer_group, len(queries), len(answers))
    languages = _numbers("language", query_language, answer_language, len(queries), len(answers))
    lonely = ~np.isin(groups[0], groups[1])
    if lonely.any():
        checked.refuse("pool_retrieval", f"query {int(np.argmax(lonely))} has no right answer in the pool")
    precision, top = [], []
    pool = jnp.asarray(unit(np.asarray(answers, np.float32)))
    rows = max(1, min(len(queries), SCORES_AT_ONCE // len(answers)))
    for start in range(0, len(queries), rows):
        # Blocks of equal size: one compilation. Past the end, the last query is repeated and dropped again.
        place = np.minimum(np.arange(start, start + rows), len(queries) - 1)
        side = unit(np.asarray(queries[place], np.float32))
        found = _average_precision(side, pool, groups[0][place], groups[1])
        precision.append(np.asarray(found[0])[: len(queries) - start])
        top.append(np.asarray(found[1])[: len(queries) - start])
    average, first = np.concatenate(precision), np.concatenate(top)
    same = languages[1][first] == languages[0]
    share = np.bincount(languages[1], minlength=languages[0].max() + 1) / len(answers)
    return Pool(average, float(average.mean(dtype=np.float64)), float(same.mean()), float(share[languages[0]].mean()))


@jax.jit
def _average_precision(
    queries: jax.Array, answers: jax.Array, query_group: jax.Array, answer_group: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(q,) average precision and (q,) the best answer, for unit vectors (q,D) and (A,D)."""
    # (q,D) x (A,D) -> (q,A), then answers in descending order; the sort is stable.
    scores = jnp.matmul(queries, answers.T, precision=jax.lax.Precision.HIGHEST)
    order = jnp.argsort(-scores, axis=1, stable=True)
    right = answer_group[order] == query_group[:, None]
    precision = jnp.cumsum(right, axis=1) / jnp.arange(1, right.shape[1] + 1)
    return jnp.sum(jnp.where(right, precision, 0.0), axis=1) / jnp.sum(right, axis=1), order[:, 0]


def _numbers(
    name: str, queries: np.ndarray, answers: np.ndarray, query_count: int, answer_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both sides as int32 numbers that are equal where the labels are."""
    first = checked.labels("pool_retrieval", f"query_{name}", queries, query_count)
    second = checked.labels("pool_retrieval", f"answer_{name}", answers, answer_count)
    numbers = np.unique(np.concatenate([first, second]), return_inverse=True)[1].astype(np.int32)
    return numbers[:query_count], numbers[query_count:]
