"""How well a linear classifier tells the languages apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.evaluation.measures.languages import identifiability
from xalign_jax.evaluation.parallel.measure import Measure, Together, Value
from xalign_jax.interfaces import Column
from xalign_jax.recipe import within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Identifiability(Measure):
    """Accuracy of a linear classifier of the language on sentences that it was not fitted on, by level.

    Near chance, the vectors are neutral of language (`measures.languages`). All translations of a sentence are held out
    together.

    Attributes:
      held_out: the share of sentences that are held out.
    """

    name: ClassVar[str] = "identifiability"
    title: ClassVar[str] = "Language identifiability"
    by_level: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "How well a linear classifier names the language of a sentence; near chance, vectors are neutral."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "accuracy": Column("accuracy of the classifier", headline=True, best="lowest"),
        "chance": Column("chance", best=""),
    }
    controls: ClassVar[tuple[str, ...]] = ("untrained",)

    held_out: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, "(0, 1)", "held_out")

    def together(self, languages: Together) -> Iterator[Value]:
        """Two values a level."""
        names = list(languages.vectors)
        count = len(languages.texts[names[0]])
        labels, groups = np.repeat(names, count), np.tile(np.arange(count), len(names))
        for level in languages.levels(self.pooling):
            # (languages * N, D), all sentences of the first language first.
            vectors = np.concatenate([languages.vectors[name][self.pooling][level] for name in names])
            found = identifiability(vectors, labels, groups, seed=languages.seed, held_out=self.held_out)
            n = len(found.hits)
            yield Value("accuracy", found.accuracy, n, level, units=found.hits)
            yield Value("chance", found.chance, n, level)
