"""Train the parameters that regular expressions select."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import gin

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Coordinates, Parametrization
from xalign_jax.parametrizations.base import Partition, paths
from xalign_jax.recipe import freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Selection(Parametrization):
    """Only the selected parameters train; heads of objectives are parameters too.

    Attributes:
      patterns: regular expressions, searched for in paths such as "model/layers/attention/query", "model/embedding" or
        "heads/xlco/projection".
    """

    patterns: tuple = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)
        check_patterns(self, "patterns")

    def bind(self, model: Any, corpus: Any) -> Coordinates:
        """Raises UserError at `split` for a pattern that matches no parameter."""
        return _Selected(self.patterns)


class _Selected(Partition):
    def __init__(self, patterns: Sequence[str]) -> None:
        super().__init__(functools.partial(matches, patterns))
        self._patterns = patterns

    def split(self, params: Any, rng: Any) -> tuple[Any, Any]:
        require_matches("Selection.patterns", self._patterns, paths(params))
        return super().split(params, rng)


def matches(patterns: Sequence[str], path: str) -> bool:
    """True if any pattern is found in the path."""
    return any(re.search(pattern, path) for pattern in patterns)


def require_matches(binding: str, patterns: Sequence[str], found: Sequence[str]) -> None:
    """Raise UserError for a pattern that selects none of the paths."""
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in found):
            raise UserError(f"{binding}: {pattern!r} matches no parameter; there are {', '.join(found)}")


def check_patterns(config: Any, field: str) -> None:
    """Raise UserError for a pattern that is no regular expression, or an empty list. Call in `__post_init__`."""
    label = f"{type(config).__name__}.{field}"
    if not getattr(config, field):
        raise UserError(f"{label} is empty: name at least one pattern, or use @Everything()")
    for pattern in getattr(config, field):
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(f"{label}: {pattern!r} is no regular expression ({error})") from None
