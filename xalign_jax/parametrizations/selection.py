"""Train only the parameters that regular expressions select, for example a head on a frozen encoder."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gin
import jax

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Parametrization, Tree
from xalign_jax.parametrizations.base import Partition, paths
from xalign_jax.recipe import freeze

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Selection(Parametrization):
    """Only the selected parameters train. The heads of objectives are parameters too.

    The blocks of a model are stacked in one array, so a pattern selects all of them or none.

    Attributes:
      patterns: regular expressions. A parameter trains if one of them is found in its path, such as
        "model/layers/attention/query", "model/embedding" or "heads/xlco/projection".
    """

    patterns: tuple = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)
        check_patterns(self, "patterns")

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The partition. Its `split` raises UserError for a pattern that matches no parameter.

        Only `split` can tell, because the heads of objectives are not known before.
        """
        return Selected(self.patterns)


class Selected(Partition):
    """A partition by patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        super().__init__(functools.partial(matches, patterns))
        self._patterns = patterns

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        # `Partition.axes` also comes by here, with a tree of axes, whose paths are the same.
        require_matches("Selection.patterns", self._patterns, paths(params))
        return super().split(params, rng)


def matches(patterns: Sequence[str], path: str) -> bool:
    """True if any pattern is found in the path."""
    return any(re.search(pattern, path) for pattern in patterns)


def require_matches(binding: str, patterns: Sequence[str], found: Sequence[str]) -> None:
    """Raise UserError for a pattern that is found in none of the paths. `binding` is the gin name of the patterns."""
    # A pattern without effect is almost always a typing error, which would silently freeze a part of the model.
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in found):
            raise UserError(f"{binding}: {pattern!r} matches no parameter; there are {', '.join(found)}")


def check_patterns(config: Parametrization, field: str) -> None:
    """Check a field of patterns. Call in `__post_init__`.

    Raises:
      UserError: the field is empty, or one of its values is no regular expression.
    """
    label = f"{type(config).__name__}.{field}"
    if not getattr(config, field):
        raise UserError(f"{label} is empty: name at least one pattern, or use @Everything()")
    for pattern in getattr(config, field):
        # gin may bind a number or an object, for which `re` raises TypeError.
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(f"{label}: {pattern!r} is no regular expression ({error})") from None
