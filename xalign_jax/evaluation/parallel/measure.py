"""The seam of measures on parallel text: what a measure gets, and what it gives.

Shapes: N sentences, D the width of a level or the size of a site.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import PROMPTED, Key
from xalign_jax.interfaces import Table
from xalign_jax.models.model import Model
from xalign_jax.recipe import freeze, one_of
from xalign_jax.records.pictures import Picture

Vectors = Mapping[str, Mapping[Key, np.ndarray]]  # {pooling: {level or site: (N,D) float32}}


class Value(NamedTuple):
    """One value of a measure.

    Attributes:
      metric: one of the measure's columns.
      value: a mean or any other number; NaN where `reason` says why there is none.
      n: what it is a mean of.
      level: 0 to L; None = it belongs to no level.
      units: (n,) numbers whose mean the value is, for a bootstrap interval; None = no interval.
      language: in place of "pivot->language", such as the other direction.
      interval: (low, high), if the measure knows it already.
      reason: why there is no value.
    """

    metric: str
    value: float
    n: int
    level: int | None = None
    units: np.ndarray | None = None
    language: str | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


class Sides(NamedTuple):
    """The vectors of a language and of the pivot. Row i of one side translates row i of the other.

    Attributes:
      languages: (pivot, language).
      source, target: their vectors by pooling and level.
      source_texts, target_texts: (N,) hashes; equal texts have equal hashes.
      seed: of every random choice.
      show: takes a picture for the page of the results; controls show none.
    """

    languages: tuple[str, str]
    source: Vectors
    target: Vectors
    source_texts: np.ndarray
    target_texts: np.ndarray
    seed: int
    show: Callable[[Picture], None] = lambda picture: None

    def levels(self, pooling: str, site: str | None = None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(level, source, target) of every captured level, or of a site of its blocks."""
        for key, source in self.source[pooling].items():
            if isinstance(key, tuple) if site is None else not (isinstance(key, tuple) and key[0] == site):
                continue
            yield (key[1] if isinstance(key, tuple) else key), source, self.target[pooling][key]


class Together(NamedTuple):
    """The same N sentences in all languages.

    Attributes:
      vectors: of each language, the pivot first.
      texts: {language: (N,) hashes}.
      seed: of every random choice.
      show: takes a picture for the page of the results.
    """

    vectors: Mapping[str, Vectors]
    texts: Mapping[str, np.ndarray]
    seed: int
    show: Callable[[Picture], None]

    def levels(self, pooling: str) -> list[int]:
        """The captured levels."""
        first = next(iter(self.vectors.values()))
        return [key for key in first[pooling] if not isinstance(key, tuple)]


@dataclasses.dataclass(frozen=True)
class Measure(Table):
    """A measure of parallel text, such as MEXA. A frozen dataclass whose fields gin fills. For example:

        @gin.configurable
        @dataclasses.dataclass(frozen=True)
        class Distance(Measure):
            name = "distance"
            title = "Distance of translations"
            meaning = "Mean distance of the vectors of a sentence and its translation."
            by_level = True
            columns = {"distance": Column("mean distance", best="lowest")}

            def pair(self, sides):
                for level, source, target in sides.levels(self.pooling):
                    lengths = np.linalg.norm(source - target, axis=1)
                    yield Value("distance", lengths.mean(), len(lengths), level, units=lengths)

    `ParallelText` computes the vectors once for all measures, and repeats each measure on the controls.

    Attributes:
      controls: the controls that make sense: "shuffled" pairs each sentence with the translation of one that is
        half of the text away, and "untrained" reads the text with fresh parameters.
      whole: it measures all languages together (`together`) and not only pairs of them.
      pooling: how the states of a sentence become the vector that it reads (`activations.PROMPTED`).
    """

    controls: ClassVar[tuple[str, ...]] = ("shuffled", "untrained")
    whole: ClassVar[bool] = False

    pooling: str = "mean"

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "pooling", PROMPTED)

    def sites(self) -> Sequence[str]:
        """The sites that it reads beside levels (`activations.Want`)."""
        return ()

    def check(self, model: Model) -> None:
        """Raise UserError if the model does not suit."""

    def pair(self, sides: Sides) -> Iterable[Value]:
        """Values of a language and the pivot.

        Raises:
          UserError: the values are not defined, for example on too few sentences. The row then says why.
        """
        return ()

    def together(self, languages: Together) -> Iterable[Value]:
        """Values of all languages together. Errors are those of `pair`."""
        return ()


def attempt(metric: str, compute: Callable[[], float], n: int, level: int, language: str | None = None) -> Value:
    """The value that `compute` returns, or the reason why there is none.

    A measure of several metrics uses it: if one metric is not defined, the others still are.
    """
    try:
        return Value(metric, compute(), n, level, language=language)
    except UserError as error:
        return Value(metric, float("nan"), n, level, language=language, reason=str(error))


def one_level(keys: Iterable[Key], level: int | None) -> int:
    """The level to read: the given one, or by default the captured one nearest to two thirds of the way up.

    Raises:
      UserError: the given level was not captured.
    """
    known = sorted(key for key in keys if not isinstance(key, tuple))
    if level is None:
        return min(known, key=lambda one: abs(one - known[-1] * 2 / 3))
    if level not in known:
        raise UserError(f"level {level} is not among the levels that are read: {', '.join(map(str, known))}")
    return level
