"""Low-rank updates of matrices: LoRA (Hu et al. 2022, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Parametrization
from xalign_jax.parametrizations.base import leaves, map_paths, paths
from xalign_jax.parametrizations.selection import check_patterns, matches, require_matches
from xalign_jax.recipe import at_least_one, freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LowRank(Parametrization):
    """W = W0 + alpha / rank * A B, where A and B train and W0 stays; heads of objectives train in full.

    A (n, rank) starts as N(0, 1/n) and B (rank, m) as 0, so the first step sees the model as it was. W is what
    checkpoints hold as parameters and what exports write: there is nothing to merge afterwards.

    Attributes:
      rank: r, the same for every matrix.
      alpha: scale of the update; alpha = rank leaves A B as it is.
      patterns: regular expressions on paths of matrices ("model/layers/attention/query"); stacked layers have a pair
        (A, B) each.
    """

    rank: int = 8
    alpha: float = 16.0
    patterns: tuple = ("attention/query", "attention/value")

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "rank")
        check_patterns(self, "patterns")
        within(self, "(0, inf)", "alpha")

    def bind(self, model: Any, corpus: Any) -> Coordinates:
        """Raises UserError: a pattern matches nothing or something that is no matrix, or the rank exceeds a matrix."""
        shapes = {"model": model.shapes}
        require_matches("LowRank.patterns", self.patterns, paths(shapes))
        axes = dict(leaves({"model": model.logical_axes()}))
        adapted = {
            path: _Matrix.of(path, array.shape, axes[path]) for path, array in leaves(shapes) if self._adapts(path)
        }
        for path, matrix in adapted.items():
            if self.rank > min(matrix.size):
                n, m = matrix.size
                raise UserError(f"LowRank.rank = {self.rank}: larger than {path}, a matrix of {n} x {m}")
        return _LowRank(self, adapted)

    def _adapts(self, path: str) -> bool:
        return matches(self.patterns, path)


class _Matrix(NamedTuple):
    """How an array (*stack, *inputs, *outputs) is a stack of matrices; attention's have several axes on one side."""

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str | None, ...]

    @classmethod
    def of(cls, path: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> _Matrix:
        """The matrices of a parameter: the side of the model's width has one axis, "embed".

        Raises:
          UserError: the parameter is a vector or a table.
        """
        first = int(axes[0] == "layers")
        if len(axes) - first < 2 or "vocab" in axes or "embed" not in (axes[first], axes[-1]):
            raise UserError(f"LowRank.patterns: {path} {tuple(shape)} is no matrix of a layer; name matrices alone")
        border = first + 1 if axes[first] == "embed" else len(axes) - 1
        return cls(tuple(shape[:first]), tuple(shape[first:border]), tuple(shape[border:]), axes)

    @property
    def size(self) -> tuple[int, int]:
        """(n, m) of one matrix."""
        return math.prod(self.inputs), math.prod(self.outputs)

    def product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """A B in the parameter's shape, from (*stack, *inputs, r) and (*stack, r, *outputs)."""
        (n, m), rank = self.size, a.shape[-1]
        flat = a.reshape(*self.stack, n, rank) @ b.reshape(*self.stack, rank, m)
        return flat.reshape(*self.stack, *self.inputs, *self.outputs)

    def factor_axes(self) -> dict[str, tuple[str | None, ...]]:
        """Logical axes of A and B."""
        stack, border = len(self.stack), len(self.stack) + len(self.inputs)
        return {"a": (*self.axes[:border], None), "b": (*self.axes[:stack], None, *self.axes[border:])}


class _LowRank(Coordinates):
    """free = {"factors": {path: {"a", "b"}}, "heads": ...}; fixed = {"model": ...} with W0 at the adapted paths."""

    def __init__(self, config: LowRank, adapted: dict[str, _Matrix]) -> None:
        self._config, self._adapted = config, adapted

    def split(self, params: Any, rng: jax.Array) -> tuple[Any, Any]:
        factors = {}
        for path, matrix in self._adapted.items():
            key = jax.random.fold_in(rng, zlib.crc32(path.encode()))
            shape = (*matrix.stack, *matrix.inputs, self._config.rank)
            a = jax.random.normal(key, shape, jnp.float32) * matrix.size[0] ** -0.5
            b = jnp.zeros((*matrix.stack, self._config.rank, *matrix.outputs), jnp.float32)
            factors[path] = {"a": a, "b": b}
        return {"factors": factors, "heads": params["heads"]}, {"model": params["model"]}

    def params(self, free: Any, fixed: Any) -> Any:
        scale = self._config.alpha / self._config.rank

        def merged(path: str, weight: jax.Array) -> jax.Array:
            matrix = self._adapted.get(path)
            return weight if matrix is None else weight + scale * matrix.product(**free["factors"][path])

        return map_paths(merged, {"model": fixed["model"]}) | {"heads": free["heads"]}

    def axes(self, axes: Any) -> tuple[Any, Any]:
        factors = {path: matrix.factor_axes() for path, matrix in self._adapted.items()}
        return {"factors": factors, "heads": axes["heads"]}, {"model": axes["model"]}

    def hidden(self, free: Any, fixed: Any) -> dict[str, Any]:
        base = {path: weight for path, weight in leaves({"model": fixed["model"]}) if path in self._adapted}
        return {"factors": free["factors"], "base": base}

    def resume(self, params: Any, hidden: dict[str, Any]) -> tuple[Any, Any]:
        fixed = map_paths(lambda path, weight: hidden["base"].get(path, weight), {"model": params["model"]})
        return {"factors": hidden["factors"], "heads": params["heads"]}, fixed
