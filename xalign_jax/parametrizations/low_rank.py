"""Low-rank updates of matrices: LoRA (Hu et al. 2022, arXiv 2106.09685, section 4.1).

    W = W0 + alpha / rank * A B        W, W0 (n, m), A (n, rank), B (rank, m)

The paper writes B A, with vectors as columns; here vectors are rows.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import TYPE_CHECKING, NamedTuple

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Parametrization, Tree
from xalign_jax.parametrizations.base import leaves, map_paths, paths
from xalign_jax.parametrizations.selection import check_patterns, matches, require_matches
from xalign_jax.recipe import at_least_one, freeze, within

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LowRank(Parametrization):
    """A and B train, and W0 stays. The heads of objectives train in full.

    A starts as N(0, 1/n) and B as 0, so that the first step sees the unchanged model. Checkpoints and exports hold W.
    There is nothing to merge afterwards.

    Attributes:
      rank: the same for every matrix.
      alpha: scale of the update; with alpha = rank, W = W0 + A B.
      patterns: regular expressions, searched for in paths of matrices such as "model/layers/attention/query". "$" keeps out
        biases, whose paths go on ("query_bias"). Each of the stacked layers has its own A and B.
    """

    rank: int = 8
    alpha: float = 16.0
    patterns: tuple = ("attention/query$", "attention/value$")

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "rank")
        check_patterns(self, "patterns")
        within(self, "(0, inf)", "alpha")

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The coordinates of a model; `corpus` is not read.

        Raises:
          UserError: a pattern matches no parameter, or one that is no matrix of a layer, or the rank exceeds a matrix.
        """
        # Shapes and axes by path. Nothing is computed.
        shapes = {"model": model.shapes}
        require_matches("LowRank.patterns", self.patterns, paths(shapes))
        axes = dict(leaves({"model": model.logical_axes()}))
        adapted = {
            path: _Matrix.of(path, array.shape, axes[path]) for path, array in leaves(shapes) if self._adapts(path)
        }
        for path, matrix in adapted.items():
            # A product A B of such a rank could be any matrix, with more numbers than the matrix itself.
            if self.rank > min(matrix.size):
                n, m = matrix.size
                raise UserError(f"LowRank.rank = {self.rank}: larger than {path}, a matrix of {n} x {m}")
        return _LowRank(self, adapted)

    def _adapts(self, path: str) -> bool:
        """Whether the parameter has a low-rank update."""
        return matches(self.patterns, path)


class _Matrix(NamedTuple):
    """How an array (*stack, *inputs, *outputs) is a stack of matrices (n, m).

    Attention's arrays have several axes on one side. A query projection (layers, width, heads, head_dim) has the stack
    (layers,), the inputs (width,) and the outputs (heads, head_dim): n = width and m = heads * head_dim.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str | None, ...]

    @classmethod
    def of(cls, path: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> _Matrix:
        """The matrices of a parameter of this shape and these logical axes.

        Raises:
          UserError: the parameter is a vector or a table.
        """
        # One side of every matrix of a layer is the model's width: the axis "embed". The other axes are the other side.
        first = int(axes[0] == "layers")
        if len(axes) - first < 2 or "vocab" in axes or "embed" not in (axes[first], axes[-1]):
            raise UserError(
                f"LowRank.patterns: {path} {tuple(shape)} is no matrix of a layer; name matrices alone, as 'query$' does"
            )
        # The width is the input of most matrices, and the output of those that lead back to the residual stream.
        border = first + 1 if axes[first] == "embed" else len(axes) - 1
        return cls(tuple(shape[:first]), tuple(shape[first:border]), tuple(shape[border:]), axes)

    @property
    def size(self) -> tuple[int, int]:
        """(n, m) of one matrix."""
        return math.prod(self.inputs), math.prod(self.outputs)

    def product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """A B in the parameter's shape, from A (*stack, *inputs, rank) and B (*stack, rank, *outputs)."""
        # (*stack,n,rank) x (*stack,rank,m) -> (*stack,n,m) -> (*stack,*inputs,*outputs).
        (n, m), rank = self.size, a.shape[-1]
        flat = a.reshape(*self.stack, n, rank) @ b.reshape(*self.stack, rank, m)
        return flat.reshape(*self.stack, *self.inputs, *self.outputs)

    def factor_axes(self) -> dict[str, tuple[str | None, ...]]:
        """Logical axes of A and B: those of W, and None for the rank, which is too small to be divided."""
        stack, border = len(self.stack), len(self.stack) + len(self.inputs)
        return {"a": (*self.axes[:border], None), "b": (*self.axes[:stack], None, *self.axes[border:])}


class _LowRank(Coordinates):
    """free = {"factors": {path: {"a": A, "b": B}}, "heads": ...}, fixed = {"model": ...} with W0 at adapted paths."""

    def __init__(self, config: LowRank, adapted: dict[str, _Matrix]) -> None:
        self._config, self._adapted = config, adapted

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        factors = {}
        for path, matrix in self._adapted.items():
            # A's numbers depend on the path alone, not on which other matrices are adapted.
            key = jax.random.fold_in(rng, zlib.crc32(path.encode()))
            shape = (*matrix.stack, *matrix.inputs, self._config.rank)
            # A has the deviation 1 / sqrt(n), so that x A is about as large as x. B = 0 makes A B = 0.
            a = jax.random.normal(key, shape, jnp.float32) * matrix.size[0] ** -0.5
            b = jnp.zeros((*matrix.stack, self._config.rank, *matrix.outputs), jnp.float32)
            factors[path] = {"a": a, "b": b}
        return {"factors": factors, "heads": params["heads"]}, {"model": params["model"]}

    def params(self, free: Tree, fixed: Tree) -> Tree:
        # Each step computes W in full. The gradients of A and B follow from W's, so no model has to know about factors.
        scale = self._config.alpha / self._config.rank

        def merged(path: str, weight: jax.Array) -> jax.Array:
            matrix = self._adapted.get(path)
            return weight if matrix is None else weight + scale * matrix.product(**free["factors"][path])

        return map_paths(merged, {"model": fixed["model"]}) | {"heads": free["heads"]}

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        factors = {path: matrix.factor_axes() for path, matrix in self._adapted.items()}
        return {"factors": factors, "heads": axes["heads"]}, {"model": axes["model"]}

    def hidden(self, free: Tree, fixed: Tree) -> dict[str, Tree]:
        # The parameters of a checkpoint show W alone, from which neither A, B nor W0 can be recovered.
        base = {path: weight for path, weight in leaves({"model": fixed["model"]}) if path in self._adapted}
        return {"factors": free["factors"], "base": base}

    def resume(self, params: Tree, hidden: dict[str, Tree]) -> tuple[Tree, Tree]:
        # Put W0 back in the place of W.
        fixed = map_paths(lambda path, weight: hidden["base"].get(path, weight), {"model": params["model"]})
        # Heads are free, and the parameters show them as they are.
        return {"factors": hidden["factors"], "heads": params["heads"]}, fixed
