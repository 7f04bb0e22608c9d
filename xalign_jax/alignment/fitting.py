"""Maps of several languages into one space, by the name of a method. The first language is the pivot.

Shapes: K languages, N_l vectors of language l, P pairs, D the width. Everything is float64 on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.barycentre import barycentre
from xalign_jax.alignment.maps import LinearMap, canonical_maps, centring, regression, rotation
from xalign_jax.alignment.neighbours import unit
from xalign_jax.alignment.self_learning import self_learning

# Methods whose maps lead into the pivot's space, and methods with a space of their own.
INTO_PIVOT = ("centring", "procrustes", "least_squares", "ridge", "trained")
OF_TWO = ("cca", "vecmap", "trained")  # methods for one pair of languages
OWN_SPACE = ("cca", "vecmap", "barycentre")
METHODS = (*INTO_PIVOT, *OWN_SPACE)
ENTROPY = 0.02  # of a barycentre, in units of the mean squared distance of two vectors
POINTS = 1000  # the most points of a barycentre
LEAST_DIRECTION = 1e-5  # of the largest singular value; smaller ones are rounding of float32 states


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fit maps.

    Attributes:
      name: one of METHODS. `maps`, `self_learning` and `barycentre` describe them.
      strength: of "ridge", in units of the mean squared singular value of the centred source.
      dimensions: canonical directions that "cca" keeps; None = all.
      keep, patience: of "vecmap" (`self_learning`). VecMap starts with keep = 0.1 and 50 rounds of patience, to leave
        poor seeds. Here the pairs are good, and on small vocabularies such a start forgets them.
      seed: of "vecmap".
      weight: of "trained": W (D,D) float64, which maps the second language to the pivot as it stands, by v W.
    """

    name: str
    strength: float = 0.1
    dimensions: int | None = None
    keep: float = 1.0
    patience: int = 5
    seed: int = 0
    weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        checked.choice("maps", "method", self.name, METHODS)
        if (self.name == "trained") != (self.weight is not None):
            checked.refuse("maps", "the method 'trained' needs a weight, and no other method takes one")


def fit_maps(
    vectors: Mapping[str, np.ndarray], method: Method, pairs: np.ndarray | None = None
) -> dict[str, LinearMap]:
    """A map of each language into one space.

    Args:
      vectors: (N_l,D) of each language, the pivot first.
      pairs: (P,K) rows that translate each other; None = row i of all languages does.

    Raises:
      UserError: fewer than two languages, too few pairs for the method, or a number that is not finite. Methods for one
        pair of languages (OF_TWO) refuse a third one.
    """
    pivot, *others = vectors
    if not others:
        checked.refuse("maps", f"one language ({pivot}); at least two are needed")
    if len(others) > 1 and method.name in OF_TWO:
        checked.refuse("maps", f"{method.name} is for a pair of languages alone; fit {pivot} and one other language")
    if pairs is None:
        rows = [checked.matrix("maps", name, side) for name, side in vectors.items()]
        if len({len(side) for side in rows}) > 1:
            checked.refuse("maps", f"{[len(side) for side in rows]} rows; row i of all languages must translate row i")
        paired = dict(zip(vectors, rows, strict=True))
    else:
        paired = {name: np.asarray(side)[pairs[:, k]] for k, (name, side) in enumerate(vectors.items())}
    if method.name == "vecmap":
        seeds = np.stack([np.arange(len(paired[pivot]))] * 2, axis=1) if pairs is None else pairs
        (other,) = others
        learnt = self_learning(
            vectors[other],
            vectors[pivot],
            seeds[:, ::-1],
            seed=method.seed,
            keep=method.keep,
            patience=method.patience,
        )
        return {pivot: learnt.target, other: learnt.source}
    if method.name == "barycentre":
        start = {name: rotation(paired[name], paired[pivot])[0].weight for name in others}
        support = _support(vectors[pivot])
        # The entropy is measured by the distances there: states of a model lie close together.
        epsilon = max(1e-6, ENTROPY * 2 * float(np.square(support).sum(1).mean()))
        start[pivot] = np.eye(support.shape[1])
        return barycentre(vectors, start, support=support, epsilon=epsilon).maps
    maps = {name: _pair(paired[name], paired[pivot], method) for name in others}
    # Each fit gives the pivot the same map: it has the same vectors in all of them.
    return {pivot: maps[others[0]][1], **{name: pair[0] for name, pair in maps.items()}}


def _pair(source: np.ndarray, target: np.ndarray, method: Method) -> tuple[LinearMap, LinearMap]:
    """The maps of a language and of the pivot."""
    if method.name == "centring":
        return centring(source, target)
    if method.name == "procrustes":
        return rotation(source, target)
    if method.name == "cca":
        return _canonical(source, target, method.dimensions)
    if method.weight is not None:
        return _trained(source, target, method.weight)
    strength = 0.0
    if method.name == "ridge":
        checked.between("maps", "strength", method.strength, 0)
        strength = method.strength * float(np.var(np.asarray(source, np.float64), axis=0).mean()) * len(source)
    return regression(source, target, strength=strength)


def _trained(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[LinearMap, LinearMap]:
    """The maps whose results, with the pivot's mean added again, are v W and v."""
    pivot = centring(source, target)[1]
    if weight.shape != pivot.weight.shape:
        checked.refuse(
            "maps", f"the trained map has the shape {weight.shape}, the vectors have width {len(pivot.centre)}"
        )
    # (v - c) W = v W - mean, so c W = mean.
    return LinearMap(weight, np.linalg.solve(weight.T, pivot.centre)), pivot


def _canonical(source: np.ndarray, target: np.ndarray, dimensions: int | None) -> tuple[LinearMap, LinearMap]:
    """CCA within the directions that the vectors have.

    States after a layer norm lie in a plane. In the direction across it, their float32 values hold rounding alone. CCA
    would scale that direction to the size of all others.
    """
    sides = [np.asarray(side, np.float64) for side in checked.paired("cca", source, target, one_space=False)]
    bases = []
    for side in sides:
        if len(side) <= side.shape[1]:
            checked.refuse(
                "cca", f"{len(side)} pairs for {side.shape[1]} dimensions; give at least {side.shape[1] + 1}"
            )
        _, values, axes = np.linalg.svd(side - side.mean(0), full_matrices=False)
        bases.append(axes[values > LEAST_DIRECTION * values[0]].T)
    reduced = [side @ basis for side, basis in zip(sides, bases, strict=True)]
    pairs = canonical_maps(*reduced, dimensions=dimensions)
    first, second = (
        LinearMap(basis @ fitted.weight, side.mean(0)) for basis, fitted, side in zip(bases, pairs, sides, strict=True)
    )
    return first, second


def _support(pivot: np.ndarray) -> np.ndarray:
    """(n,D) first points of a barycentre: the pivot's first vectors, of length 1 and centred."""
    scaled = unit(np.asarray(checked.matrix("maps", "pivot", pivot), np.float64))
    return (scaled - scaled.mean(0))[:POINTS]
