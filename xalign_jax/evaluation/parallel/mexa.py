"""MEXA and NeuronXA by level."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin

from xalign_jax.evaluation.measures.mexa import STATES, mexa, neuronxa
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value
from xalign_jax.interfaces import Column
from xalign_jax.recipe import one_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Mexa(Measure):
    """Share of sentences that win strictly against all others, in both directions (`measures.mexa`).

    Compare values of equal n only. Chance is 1/(2n - 1).

    Attributes:
      pooling: "weighted" is the published one; "last" its alternative for decoders.
    """

    name: ClassVar[str] = "mexa"
    title: ClassVar[str] = "MEXA"
    meaning: ClassVar[str] = (
        "Share of sentences that are closer to their translation than to any other, in both directions."
    )
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {"mexa": Column("MEXA", headline=True)}

    pooling: str = "weighted"

    def pair(self, sides: Sides) -> Iterator[Value]:
        """A value a level."""
        for level, source, target in sides.levels(self.pooling):
            found = mexa(source, target)
            yield Value("mexa", found.score, found.n, level, units=found.hits)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NeuronXA(Measure):
    """MEXA of the feed-forward neurons of each block, after the activation (`measures.mexa.neuronxa`).

    Attributes:
      states: "binary" reads whether a neuron's mean over the sentence is positive; "value" reads the mean.
    """

    name: ClassVar[str] = "neuronxa"
    title: ClassVar[str] = "NeuronXA"
    meaning: ClassVar[str] = (
        "Share of sentences whose feed-forward neurons resemble their translation's most, in both directions."
    )
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {"neuronxa": Column("NeuronXA", headline=True)}

    states: str = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "states", STATES)

    def sites(self) -> tuple[str, ...]:
        """The neurons."""
        return ("mlp",)

    def pair(self, sides: Sides) -> Iterator[Value]:
        """A value a block."""
        for level, source, target in sides.levels(self.pooling, "mlp"):
            found = neuronxa(source, target, states=self.states)
            yield Value("neuronxa", found.score, found.n, level, units=found.hits)
