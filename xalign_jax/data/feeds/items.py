"""Items: the texts that stand together in a packed row, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from xalign_jax.data.sampling.mixing import MemberRows

if TYPE_CHECKING:
    from xalign_jax.data.sampling.mixture import Mixture


class Items(NamedTuple):
    """I items of V views of P texts each. A text is a span of stored tokens, without its eos.

    Attributes:
      store: (I, V, P) int64, the token array that the text lies in.
      start, size: (I, V, P) int64, its first token there and its number of tokens.
      language: (I, V, P) int64, index into the feed's languages.
      k: (I, V, P) int64, the clone that the text is written as.
      cut: (I,) int64, texts of the item that are shorter than their document.
      ends: (I, V, P) int64, 1 = an eos follows the text, 0 = none does.
      group: (I, G) int32, equal for texts that translate each other; G = 0 where the feed does not know it.
      text: (I, V, G) uint32, hashes of the texts; G = 0 where the feed does not know them.
    """

    store: np.ndarray
    start: np.ndarray
    size: np.ndarray
    language: np.ndarray
    k: np.ndarray
    cut: np.ndarray
    ends: np.ndarray
    group: np.ndarray
    text: np.ndarray


class Source(Protocol):
    """The source of the items that are packed.

    Attributes:
      tokens: arrays of base ids, (N,) each.
      tasks: the task of each of these arrays; "" for the facts.
      languages: their names.
      unit: "texts", "pairs", "documents" or "windows", the unit of the counts.
      units: how many units an item has.
      report: counts of the documents that are used and not used, by name.
      degrees: {n: number of groups that are in n languages}; {} where the feed does not read groups.
      whole_groups: a batch holds all items of its groups.
      rows: how many units of each member the blocks of its mixture hold.
    """

    tokens: list[np.ndarray]
    tasks: list[str]
    languages: tuple[str, ...]
    unit: str
    units: int
    report: dict[str, int]
    rows: MemberRows

    @property
    def degrees(self) -> Mapping[int, int]: ...

    @property
    def whole_groups(self) -> bool: ...

    def drawn_by(self, mixture: Mixture) -> Self:
        """A copy that draws the same members at other rates. The points of the mixture's schedules count units."""

    def block(self, number: int, size: int) -> Items:
        """The items of block `number` >= 0, of `size` numbers (of `size` groups, if the source has whole groups)."""


class Numbered:
    """A source whose items have numbers, so that a block is a range of them."""

    degrees: Mapping[int, int] = MappingProxyType({})
    whole_groups = False

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0."""
        raise NotImplementedError

    def block(self, number: int, size: int) -> Items:
        """The items number * size to (number + 1) * size - 1."""
        return self.items(number * size + np.arange(size))
