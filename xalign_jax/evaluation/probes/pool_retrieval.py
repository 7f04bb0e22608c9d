"""Questions against a pool of contexts in all languages (LAReQA)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import gin
import numpy as np

from xalign_jax.data.text.files import MultiwayTsv
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import POOLINGS, Want, pooled
from xalign_jax.evaluation.encode import fingerprint, levels, require_length, row, text_hashes, with_untrained
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.inputs.texts import probe_reader
from xalign_jax.evaluation.measures.pools import Pool, pool_retrieval
from xalign_jax.evaluation.measures.statistics import interval_of_mean
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, one_of, with_paths


class Side(NamedTuple):
    """Texts of one kind in all languages.

    Attributes:
      texts: N texts.
      groups: (N,) the number of the context that each belongs to.
      languages: (N,) names.
    """

    texts: list[str]
    groups: np.ndarray
    languages: np.ndarray


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PoolRetrieval(Probe):
    """LAReQA (Roy et al. 2020): each question looks for its context in all languages at once (`measures.pools`).

    A wrong context in the question's language that is nearer than the right one in another language costs precision. So
    the test shows whether a model ignores the language. XQuAD serves as the data.

    `files` is {language: path} of TSV files (`inputs.parallel_files`). The key of a context ends in `.context`, as in
    d01.p0.context. The key of a question on it has another end, as in d01.p0.q00.

    Metrics by level:

    - `map`: mean average precision, for each language of the questions and for all ("*");
    - `bias`: the share of questions whose best context is in their language;
    - `expected_bias`: the bias of a model that ignores language.

    The control "shuffled" gives each question the right contexts of another one.

    Attributes:
      contexts: the most contexts of each language, in the order of the first file.
      pooling: how a text becomes a vector (`activations.Want`).
      context: the last part of a context's key.
      length: the most tokens of a text, with bos and eos; longer ones are cut and counted.
    """

    name: ClassVar[str] = "pool_retrieval"
    title: ClassVar[str] = "Retrieval from a pool of all languages"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "How near the top a question finds its answers in all languages, in a pool of answers in all languages."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "map": Column("mAP", headline=True),
        "bias": Column("best answer in the question's language", best=""),
        "expected_bias": Column("expected without bias", best=""),
    }

    files: tuple = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(located_files))
    levels: tuple[int, ...] = ()
    contexts: int = 100
    pooling: str = "mean"
    context: str = "context"
    length: int = 256
    controls: tuple[str, ...] = ("shuffled",)

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "contexts")
        one_of(self, "pooling", POOLINGS)
        if unknown := [name for name in self.controls if name not in ("shuffled", "untrained")]:
            raise UserError(f"PoolRetrieval.controls names {unknown[0]!r}: any of shuffled, untrained")
        if self.length < 3:
            raise UserError(f"PoolRetrieval.length = {self.length}: at least 3, bos and eos count")

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The files that it reads."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_length(model, "PoolRetrieval", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for a level that does not exist, or files without contexts and questions."""
        Want(self.levels or levels(run.model)).check(run.model)
        self._sides()

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by level, language of the question and control."""
        questions, contexts = self._sides()
        found: list[Row] = []
        for control, own in with_untrained(run, "untrained" in self.controls):
            found += self._measured(own, questions, contexts, control)
        return found

    def _sides(self) -> tuple[Side, Side]:
        """Questions and contexts."""
        documents = list(MultiwayTsv(all_files(self.files)).documents())
        numbers: dict[str, int] = {}  # a context's key without its last part -> its number
        for document in documents:
            key, _, last = document.group.rpartition(".")
            if last == self.context and len(numbers) < self.contexts:
                numbers.setdefault(key, len(numbers))
        sides: dict[bool, list[tuple[str, int, str]]] = {True: [], False: []}
        for document in documents:
            key, _, last = document.group.rpartition(".")
            if key in numbers:
                sides[last == self.context].append((document.text, numbers[key], document.language))
        if len(numbers) < 2 or not sides[False]:
            raise UserError(
                f"PoolRetrieval.files: {len(numbers)} contexts and {len(sides[False])} questions on them; keys must be as "
                f"d01.p0.{self.context} for a context and d01.p0.q00 for a question on it"
            )
        answered = {number for _, number, _ in sides[True]}
        questions = [one for one in sides[False] if one[1] in answered]
        return _side(questions), _side(sides[True])

    def _measured(self, run: ProbedRun, questions: Side, contexts: Side, control: str | None) -> Iterator[Row]:
        """Rows of one model, and of its shuffled control if it is no control itself."""
        reader, want = probe_reader(run, self.length), Want(self.levels or levels(run.model), (self.pooling,))
        asked, pool = (
            pooled(run.model, reader.ids(side.texts), want, reader.around, name)[self.pooling]
            for name, side in (("questions", questions), ("contexts", contexts))
        )
        # Every question gets the number of a context that is far away, in another document.
        count = contexts.groups.max() + 1
        moved = (questions.groups + count // 2) % count
        for level in want.levels:
            pairs = [(control, questions.groups)]
            if control is None and "shuffled" in self.controls:
                pairs.append(("shuffled", moved))
            for name, groups in pairs:
                labels = groups, contexts.groups, questions.languages, contexts.languages
                found = pool_retrieval(asked[level], pool[level], *labels)
                yield from self._rows(found, questions, _data(questions, contexts), level, name, run.seed)

    def _rows(
        self, found: Pool, questions: Side, data: str, level: int, control: str | None, seed: int
    ) -> Iterator[Row]:
        everything = np.ones(len(questions.texts), bool)
        names = dict.fromkeys(questions.languages)
        for name, chosen in (("*", everything), *((name, questions.languages == name) for name in names)):
            own = found.average_precision[chosen]
            low, high = interval_of_mean(own, seed=seed)
            about = {"language": str(name), "level": level, "control": control, "data": data}
            yield row(self.name, "map", own.mean(), len(own), **about, low=low, high=high)
        about = {"language": "*", "level": level, "control": control, "data": data}
        if control != "shuffled":
            yield row(self.name, "bias", found.same_language_bias, len(everything), **about)
        if control is None:
            yield row(self.name, "expected_bias", found.expected_bias, len(everything), **about)


def _side(texts: list[tuple[str, int, str]]) -> Side:
    text, groups, languages = zip(*texts, strict=True)
    return Side(list(text), np.asarray(groups), np.asarray(languages))


def _data(*sides: Side) -> str:
    """Identifies the texts."""
    return fingerprint(*(text_hashes(side.texts) for side in sides))
