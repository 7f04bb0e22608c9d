"""Whether clusters of sentences hold both languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures.clusters import colap, concepts
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value
from xalign_jax.interfaces import Column
from xalign_jax.recipe import within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Concepts(Measure):
    """COLAP by level: the share of clusters of both languages' sentences in which each language has its share.

    The published measure clusters words (`measures.clusters`); this one clusters sentences. `random` is COLAP of the
    same clusters with languages in random order: the value of a model that ignores language. Memory is (2n)^2.

    Attributes:
      size: mean number of sentences in a cluster.
      share: the share of a cluster that each language must have.
    """

    name: ClassVar[str] = "concepts"
    title: ClassVar[str] = "Clusters that two languages share"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = "Share of clusters of sentences that hold both languages."
    columns: ClassVar[Mapping[str, Column]] = {
        "colap": Column("COLAP", headline=True),
        "random": Column("COLAP of random languages", best=""),
    }
    # Clusters do not know which sentences translate each other.
    controls: ClassVar[tuple[str, ...]] = ("untrained",)

    size: int = 10
    share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "[2, inf)", "size")
        within(self, "(0, 0.5]", "share")

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Two values a level."""
        n = len(sides.source_texts)
        if 2 * n < 2 * self.size:
            raise UserError(f"concepts: {2 * n} sentences make no two clusters of {self.size}; give more sentences")
        language = np.repeat([0, 1], n)
        random = np.random.default_rng(sides.seed).permutation(language)
        for level, source, target in sides.levels(self.pooling):
            numbers = concepts(np.concatenate([source, target]), 2 * n // self.size)
            for metric, of in (("colap", language), ("random", random)):
                found = colap(numbers, of, share=self.share)
                yield Value(metric, found.score, len(found.hits), level, units=found.hits)
