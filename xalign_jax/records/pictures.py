"""What probes draw besides rows: plain values in `pictures.json`, which the page of the results shows.

A picture names what it shows in its title and its conditions (n, level, pooling) in `about`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


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


class Drawn(NamedTuple):
    """A picture with its origin: an entry of `pictures.json`.

    Attributes:
      stage, step: of the model.
      probe: the name of the probe that drew it.
      settings: of that probe (`recipe.as_json`).
    """

    stage: str
    step: int
    probe: str
    settings: dict[str, Any]
    picture: Picture

    def plain(self) -> dict[str, Any]:
        """As JSON values. Numbers have six digits; one that is not finite becomes null."""
        kind = next(name for name, cls in KINDS.items() if type(self.picture) is cls)
        fields = {name: _plain(value) for name, value in self.picture._asdict().items()}
        return {**self._asdict(), "kind": kind, "picture": fields}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Drawn:
        """The entry of `plain`."""
        own = {name: plain[name] for name in cls._fields}
        return cls(**own | {"picture": KINDS[plain["kind"]](**plain["picture"])})


def _plain(value: Any) -> Any:
    """A picture's field as JSON values, also if it holds numpy's arrays and numbers."""
    # None is what an earlier reading of the file found.
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Iterable):
        return [_plain(inner) for inner in value]
    number = float(f"{float(value):.6g}")
    return None if not math.isfinite(number) else int(number) if number.is_integer() else number


def wrong(picture: Picture) -> str | None:
    """What contradicts itself in a picture, in words; None if nothing does."""
    match picture:
        case Points():
            lengths = {len(picture.x), len(picture.y), len(picture.languages), len(picture.groups)}
            return None if len(lengths) == 1 else f"its columns have {' and '.join(map(str, sorted(lengths)))} values"
        case Histogram():
            if any(not low < high for low, high in itertools.pairwise(picture.edges)):
                return "its edges do not ascend"
            bins = len(picture.edges) - 1
            uneven = [name for name, counts in picture.series.items() if len(counts) != bins]
            return f"{uneven[0]!r} has {len(picture.series[uneven[0]])} counts for {bins} bins" if uneven else None
        case Links():
            sizes = len(picture.source), len(picture.target)
            outside = [link for link in [*picture.links, *picture.gold] if not _within(link, sizes)]
            return f"the link {tuple(outside[0])[:2]} is not of {sizes[0]} x {sizes[1]} words" if outside else None


def _within(link: Sequence[float], sizes: tuple[int, int]) -> bool:
    """Whether both words of a link exist."""
    return all(0 <= at < size for at, size in zip(link, sizes, strict=False))
