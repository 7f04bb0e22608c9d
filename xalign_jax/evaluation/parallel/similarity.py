"""Similarity of two languages' vectors up to a rotation: CKA and SVCCA."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import gin

from xalign_jax.evaluation.measures.similarity import cka, svcca
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value, attempt
from xalign_jax.interfaces import Column
from xalign_jax.recipe import within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Similarity(Measure):
    """Unbiased linear CKA and SVCCA by level (`measures.similarity`).

    Both ignore rotations: two languages may be alike and still lie in different places. So read them beside retrieval.
    SVCCA needs more sentences than dimensions; where there are fewer, its row says so.

    Attributes:
      variance: the share of each side's variance that SVCCA keeps.
    """

    name: ClassVar[str] = "similarity"
    title: ClassVar[str] = "Similarity up to rotation"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "How alike two languages are, up to a rotation. High values do not mean that translations are near."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "cka": Column("CKA, unbiased", headline=True),
        "svcca": Column("SVCCA"),
    }

    variance: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "(0, 1]", "variance")

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Two values a level."""
        for level, source, target in sides.levels(self.pooling):
            yield attempt("cka", partial(cka, source, target), len(source), level)
            yield attempt("svcca", partial(svcca, source, target, variance=self.variance), len(source), level)
