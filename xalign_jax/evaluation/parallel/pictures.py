"""Measures that draw: a map of sentence vectors, and distributions of cosines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.alignment.neighbours import unit
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Together, Value, one_level
from xalign_jax.interfaces import Column
from xalign_jax.recipe import at_least_one, within
from xalign_jax.records.pictures import Histogram, Points

BINS = 50


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SentenceMap(Measure):
    """A picture of sentence vectors in two dimensions, translations joined by their number.

    Vectors of length 1 lose their common mean, and are projected on the two directions of largest variance. `explained`
    is the share of variance along these directions: where it is small, the picture shows little.

    Attributes:
      level: None = the level nearest to two thirds of the way up.
      points: the most sentences of each language.
    """

    name: ClassVar[str] = "sentence_map"
    title: ClassVar[str] = "Map of sentence vectors"
    by_level: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    meaning: ClassVar[str] = "Sentence vectors drawn in two dimensions: translations should lie together."
    columns: ClassVar[Mapping[str, Column]] = {"explained": Column("variance explained by two directions", best="")}
    controls: ClassVar[tuple[str, ...]] = ()

    level: int | None = None
    points: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "points")
        within(self, "[0, inf)", "level")

    def together(self, languages: Together) -> Iterator[Value]:
        """Show the map; its one value says how much of the variance it shows."""
        level = one_level(languages.levels(self.pooling), self.level)
        sides = {name: own[self.pooling][level][: self.points] for name, own in languages.vectors.items()}
        vectors = unit(np.concatenate(list(sides.values())).astype(np.float64))
        # (points, 2) coordinates along the two first singular directions.
        left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        x, y = (left[:, :2] * values[:2]).T
        n = len(next(iter(sides.values())))
        languages.show(
            Points(
                self.title,
                f"level {level}, {self.pooling} pooling, n = {n} sentences in {len(sides)} languages",
                [float(one) for one in x],
                [float(one) for one in y],
                [name for name in sides for _ in range(n)],
                [*range(n)] * len(sides),
            )
        )
        power = values**2
        yield Value("explained", float(power[:2].sum() / power.sum()) if power.sum() else 0.0, len(vectors), level)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Cosines(Measure):
    """A picture of the cosines of translations, and of each sentence with the translation of one far away.

    `overlap` is the area that both distributions share: 1 where translations do not stand out, 0 where all do.

    Attributes:
      level: None = the level nearest to two thirds of the way up.
    """

    name: ClassVar[str] = "cosines"
    title: ClassVar[str] = "Cosines of translations"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = "How far the cosines of translations overlap with those of other sentences."
    columns: ClassVar[Mapping[str, Column]] = {
        "overlap": Column("overlap with others (lower is better)", best="lowest")
    }
    controls: ClassVar[tuple[str, ...]] = ("untrained",)

    level: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "[0, inf)", "level")

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Show the distributions; the value is their overlap."""
        level = one_level(sides.source[self.pooling], self.level)
        source, target = (unit(side[self.pooling][level].astype(np.float64)) for side in (sides.source, sides.target))
        found = {
            "translations": (source * target).sum(1),
            "others": (source * np.roll(target, -(len(target) // 2), axis=0)).sum(1),
        }
        everything = np.concatenate(list(found.values()))
        # Bins lie between the smallest and the largest cosine. Rounding must not leave a cosine outside.
        edges = np.linspace(everything.min() - 1e-6, everything.max() + 1e-6, BINS + 1)
        counts = {name: np.histogram(cosines, edges)[0] for name, cosines in found.items()}
        n = len(source)
        sides.show(
            Histogram(
                f"{self.title}, {' and '.join(sides.languages)}",
                f"level {level}, {self.pooling} pooling, n = {n} sentences",
                [float(edge) for edge in edges],
                {name: [int(count) for count in own] for name, own in counts.items()},
            )
        )
        yield Value("overlap", float(np.minimum(*counts.values()).sum() / n), n, level)
