"""`Mixture`: the texts of a stream, and the share of each language in it, as a gin file gives them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import gin

from xalign_jax.data.sampling.rates import check_rates
from xalign_jax.data.sampling.schedules import Points, phases
from xalign_jax.data.text.fields import PROVENANCES, VALUES
from xalign_jax.data.text.names import canonical_task, canonical_tasks
from xalign_jax.errors import UserError
from xalign_jax.recipe import freeze, with_paths, within

SEQIO = "seqio"  # the value of `Mixture.rates` that asks for the rates of a seqio Mixture


def _located_licences(licences: Any) -> Any:
    """`Mixture.licences` with absolute paths."""
    return licences and tuple((canonical_task(task), licence) for task, licence in licences)


def _located_sources(sources: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, canonical_task(task)) for name, task in sources)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Mixture:
    """The texts of a stream, and the share of each language.

    Attributes:
      tasks: seqio Tasks or Mixtures (of a Mixture, the texts and not the rates), files spelled as in
        `names.parse_name` ("text:en=a.txt.gz,de=b.txt", "tsv:...", "pairs:...", "csv:...", "tmx:..."), or "tfds:wiki40b/en".
      rates: the share of each member, {"en": 0.88, "en_clone": 0.1, "facts": 0.02}. Other members have no rows.
        A member is a language, a language of one source ("wiki:en"), or all languages of one source ("wiki:*"). See
        `sampling.members`. "seqio": the rates of the registered seqio Mixture that `tasks` names.
      alpha: if `rates` is empty, a member of n tokens has a share proportional to n^alpha (1 proportional, 0 uniform),
        and at least one row in 1,000.
      languages: only these languages of the text (base codes); () = all.
      where: only documents with these labels or provenances, {"provenance": ("original", "human")}; "" = documents
        without one. Tasks must declare the field. () = all documents.
      cap: no member has more than this many times its share of the text, except the facts; the others get the rest.
        So none is repeated more than `cap` times as often as the text of all. None = no cap.
      sources: short names of tasks for `rates`, {"wiki": "lines:en=wiki.txt"}. Each task is also named by itself.
      epochs: how often a text is read at most, for all texts or by member, {"en": 4, "wiki:de": 2}. A text that has been
        read so often has no more rows, and the others get them. None = no limit. The facts have none.
      licences: of tasks, {"lines:en=wiki.txt": "CC-BY-SA-4.0"}, for the cards of exported models. Tasks that name data
        sets have theirs already (`interop.licences`); None = no other licence is known.

    `rates` and `alpha` may change with the step: they may be `Piecewise` or `Linear` (`data.sampling.schedules`).
    """

    tasks: tuple = dataclasses.field(default=(), metadata=with_paths(canonical_tasks))
    rates: Any = ()
    alpha: Any = 1.0
    languages: tuple = ()
    cap: float | None = None
    where: Any = ()
    sources: Any = dataclasses.field(default=(), metadata=with_paths(_located_sources))
    epochs: Any = None
    licences: Any = dataclasses.field(default=None, metadata=with_paths(_located_licences))

    def __post_init__(self) -> None:
        freeze(self)
        if self.rates != SEQIO:
            self._check_rates()
        self._check_sources()
        self._check_where()
        self._check_licences()
        within(self, "[1, inf)", "cap")
        for where, limit in self.limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
                raise UserError(f"Mixture.epochs{where and f' of {where!r}'} = {limit!r}: a number of at least 1")

    def _check_rates(self) -> None:
        """Raise UserError for rates, exponents or schedules of them that no mixture could have."""
        for step, rates in phases(self.rates):
            where = f" at step {step}" if isinstance(self.rates, Points) else ""
            if not isinstance(rates, tuple) or not all(_is_rate(item) for item in rates):
                raise UserError(f'Mixture.rates{where} = {rates!r}: expected a dict such as {{"en": 0.9, "de": 0.1}}')
            if rates or where:
                check_rates(rates, where)
        for step, alpha in phases(self.alpha):
            where = f" at step {step}" if isinstance(self.alpha, Points) else ""
            if isinstance(alpha, bool) or not isinstance(alpha, int | float):
                raise UserError(f"Mixture.alpha{where} = {alpha!r}: expected a number")
            if not 0 <= alpha <= 1:
                raise UserError(f"Mixture.alpha{where} = {alpha!r}: must lie in [0, 1]")
        if isinstance(self.alpha, Points) and self.rates != ():
            raise UserError("Mixture.alpha changes with the step, but Mixture.rates gives the shares; bind one of them")

    def _check_where(self) -> None:
        form = 'expected a dict such as {"provenance": ("original", "human")}'
        if not isinstance(self.where, tuple) or not all(
            isinstance(item, tuple) and len(item) == 2 for item in self.where
        ):
            raise UserError(f"Mixture.where = {self.where!r}: {form}")
        for field, wanted in self.where:
            if field not in VALUES or not isinstance(wanted, tuple) or not all(isinstance(v, str) for v in wanted):
                raise UserError(f"Mixture.where: {field!r}: {wanted!r}: {form}; fields: {', '.join(VALUES)}")
            unknown = [v for v in wanted if field == "provenance" and v not in ("", *PROVENANCES)]
            if unknown or not wanted:
                raise UserError(f"Mixture.where: provenance {unknown or wanted}: some of {', '.join(PROVENANCES)}")

    def _check_sources(self) -> None:
        """Raise UserError for a source whose task `tasks` lacks, and for a rate of an unknown source."""
        shape = isinstance(self.sources, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
            for pair in self.sources
        )
        if not shape:
            raise UserError(f'Mixture.sources = {self.sources!r}: expected a dict such as {{"wiki": "lines:en=a.txt"}}')
        for name, task in self.sources:
            if not re.fullmatch(r"[\w.-]+", name):
                raise UserError(f"Mixture.sources: the name {name!r} has other characters than letters, digits, . _ -")
            if canonical_task(task) not in canonical_tasks(self.tasks):
                raise UserError(f"Mixture.sources names {name!r} = {task!r}, which Mixture.tasks lacks")
        for name in self.named:
            if ":" in name:
                self.task_of(name.rpartition(":")[0])

    def _check_licences(self) -> None:
        """Raise UserError for licences that are no dict of texts, or for a task that `tasks` lacks."""
        if self.licences is None:
            return
        if not isinstance(self.licences, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
            for pair in self.licences
        ):
            form = '{"lines:en=a.txt": "CC-BY-4.0"}'
            raise UserError(f"Mixture.licences = {self.licences!r}: expected a dict such as {form}")
        for task, _ in self.licences:
            if canonical_task(task) not in canonical_tasks(self.tasks):
                raise UserError(f"Mixture.licences names {task!r}, which Mixture.tasks lacks")

    def task_of(self, source: str) -> str:
        """The canonical task of a source: of its short name, or of the task as `tasks` spells it.

        Raises:
          UserError: the mixture has no such source.
        """
        known = {canonical_task(task): task for task in self.tasks}
        task = canonical_task(dict(self.sources).get(source, source))
        if task not in known:
            names = ", ".join([*(name for name, _ in self.sources), *self.tasks]) or "none"
            raise UserError(f"Mixture.rates names the source {source!r}, which this mixture lacks; sources: {names}")
        return task

    @property
    def limits(self) -> dict[str, Any]:
        """`epochs` by member; "" stands for all texts."""
        if self.epochs is None:
            return {}
        pairs = isinstance(self.epochs, tuple) and all(isinstance(one, tuple) and len(one) == 2 for one in self.epochs)
        return dict(self.epochs) if pairs else {"": self.epochs}

    @property
    def changes(self) -> bool:
        """The shares depend on the step."""
        return isinstance(self.rates, Points) or isinstance(self.alpha, Points)

    @property
    def named(self) -> dict[str, bool]:
        """The members that `rates` names at any step, and whether it gives them rows at one."""
        found: dict[str, bool] = {}
        if self.rates == SEQIO:
            return found
        for _, rates in phases(self.rates):
            found |= {name: found.get(name, False) or rate > 0 for name, rate in rates}
        return found

    def in_rows(self, row: Callable[[int], int]) -> Mixture:
        """A copy whose schedules have points at rows in place of steps: `row(step)`."""
        if not self.changes:
            return self
        rates, alpha = (v.in_rows(row) if isinstance(v, Points) else v for v in (self.rates, self.alpha))
        return dataclasses.replace(self, rates=rates, alpha=alpha)

    def phases(self) -> list[Mixture]:
        """For each point of the schedule, a mixture whose constant shares are those of the point."""
        if isinstance(self.rates, Points):
            return [dataclasses.replace(self, rates=rates) for rates in self.rates.values]
        return [dataclasses.replace(self, alpha=alpha) for _, alpha in phases(self.alpha)]


def _is_rate(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int | float)
