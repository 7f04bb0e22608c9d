"""Every language against every other one at one level."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin

from xalign_jax.evaluation.measures.mexa import mexa
from xalign_jax.evaluation.measures.retrieval import retrieval
from xalign_jax.evaluation.parallel.measure import Measure, Together, Value, one_level
from xalign_jax.interfaces import Column
from xalign_jax.recipe import at_least_one, one_of, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Matrix(Measure):
    """Retrieval or MEXA between every two languages at one level; rows are named "de->fr".

    Both need the same sentences in every language. MEXA is the same in both directions.

    Attributes:
      score: "mexa", or a score of `measures.retrieval`: "absolute" (cosine), "ratio", "distance", "csls".
      level: None = the level nearest to two thirds of the way up.
      k: neighbours of a margin.
    """

    name: ClassVar[str] = "matrix"
    title: ClassVar[str] = "Language by language"
    by_level: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    meaning: ClassVar[str] = "The same figure between every two languages at one level."
    columns: ClassVar[Mapping[str, Column]] = {"accuracy": Column("accuracy"), "mexa": Column("MEXA")}
    controls: ClassVar[tuple[str, ...]] = ("untrained",)

    score: str = "absolute"
    level: int | None = None
    k: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "k")
        within(self, "[0, inf)", "level")
        one_of(self, "score", ("mexa", "absolute", "ratio", "distance", "csls"))

    def together(self, languages: Together) -> Iterator[Value]:
        """Two values for every two languages."""
        level = one_level(languages.levels(self.pooling), self.level)
        for first, second in itertools.combinations(languages.vectors, 2):
            a, b = (languages.vectors[name][self.pooling][level] for name in (first, second))
            ways = f"{first}->{second}", f"{second}->{first}"
            if self.score == "mexa":
                same = mexa(a, b)
                yield from (Value("mexa", same.score, same.n, level, same.hits, way) for way in ways)
                continue
            texts = {"source_texts": languages.texts[first], "target_texts": languages.texts[second]}
            found = retrieval(a, b, score=self.score, k=self.k, **texts)
            for way, value, hits in zip(
                ways, (found.forward, found.backward), (found.forward_hits, found.backward_hits), strict=True
            ):
                yield Value("accuracy", value, len(hits), level, hits, way)
