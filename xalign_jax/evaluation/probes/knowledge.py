"""Facts taught in one language, asked in another."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import gin
import numpy as np

from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.evaluation.encode import Batch, fingerprint, padded, require_causal, row, score, untrained
from xalign_jax.recipe import at_least_one, freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Knowledge:
    """The planted facts (s, r, o) as queries "s r ?" with a few candidate objects, the highest score answering.

    A candidate's score is the SUM of its tokens' log-probabilities after bos, s, r. Where candidates of one query differ
    in their number of tokens, the metrics ending in `_mean` score by the mean instead, beside the sum. Metrics, with n =
    queries: `accuracy` in every target language; `in_language_accuracy`, the same facts in the language they were taught
    in, which bounds it; `chance`. The control `untrained` is the same queries to fresh parameters of this seed.
    It is PreAlign's cross-lingual knowledge application (Li et al. 2024). A recipe that tells no facts has no rows.
    """

    batch: int = 64

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "batch")

    def check_model(self, model: Any) -> None:
        """Raise UserError for what the model, or its configuration, lacks: this needs no data."""
        require_causal(model, "Knowledge")

    def check(self, model: Any, corpus: Any) -> None:
        """Say that there will be no rows where no facts are told."""
        if corpus.facts is None:
            print(
                'Knowledge: no rows, because training tells no facts; bind Recipe.facts and name "facts" in Mixture.rates',
                file=sys.stderr,
            )

    def rows(self, model: Any, params: Any, corpus: Any, seed: int) -> list[dict[str, Any]]:
        """Rows by language and control; none where the recipe tells no facts."""
        require_causal(model, "Knowledge")
        if corpus.facts is None:
            return []
        found = []
        for control, weights in ((None, params), ("untrained", untrained(model, params, seed))):
            for number, language in enumerate(corpus.lexicon.languages):
                queries = corpus.facts.queries(number)
                metric = "in_language_accuracy" if number == 0 else "accuracy"
                scores = self._scores(model, weights, corpus.tokenizer, language, queries)
                n, data = len(queries.answer), fingerprint(queries.prompts, queries.candidates, queries.answer)
                for suffix, values in scores.items():
                    accuracy = (values.argmax(1) == queries.answer).mean()
                    about = {"language": language, "control": control, "data": data}
                    found.append(row("knowledge", metric + suffix, accuracy, n, **about))
        choices = queries.candidates.shape[1]
        return [*found, row("knowledge", "chance", 1 / choices, n, data=data)]

    def _scores(self, model: Any, params: Any, tokenizer: Any, language: str, queries: Any) -> dict[str, np.ndarray]:
        """Scores (n, k) of the candidates by the metric's suffix: "" sums, "_mean" averages where that may differ."""
        rows, asked = _query_rows(tokenizer, language, queries)
        everything = np.ones(tokenizer.size, bool)
        nll, _ = score(model, params, rows, everything, self.batch, f"knowledge {language}")
        shape = queries.candidates.shape[:2]
        total = -np.where(asked, nll, 0.0).sum(1).reshape(shape)
        lengths = asked.sum(1).reshape(shape)
        return {"": total} | ({"_mean": total / lengths} if (lengths != lengths[:, :1]).any() else {})


def _query_rows(tokenizer: Any, language: str, queries: Any) -> tuple[Batch, np.ndarray]:
    """A row per query and candidate, (n*k, T), and a mask (n*k, T) of the candidate's targets."""
    start = [] if tokenizer.bos is None else [int(tokenizer.clone(tokenizer.bos, clone_index(language)[1]))]
    sequences, prompt_lengths = [], []
    for q, prompt in enumerate(queries.prompts):
        opening = [*start, *prompt[: queries.prompt_lengths[q]]]
        for c, candidate in enumerate(queries.candidates[q]):
            sequences.append(np.asarray([*opening, *candidate[: queries.candidate_lengths[q, c]]], np.int32))
            prompt_lengths.append(len(opening))
    whole = padded(sequences, max(map(len, sequences)))
    rows = {key: whole[key][:, :-1] for key in ("tokens", "positions", "segment_ids")} | {
        "targets": whole["tokens"][:, 1:]
    }
    target_at = whole["positions"][:, 1:]
    return rows, (target_at >= np.asarray(prompt_lengths)[:, None]) & (whole["segment_ids"][:, 1:] > 0)
