"""Whether sentences lie in the same pattern in two languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import gin

from xalign_jax.evaluation.measures.isomorphism import eigenvector_similarity, relational_similarity
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Value, attempt
from xalign_jax.interfaces import Column
from xalign_jax.recipe import at_least_one


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Isomorphism(Measure):
    """Relational similarity (higher is more alike) and eigenvector similarity (lower is) by level.

    Formulas stand in `measures.isomorphism`. Eigenvector similarity does not know which sentences translate each other:
    the control "shuffled" leaves it as it is. It grows with n and its time grows with n^3.

    Attributes:
      neighbours: edges of each sentence in the graph of eigenvector similarity.
    """

    name: ClassVar[str] = "isomorphism"
    title: ClassVar[str] = "Isomorphism"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "How alike two languages arrange the same sentences among themselves; a rotation changes nothing."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "relational": Column("relational similarity", headline=True),
        "eigenvector": Column("eigenvector similarity (lower is more alike)", best="lowest"),
    }

    neighbours: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "neighbours")

    def pair(self, sides: Sides) -> Iterator[Value]:
        """Two values a level."""
        for level, source, target in sides.levels(self.pooling):
            n, graph = len(source), partial(eigenvector_similarity, neighbours=self.neighbours)
            yield attempt("relational", partial(relational_similarity, source, target), n, level)
            yield attempt("eigenvector", partial(graph, source, target), n, level)
