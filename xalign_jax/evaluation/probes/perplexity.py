"""Perplexity of every language, each alone, on consecutive windows of held-out text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import gin

from xalign_jax.data.text.names import canonical_tasks
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import require_causal, require_length, row, score
from xalign_jax.evaluation.inputs.windows import of_text, run_texts
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Perplexity(Probe):
    """Metrics per language, with n = scored tokens (each document's eos is one of them):

    - `perplexity`: exp of the mean loss under the full softmax;
    - `perplexity_in_language`: the same, renormalised over the vocabulary rows of that clone language and the shared
      ones; for a language without clones these are all rows that are not another clone's;
    - `bits_per_byte`: total loss in nats / (ln 2 * UTF-8 bytes of the scored text), always under the full softmax.

    A clone reads the same windows as its base language. `tasks`: the tasks whose text is read, () for all of the run's.
    """

    name: ClassVar[str] = "perplexity"
    title: ClassVar[str] = "Language model"
    meaning: ClassVar[str] = "How badly the model guesses the next token of text that it has not seen; lower is better."
    columns: ClassVar[Mapping[str, Column]] = {
        "perplexity": Column(
            "perplexity",
            headline=True,
            per_token=True,
            short="ppl",
            best="lowest",
            meaning="every token of the vocabulary is a candidate",
        ),
        "perplexity_in_language": Column(
            "in-language perplexity",
            headline=True,
            per_token=True,
            short="own_ppl",
            efficiency=True,
            best="lowest",
            meaning="only tokens of the language are candidates",
        ),
        "bits_per_byte": Column(
            "bits/byte",
            headline=True,
            short="bits",
            best="lowest",
            meaning="for each byte of text, so it compares across vocabularies",
        ),
    }

    length: int = gin.REQUIRED
    windows: int = 256
    tasks: tuple = dataclasses.field(default=(), metadata=with_paths(canonical_tasks))
    split: str = "validation"
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "windows", "batch")

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_causal(model, "Perplexity")
        require_length(model, "Perplexity", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        for text in run_texts(run.corpus, self.split, self.tasks):
            if not of_text(text, run.corpus.tokenizer, self.length, self.windows)["weights"].any():
                raise UserError(
                    f"Perplexity: no token of the {self.split} text in {text.language} has another before it"
                )

    def rows(self, run: ProbedRun) -> list[Row]:
        """Three rows per language."""
        found = []
        for text in run_texts(run.corpus, self.split, self.tasks):
            rows = of_text(text, run.corpus.tokenizer, self.length, self.windows)
            # (V,) the rows of this clone language and the shared ones.
            own = run.corpus.tokenizer.language_rows(text.clone)
            # (N, T) each; one pass gives both perplexities.
            nll, log_mass = score(run.model, rows, own, self.batch, f"perplexity {text.language}")
            real = rows["weights"] > 0
            # Sums in float64: a corpus has millions of tokens.
            n, total = int(real.sum()), float(nll[real].sum(dtype="float64"))
            renormalised = total + float(log_mass[real].sum(dtype="float64"))
            # nll + log_mass is the loss under the softmax over `own` alone.
            metrics = {
                "perplexity": _exp(total / n),
                "perplexity_in_language": _exp(renormalised / n),
                "bits_per_byte": total / (math.log(2) * rows["bytes"].sum()),
            }
            about = {"language": text.language, "data": text.fingerprint}
            found += [row(self.name, name, value, n, **about) for name, value in metrics.items()]
        return found


def _exp(mean: float) -> float:
    """exp(mean), and infinity where a float has no such number."""
    return math.inf if mean >= 700 else math.exp(mean)
