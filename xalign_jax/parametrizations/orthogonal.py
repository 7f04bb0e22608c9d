"""Train matrices that stay nearly orthogonal, such as a map between the words of two languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Tree
from xalign_jax.matrix_product import product
from xalign_jax.parametrizations.selection import Selected, Selection
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Orthogonal(Selection):
    """Only the selected matrices train. After each update, they take a step towards orthogonal ones.

    The step is W <- (1 + beta) W - beta W W^T W (Cisse et al. 2017, arXiv 1704.08847; Conneau et al. 2018, arXiv
    1710.04087). With beta = 0.01, singular values below 10 come nearer to 1. Larger ones change their sign and may grow.

    Attributes:
      patterns: as of Selection; arrays of two axes.
      beta: the size of the step; 0 = none.
    """

    patterns: tuple = ("heads/word_map",)
    beta: float = 0.01

    def __post_init__(self) -> None:
        freeze(self)
        super().__post_init__()
        within(self, "[0, 0.5]", "beta")

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The partition, as of Selection. Its `after_update` raises UserError for what is no matrix."""
        return _Orthogonal(self.patterns, self.beta)


class _Orthogonal(Selected):
    """A partition by patterns with a step after each update."""

    def __init__(self, patterns: Sequence[str], beta: float) -> None:
        super().__init__(patterns)
        self._beta = beta

    def after_update(self, free: Tree, rate: jax.Array) -> Tree:
        return jax.tree.map(lambda weight: nearer_to_orthogonal(weight, self._beta), free)


def nearer_to_orthogonal(weight: jax.Array, beta: float) -> jax.Array:
    """(1 + beta) W - beta W W^T W for W (D,E).

    Raises:
      UserError: W has another number of axes.
    """
    if weight.ndim != 2:
        raise UserError(f"Orthogonal.patterns: an array of shape {weight.shape} is no matrix; select matrices alone")
    inner = product(weight, weight, "tn", precision=jax.lax.Precision.HIGHEST)
    return (1 + beta) * weight - beta * jnp.matmul(weight, inner, precision="highest")
