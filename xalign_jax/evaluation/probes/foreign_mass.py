"""How much probability falls on another language's tokens after a context in the first language alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.text.names import canonical_tasks
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import Batch, require_causal, require_length, row, score
from xalign_jax.evaluation.inputs.windows import Text, of_text, run_texts
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths, within

TOKENS_COUNTED = 20_000_000  # of each store; enough to tell whose a token is


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ForeignMass(Probe):
    """Metric `mass`: mean probability, on the next token, of the tokens that only language 2 uses.

    The context is in the run's first language alone. One row per other language; n = predictions. Vanilla
    code-switching raises this mass.

    Which tokens are only language 2's: for a clone, its rows that are not shared. Between languages that share a
    vocabulary, tokens of which more than `share` of the occurrences are in language 2. Occurrences are counted in the
    two languages' training texts, in the first 20 million tokens of each task. A language without such tokens has no
    row.
    """

    name: ClassVar[str] = "foreign_mass"
    title: ClassVar[str] = "Foreign mass"
    meaning: ClassVar[str] = "Probability that the model gives to tokens of the other language after text of the first."
    columns: ClassVar[Mapping[str, Column]] = {"mass": Column("mass", headline=True, short="mass", best="")}

    length: int = gin.REQUIRED
    windows: int = 64
    tasks: tuple = dataclasses.field(default=(), metadata=with_paths(canonical_tasks))
    share: float = 0.99
    split: str = "validation"
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "windows", "batch")
        within(self, "[0, 1]", "share")

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_causal(model, "ForeignMass")
        require_length(model, "ForeignMass", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        first, _, held_out = self._texts(run.corpus)
        if not _predicted(self._read(held_out, run.corpus.tokenizer)).any():
            raise UserError(f"ForeignMass: the {self.split} text in {first.language} holds no document of two tokens")

    def rows(self, run: ProbedRun) -> list[Row]:
        """One row per language other than the first."""
        corpus = run.corpus
        first, others, held_out = self._texts(corpus)
        text = self._read(held_out, corpus.tokenizer)
        # (N,T) places where the context holds at least one token of the text.
        real = _predicted(text)
        found = []
        for other in others:
            # (V,) the tokens that only this language uses.
            foreign = self._only(corpus.tokenizer, first, other)
            if not foreign.any():
                continue
            _, log_mass = score(run.model, text, foreign, self.batch, f"foreign mass {other.language}")
            # Means of probabilities, not of their logs.
            mass = np.exp(log_mass[real].astype(np.float64)).mean()
            # The data is the text that was read; the training texts only say which tokens are foreign.
            found.append(row(self.name, "mass", mass, real.sum(), language=other.language, data=held_out.fingerprint))
        return found

    def _read(self, held_out: Text, tokenizer: Tokenizer) -> Batch:
        """Windows of the held-out text."""
        return of_text(held_out, tokenizer, self.length, self.windows)

    def _texts(self, corpus: CorpusView) -> tuple[Text, list[Text], Text]:
        """The first language's training text, the other languages', and the first one's held-out text."""
        first, *others = run_texts(corpus, "train", self.tasks)
        found = [text for text in run_texts(corpus, self.split, self.tasks) if text.language == first.language]
        if not found:
            raise UserError(f"ForeignMass: no {self.split} text in {first.language}, the run's first language")
        return first, others, found[0]

    def _only(self, tokenizer: Tokenizer, first: Text, other: Text) -> np.ndarray:
        """(V,) bool: rows that only `other` uses."""
        # A clone's rows follow from the vocabulary. Other languages are told apart by their training texts.
        if other.clone != first.clone:
            return tokenizer.language_rows(other.clone) & ~tokenizer.language_rows(first.clone)
        # (V,) each
        here, there = (_counts(text, tokenizer.size) for text in (first, other))
        return (there > 0) & (there > self.share * (here + there))


def _predicted(windows: Batch) -> np.ndarray:
    """(N,T) bool: places whose prediction counts. After bos alone there is no context yet."""
    return (windows["weights"] > 0) & (windows["positions"] > 0)


def _counts(text: Text, size: int) -> np.ndarray:
    """(V,) int64: occurrences of every token in a training text."""
    counts = np.zeros(size, np.int64)
    for store in text.stores:
        counts += np.bincount(store.tokens[:TOKENS_COUNTED], minlength=size)
    return counts
