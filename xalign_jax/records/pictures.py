"""What probes draw besides rows: plain values in `pictures.json`, which the page of the results shows.

A picture names what it shows in its title and its conditions (n, level, pooling) in `about`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Points(NamedTuple):
    """Sentence vectors in two dimensions.

    Attributes:
      x, y: (N,) coordinates.
      languages: (N,) the language of each point.
      groups: (N,) the number of each point's sentence; translations share it.
    """

    title: str
    about: str
    x: Sequence[float]
    y: Sequence[float]
    languages: Sequence[str]
    groups: Sequence[int]


class Histogram(NamedTuple):
    """Distributions over common bins.

    Attributes:
      edges: (bins + 1,) in ascending order.
      series: {name: (bins,) counts}.
    """

    title: str
    about: str
    edges: Sequence[float]
    series: Mapping[str, Sequence[int]]


class Links(NamedTuple):
    """The word alignment of a pair of sentences.

    Attributes:
      source, target: words.
      links: (source word, target word, probability).
      gold: (source word, target word, whether the link is sure).
    """

    title: str
    about: str
    source: Sequence[str]
    target: Sequence[str]
    links: Sequence[tuple[int, int, float]]
    gold: Sequence[tuple[int, int, bool]] = ()


Picture = Points | Histogram | Links
KINDS: Mapping[str, type] = {"points": Points, "histogram": Histogram, "links": Links}
