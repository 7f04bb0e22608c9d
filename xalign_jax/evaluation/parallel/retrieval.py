"""Sentence retrieval by level, in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin

from xalign_jax.alignment.neighbours import MARGINS
from xalign_jax.evaluation.measures.retrieval import retrieval
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value
from xalign_jax.interfaces import Column
from xalign_jax.recipe import at_least_one, one_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Retrieval(Measure):
    """Share of sentences whose best candidate is their translation, or has its text (`measures.retrieval`).

    With score = "ratio" and k = 4, 100 (1 - accuracy) is the xsim error of LASER.

    Attributes:
      score: "absolute" (cosine), "ratio" or "distance" (margins), "csls".
      k: neighbours of a margin.
    """

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "Sentence retrieval"
    meaning: ClassVar[str] = "Share of sentences whose nearest sentence of the other language is their translation."
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "accuracy": Column("accuracy", headline=True),
        "duplicates": Column("repeated texts", best=""),
    }

    score: str = "absolute"
    k: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "k")
        one_of(self, "score", MARGINS)

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Two values a level: into the language, and from it. Texts that occur twice are counted, if there are any."""
        pivot, language = sides.languages
        for level, source, target in sides.levels(self.pooling):
            found = retrieval(
                source,
                target,
                score=self.score,
                k=self.k,
                source_texts=sides.source_texts,
                target_texts=sides.target_texts,
            )
            for name, value, units in (
                (f"{pivot}->{language}", found.forward, found.forward_hits),
                (f"{language}->{pivot}", found.backward, found.backward_hits),
            ):
                yield Value("accuracy", value, len(units), level, units, name)
        if repeated := sum(found.duplicates):
            yield Value("duplicates", repeated, 2 * len(sides.source_texts))
