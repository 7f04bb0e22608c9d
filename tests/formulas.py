"""The published formulas once more, as plain loops over float64 numbers: what the library's array code must equal.

Sources: XlCo, InfoXLM (arXiv 2007.07834); word alignment, XLM-Align (2106.06381); itermax, SimAlign (2004.08728); ranking
with a margin, LaBSE (2007.01852); SO and CO, awesome-align (2101.08231); ratio margin (1811.01136); AdamW (1711.05101);
splitmix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def softmax(scores: Sequence[float]) -> list[float]:
    high = max(scores)
    powers = [math.exp(score - high) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def surprisal(scores: Sequence[float], target: int) -> float:
    """-log softmax(scores)[target]."""
    high = max(scores)
    return math.log(math.fsum(math.exp(score - high) for score in scores)) + high - scores[target]


def contrast(
    query: Any, key: Any, ids: Any, key_ids: Any, t: float, queue: Any, queue_ids: Any, shift: float, own: bool
):
    """The sum over pairs (a, p) of one item of -log softmax over candidates, with its gradients and counts.

    `ids` are (own, groups, texts) of each row. `shift` is taken from the logits of positives; `own`: queries are the keys,
    and row i is no candidate of query i. Returns loss, d_query, d_key, pairs, anchors, anchors whose best is a positive.
    """
    d_query, d_key = np.zeros_like(query), np.zeros_like(key)
    loss, pairs, anchors, correct = 0.0, 0, 0, 0
    for a, (item, groups, texts) in enumerate(ids):
        there = [j for j, (other, _, _) in enumerate(key_ids) if item != -1 and other != -1 and not (own and j == a)]
        positives = [j for j in there if item >= 0 and key_ids[j][0] == item]
        # Texts of the query's item, wherever they stand among the keys.
        known = {*texts}.union(*(key_ids[j][2] for j in range(len(key_ids)) if item >= 0 and key_ids[j][0] == item))
        negatives = [
            j
            for j in there
            if j not in positives and not known & {*key_ids[j][2]} and not {*groups} - {-1} & {*key_ids[j][1]}
        ]
        past = [
            j
            for j, (other, their_groups, their_texts) in enumerate(queue_ids)
            if other != -1 and not {*texts} & {*their_texts} and not {*groups} - {-1} & {*their_groups}
        ]
        if not positives:
            continue
        vectors = [key[j] for j in positives + negatives] + [queue[j] for j in past]
        plain = [dot(query[a], vector) / t for vector in vectors]
        scores = [score - shift if n < len(positives) else score for n, score in enumerate(plain)]
        shares = softmax(scores)
        anchors += 1
        correct += max(plain[: len(positives)]) > max(plain[len(positives) :], default=-math.inf)
        for n, p in enumerate(positives):
            pairs += 1
            loss += surprisal(scores, n)
            d_query[a] += (sum(s * v for s, v in zip(shares, vectors, strict=True)) - key[p]) / t
            d_key[p] -= query[a] / t
            for share, j in zip(shares, positives + negatives, strict=False):
                d_key[j] += share * query[a] / t
    return loss, d_query, d_key, pairs, anchors, correct


def normalised(similarity: Any, clamp: bool) -> tuple[np.ndarray, np.ndarray]:
    """XLM-Align's two rounds: every column by its sum (xi), then every row by its sum (pi)."""
    s = [[1e-6 if clamp and value <= 0 else float(value) for value in row] for row in similarity]
    xi = s
    for _ in range(2):
        sums = [math.fsum(row[j] for row in s) for j in range(len(s[0]))]
        xi = [[value / sums[j] for j, value in enumerate(row)] for row in s]
        s = [[value / math.fsum(row) for value in row] for row in xi]
    return np.array(s), np.array(xi)


def mutual(by_rows: Any, by_columns: Any) -> set[tuple[int, int]]:
    """(i, j): j is the first best of row i, i the first best of column j."""
    columns = list(zip(*by_columns, strict=True))
    best = [max(range(len(row)), key=lambda j, row=row: (row[j], -j)) for row in by_rows]
    back = [max(range(len(column)), key=lambda i, column=column: (column[i], -i)) for column in columns]
    return {(i, j) for i, j in enumerate(best) if back[j] == i}


def itermax_twice(s: Any) -> set[tuple[int, int]]:
    """Mutual best; then once more where row or column is free: 0.9 of the similarity where one is, none where neither."""
    links = mutual(s, s)
    rows, columns = {i for i, _ in links}, {j for _, j in links}
    weight = [[(1.0, 0.9, 0.0)[(i in rows) + (j in columns)] for j in range(len(s[0]))] for i in range(len(s))]
    damped = [[value * weight[i][j] for j, value in enumerate(row)] for i, row in enumerate(s)]
    if len(rows) == len(s) or len(columns) == len(s[0]):
        return links
    return links | {(i, j) for i, j in mutual(damped, damped) if weight[i][j]}


def ratio_margins(cosines: Any, k: int) -> np.ndarray:
    """cos(x, y) over half the sum of the means of both sides' k nearest."""
    found = np.zeros_like(cosines)
    for i in range(cosines.shape[0]):
        for j in range(cosines.shape[1]):
            forward = sorted(cosines[i], reverse=True)[:k]
            backward = sorted(cosines[:, j], reverse=True)[:k]
            found[i, j] = cosines[i, j] / ((sum(forward) / len(forward) + sum(backward) / len(backward)) / 2)
    return found


def ngram_cosine(a: str, b: str) -> float:
    """The cosine of how often each run of two to four characters occurs; a space stands before and after a text."""
    texts = [f" {' '.join(text.casefold().split())} " for text in (a, b)]
    grams = [[text[i : i + n] for n in (2, 3, 4) for i in range(len(text) - n + 1)] for text in texts]
    every = sorted({*grams[0], *grams[1]})
    return cosine(*([side.count(gram) for gram in every] for side in grams))


def adamw(
    params: Any, gradients: Any, decayed: Any, rates: Any, b1: float, b2: float, eps: float, wd: float, clip: float
):
    """Parameters (lists of arrays) after steps of AdamW with clipping by the global norm."""
    params = [np.array(p, np.float64) for p in params]
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for step, (at_step, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = math.sqrt(math.fsum(float(x) ** 2 for g in at_step for x in np.ravel(g)))
        for i, g in enumerate(at_step):
            g = g * min(1.0, clip / norm)
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            direction = (m[i] / (1 - b1**step)) / (np.sqrt(v[i] / (1 - b2**step)) + eps)
            params[i] = params[i] - rate * (direction + (wd * params[i] if decayed[i] else 0.0))
    return params


def splitmix(*parts: int | str) -> int:
    """The parts by splitmix64, in Python's own integers."""
    state = 0
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = ((state ^ (number % 2**64)) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state


def permuted(index: int, size: int, seed: int) -> int:
    """A rotation, then six Feistel rounds on a rectangle of about sqrt(size), walked on until the image is inside."""
    high = math.isqrt(size - 1) + 1 if size > 1 else 1
    low = -(-size // high)
    value = (index + (splitmix(seed, "rotate") >> 33)) % size
    while True:
        left, right = divmod(value, low)
        for step in range(6):
            if step % 2:
                right = (right + (splitmix(seed, step, left) >> 33)) % low
            else:
                left = (left + (splitmix(seed, step, right) >> 33)) % high
        value = left * low + right
        if value < size:
            return value
