"""Maps of several languages (or models) into one space: fitted on one set, applied to another, saved and loaded.

`centring` is the baseline that costs nothing: print it beside every other map. Fit and score on different words or
sentences. Everything is float64 on the host.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.linear_maps import canonical, least_squares, procrustes, ridge
from xalign_jax.alignment.neighbours import unit
from xalign_jax.errors import UserError

META = ("average", "concatenate", "svd")
WORD_MAP = "word_map"  # the head of a run that holds trained maps, by `level_name`


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """v -> (v - centre) @ weight; with `scaled`, v is first divided by its length.

    Attributes:
      weight: (D,E) float64.
      centre: (D,) float64.
      scaled: whether vectors are scaled to length 1 first.
    """

    weight: np.ndarray
    centre: np.ndarray
    scaled: bool = False

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(...,D) -> (...,E) float64.

        Raises:
          UserError: the vectors have another width than those on which the map was fitted.
        """
        vectors = np.asarray(vectors, np.float64)
        if vectors.shape[-1] != len(self.centre):
            checked.refuse(
                "map", f"the vectors have width {vectors.shape[-1]}, the map was fitted on {len(self.centre)}"
            )
        return ((unit(vectors) if self.scaled else vectors) - self.centre) @ self.weight


Pair = tuple[LinearMap, LinearMap]


def level_name(level: int) -> str:
    """The name of a level's map in a head."""
    return f"level_{level}"


def centring(source: np.ndarray, target: np.ndarray) -> Pair:
    """The baseline: each language's mean is subtracted, and nothing is rotated.

    Args:
      source, target: (N,D) and (M,D). Rows need not pair.

    Raises:
      UserError: a side is empty, or a number is not finite.
    """
    sides = (checked.matrix("centring", name, side) for name, side in (("source", source), ("target", target)))
    first, second = (LinearMap(np.eye(side.shape[1]), np.asarray(side, np.float64).mean(0)) for side in sides)
    return first, second


def rotation(source: np.ndarray, target: np.ndarray, *, centred: bool = True) -> Pair:
    """Orthogonal Procrustes of unit vectors: the source is centred and rotated, the target is centred.

    Args:
      source, target: (N,D); row i of one translates row i of the other.
      centred: subtract each side's mean.

    Raises:
      UserError: the sides do not pair, fewer pairs than dimensions, or a number is not finite. With fewer pairs the
        rotation is arbitrary in the directions that no pair shows.
    """
    source, target = checked.paired("rotation", source, target)
    _enough("rotation", source, "or fit regression with a ridge")
    x, y, first, second = _prepared(source, target, centred)
    weight = procrustes(unit(x), unit(y))
    return dataclasses.replace(first, weight=weight), second


def regression(source: np.ndarray, target: np.ndarray, *, strength: float = 0.0, centred: bool = True) -> Pair:
    """Least squares from source to target; the target is only centred. INCLINE's map is that of `centred` = False.

    Args:
      source, target: (N,D) and (N,E) pairs.
      strength: of the ridge. 0 takes the solution of least norm, which is defined for fewer pairs than dimensions too.
      centred: subtract each side's mean.

    Raises:
      UserError: the sides do not pair, a negative ridge, or a number is not finite.
    """
    source, target = checked.paired("regression", source, target, one_space=False)
    checked.between("regression", "strength", strength, 0)
    x, y, first, second = _prepared(source, target, centred)
    weight = ridge(x, y, strength) if strength else least_squares(x, y)
    return dataclasses.replace(first, weight=weight), second


def canonical_maps(
    source: np.ndarray, target: np.ndarray, *, dimensions: int | None = None, power: float = 0.0
) -> Pair:
    """CCA: both sides are centred and mapped to their canonical directions (Faruqui and Dyer 2014, EACL).

    Args:
      source, target: (N,D) and (N,E) pairs.
      dimensions: canonical directions that are kept, from the most correlated on; None keeps all.
      power: directions are multiplied by their correlation to this power; 0 counts all alike.

    Raises:
      UserError: the sides do not pair, no more pairs than dimensions, dependent columns, or a number is not finite.
    """
    source, target = checked.paired("canonical_maps", source, target, one_space=False)
    for side in (source, target):
        _enough("canonical_maps", side, "or drop dimensions", more=1)
    x, y, first, second = _prepared(source, target, True)
    for name, side in (("source", x), ("target", y)):
        rank = int(np.linalg.matrix_rank(side))
        if rank < side.shape[1]:
            checked.refuse("canonical_maps", f"{name} has width {side.shape[1]} but only {rank} independent columns")
    left, right, correlations = canonical(x, y)
    kept = len(correlations) if dimensions is None else dimensions
    checked.between("canonical_maps", "dimensions", kept, 1, len(correlations))
    weights = correlations[:kept] ** power
    return (
        dataclasses.replace(first, weight=left[:, :kept] * weights),
        dataclasses.replace(second, weight=right[:, :kept] * weights),
    )


def meta_embedding(
    sets: Sequence[np.ndarray], *, kind: str = "average", dimensions: int | None = None
) -> list[LinearMap]:
    """One map for each of several models. The sum of the mapped vectors of a word is its meta-embedding (`summed`).

    All sets are scaled to unit vectors and centred first. Then each kind joins them in its own way.
    - "average" rotates every set to the first one by Procrustes and takes the mean. Coates and Bollegala 2018 (arXiv
      1804.05262) take the mean without a rotation.
    - "concatenate" puts the sets side by side.
    - "svd" keeps the first principal directions of these rows (Yin and Schütze 2016, arXiv 1508.04257).

    Args:
      sets: M arrays (N,D_m); row i of all is the same word. "average" needs equal widths.
      kind: one of META.
      dimensions: width of "svd".

    Raises:
      UserError: fewer than two sets, sets that do not pair, or too few rows for the dimensions.
    """
    checked.choice("meta_embedding", "kind", kind, META)
    if len(sets) < 2:
        checked.refuse("meta_embedding", f"{len(sets)} sets; at least two are needed")
    for other in sets[1:]:
        checked.paired("meta_embedding", sets[0], other, one_space=kind == "average")
    units = [unit(np.asarray(side, np.float64)) for side in sets]
    centres = [side.mean(0) for side in units]
    inputs = [side - centre for side, centre in zip(units, centres, strict=True)]
    if kind == "average":
        weights = [procrustes(side, inputs[0]) / len(sets) for side in inputs]
    else:
        # Rows of the identity place a set beside the others; rows of V also turn it to the principal directions.
        joined = np.hstack(inputs)
        basis = np.eye(joined.shape[1])
        if kind == "svd":
            if dimensions is None:
                checked.refuse("meta_embedding", "kind = 'svd' needs dimensions")
            checked.between("meta_embedding", "dimensions", dimensions, 1, min(joined.shape))
            basis = np.linalg.svd(joined, full_matrices=False)[2][:dimensions].T
        weights = np.split(basis, np.cumsum([side.shape[1] for side in inputs])[:-1])
    return [LinearMap(weight, centre, True) for weight, centre in zip(weights, centres, strict=True)]


def summed(maps: Sequence[LinearMap], sets: Sequence[np.ndarray]) -> np.ndarray:
    """Meta-embeddings (N,E): the sum over models of map_m(set_m), for words seen in the fit or not."""
    return np.sum([fitted(side) for fitted, side in zip(maps, sets, strict=True)], axis=0)


def save_maps(path: str | Path, maps: Mapping[str, LinearMap]) -> None:
    """Write maps by name (a language, or a model) to an npz file."""
    arrays = {}
    for name, fitted in maps.items():
        for field in dataclasses.fields(LinearMap):
            arrays[f"{field.name}:{name}"] = getattr(fitted, field.name)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_maps(path: str | Path) -> dict[str, LinearMap]:
    """Read what `save_maps` wrote.

    Raises:
      UserError: the file is missing, damaged or no file of maps.
    """
    try:
        with np.load(path) as arrays:
            names = [key.partition(":")[2] for key in arrays if key.startswith("weight:")]
            found = {
                name: LinearMap(arrays[f"weight:{name}"], arrays[f"centre:{name}"], bool(arrays[f"scaled:{name}"]))
                for name in names
            }
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; fit the maps and save them first") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        raise UserError(f"{path}: not a file of maps, or a damaged one; fit the maps and save them again") from None
    if not found:
        raise UserError(f"{path}: holds no maps; fit the maps and save them again")
    return found


def _prepared(
    source: np.ndarray, target: np.ndarray, centred: bool
) -> tuple[np.ndarray, np.ndarray, LinearMap, LinearMap]:
    """Both sides in float64 without their centres, and the maps that only centre."""
    sides = [np.asarray(side, np.float64) for side in (source, target)]
    first, second = (
        LinearMap(np.eye(side.shape[1]), side.mean(0) if centred else np.zeros(side.shape[1])) for side in sides
    )
    return sides[0] - first.centre, sides[1] - second.centre, first, second


def _enough(caller: str, side: np.ndarray, otherwise: str, more: int = 0) -> None:
    rows, width = side.shape
    if rows < width + more:
        checked.refuse(caller, f"{rows} pairs for {width} dimensions; give at least {width + more}, {otherwise}")
