"""How near translations lie, how evenly sentences are spread, and how far translations stand out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.alignment.neighbours import unit
from xalign_jax.evaluation.measures.geometry import alignment, gap, uniformity
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value
from xalign_jax.interfaces import Column


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Geometry(Measure):
    """Alignment, uniformity, gap, d' and AUC of cosines by level (`measures.geometry`).

    A model that maps all texts to one point has perfect alignment and uniformity 0, so read them together. Raw cosines
    depend on how narrow the space is: d' and AUC do not. Work is N^2 D a level.
    """

    name: ClassVar[str] = "geometry"
    title: ClassVar[str] = "Geometry of sentence vectors"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "Where translations lie on the unit sphere: how near to each other, and how far from other sentences."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "alignment": Column("alignment (lower is closer)", best="lowest"),
        "uniformity": Column("uniformity of the language (lower is more even)", best="lowest"),
        "matched": Column("cosine of translations", best=""),
        "mismatched": Column("cosine of others", best=""),
        "gap": Column("gap"),
        "d_prime": Column("d'"),
        "auc": Column("AUC", headline=True),
    }

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Seven values a level."""
        for level, source, target in sides.levels(self.pooling):
            found, n = gap(source, target), len(source)
            # (N,) cosines of translations: both means over them have intervals.
            cosine = (unit(source.astype(np.float64)) * unit(target.astype(np.float64))).sum(1)
            yield Value("alignment", alignment(source, target), n, level, units=2 - 2 * cosine)
            yield Value("uniformity", uniformity(target), n, level)
            yield Value("matched", found.matched, n, level, units=cosine)
            for metric in ("mismatched", "gap", "d_prime", "auc"):
                value = getattr(found, metric)
                why = "all cosines of texts that are no translations are equal" if math.isnan(value) else None
                yield Value(metric, value, n, level, reason=why)
