"""How good links are: precision, recall, F1 and alignment error rate, and whether probabilities are calibrated.

Counts are summed over a corpus, not averaged over sentences. S are the sure gold links, P the sure and the possible
ones, A the links that are judged (Och and Ney 2003).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

Link = tuple[int, int]


def counts(links: Collection[Link], sure: Collection[Link], possible: Collection[Link]) -> np.ndarray:
    """(4,) int64 of one sentence pair: |A|, |S|, |A and S|, |A and P|. Sure links count as possible too."""
    hypothesis, gold = set(links), set(sure)
    return np.array(
        [len(hypothesis), len(gold), len(hypothesis & gold), len(hypothesis & (gold | set(possible)))], np.int64
    )


class Scores(NamedTuple):
    """Precision |A and P| / |A|, recall |A and S| / |S|, F1 and AER = 1 - (|A and S| + |A and P|) / (|A| + |S|)."""

    precision: float
    recall: float
    f1: float
    aer: float


def scores(total: np.ndarray) -> Scores:
    """Scores of summed `counts` (4,) or of several sums (...,4): arrays (...) then.

    Without a link, precision and F1 are 0 and AER is 1. Without a sure gold link, recall is 0.
    """
    links, sure, in_sure, in_possible = np.moveaxis(np.asarray(total, np.float64), -1, 0)
    precision, recall = in_possible / np.maximum(links, 1), in_sure / np.maximum(sure, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Scores(precision, recall, f1, 1 - (in_sure + in_possible) / np.maximum(links + sure, 1))


def interval(sentences: np.ndarray, draws: int = 1000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """(2, 4) float64: lower and upper bounds of `Scores` by a bootstrap over sentences.

    Args:
      sentences: (n, 4) `counts` of each sentence pair.
    """
    n = len(sentences)
    # (draws, n) how often each sentence is drawn -> (draws, 4) sums -> (4, draws) scores.
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    found = np.stack(scores(drawn @ sentences))
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=1)


class Calibration(NamedTuple):
    """How raw link probabilities p become calibrated ones: sigmoid(slope * logit(p) + intercept) (Platt 1999).

    Attributes:
      fitted: the model, level, method and texts that it was fitted with, for the user. It does not carry to others.
    """

    slope: float
    intercept: float
    fitted: str = ""

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of any shape."""
        return 1 / (1 + np.exp(-(self.slope * _logit(probability) + self.intercept)))


RAW = Calibration(1.0, 0.0)  # changes nothing


def fit_calibration(probability: np.ndarray, correct: np.ndarray) -> Calibration:
    """The calibration of highest likelihood, by Newton's method.

    Args:
      probability: (n,) raw probabilities of links.
      correct: (n,) bool, whether each is a gold link.
    """
    # (n, 2) features; a weak prior of precision 1e-3 keeps the solution finite where all links are correct.
    features = np.stack([_logit(probability), np.ones(len(probability))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (correct - p) - 1e-3 * weights
        curvature = (features * (p * (1 - p))[:, None]).T @ features + 1e-3 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, gradient)
    return Calibration(float(weights[0]), float(weights[1]))


def calibration_error(probability: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean |share of correct links - mean probability| over equal bins, by their sizes."""
    bin_of = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    # (bins,) sums of both; their difference times 1/n is each bin's share times its difference of means.
    difference = np.bincount(bin_of, correct, bins) - np.bincount(bin_of, probability, bins)
    return float(np.abs(difference).sum() / max(len(bin_of), 1))


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)
