"""Perplexity of every language, each alone, on consecutive windows of held-out text."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gin

from xalign_jax.data.store import canonical_tasks
from xalign_jax.evaluation.encoding import require_causal, require_length, row, score
from xalign_jax.evaluation.windows import of_text, run_texts
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Metrics per language, with n = scored tokens (each document's eos is one of them):

    - `perplexity`: exp of the mean loss under the full softmax;
    - `perplexity_in_language`: the same, renormalised over the vocabulary rows of that clone language and the shared
      ones; for a language without clones these are all rows that are not another clone's;
    - `bits_per_byte`: total loss in nats / (ln 2 * UTF-8 bytes of the scored text), always under the full softmax.

    A clone reads the same windows as its base language. `tasks`: the tasks whose text is read, () for all of the run's.
    """

    length: int = gin.REQUIRED
    windows: int = 256
    tasks: tuple = dataclasses.field(default=(), metadata=with_paths(canonical_tasks))
    split: str = "validation"
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "windows", "batch")

    def check(self, model: Any, prepared: Any) -> None:
        """Raise UserError for what the model or the data lacks, before anything is trained."""
        require_causal(model, "Perplexity")
        require_length(model, "Perplexity", self.length)
        run_texts(prepared, self.split, self.tasks)

    def rows(self, model: Any, params: Any, prepared: Any, seed: int) -> list[dict[str, Any]]:
        """Three rows per language."""
        require_causal(model, "Perplexity")
        found = []
        for text in run_texts(prepared, self.split, self.tasks):
            rows = of_text(text, prepared.tokenizer, self.length, self.windows)
            own = prepared.tokenizer.language_rows(text.clone)
            nll, log_mass = score(model, params, rows, own, self.batch, f"perplexity {text.language}")
            real = rows["weights"] > 0
            n, total = int(real.sum()), float(nll[real].sum(dtype="float64"))
            renormalised = total + float(log_mass[real].sum(dtype="float64"))
            metrics = {
                "perplexity": _exp(total / n),
                "perplexity_in_language": _exp(renormalised / n),
                "bits_per_byte": total / (math.log(2) * rows["bytes"].sum()),
            }
            found += [row("perplexity", name, value, n, language=text.language) for name, value in metrics.items()]
        return found


def _exp(mean: float) -> float:
    return math.inf if mean >= 700 else math.exp(mean)
