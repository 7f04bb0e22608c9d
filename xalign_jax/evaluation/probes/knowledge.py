"""Facts taught in one language, asked in another."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.data.lexicon.facts import Queries
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.evaluation.encode import Batch, fingerprint, padded, require_causal, row, score, untrained
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Knowledge(Probe):
    """The planted facts (s, r, o) as queries "s r ?" with a few candidate objects; the highest score is the answer.

    A candidate's score is the SUM of its tokens' log-probabilities after bos, s, r. Where candidates of one query
    differ in their number of tokens, metrics ending in `_mean` score by the mean as well. This is PreAlign's
    cross-lingual knowledge application (Li et al. 2024).

    Metrics, with n = queries: `accuracy` in every target language; `in_language_accuracy`, the same facts in the
    language in which they were taught, which is an upper bound; `chance`. The control `untrained` asks fresh parameters
    of this seed. A recipe that tells no facts has no rows.
    """

    name: ClassVar[str] = "knowledge"
    title: ClassVar[str] = "Knowledge"
    meaning: ClassVar[str] = "Share of facts, told in one language, that the model answers in another language."
    columns: ClassVar[Mapping[str, Column]] = {
        "in_language_accuracy": Column(
            "in-language accuracy", headline=True, short="knows", meaning="asked in the language that tells the facts"
        ),
        "accuracy": Column("accuracy", headline=True, short="knows", meaning="asked in another language"),
        "in_language_accuracy_mean": Column("in-language accuracy by mean score"),
        "accuracy_mean": Column("accuracy by mean score"),
        "chance": Column("chance", best="", meaning="what guessing reaches"),
    }

    batch: int = 64

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "batch")

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_causal(model, "Knowledge")

    def check(self, run: ProbedRun) -> None:
        """Say that there will be no rows where no facts are told."""
        if run.corpus.facts is None:
            print(
                "Knowledge: no rows, because training tells no facts; "
                'bind Recipe.facts and name "facts" in Mixture.rates',
                file=sys.stderr,
            )

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by language and control; none where the recipe tells no facts."""
        corpus = run.corpus
        if corpus.facts is None or corpus.lexicon is None:
            return []
        found = []
        for control, model in ((None, run.model), ("untrained", untrained(run.model, run.seed))):
            # Language 0 is the language in which training tells the facts.
            for number, language in enumerate(corpus.lexicon.languages):
                queries = corpus.facts.queries(number)
                metric = "in_language_accuracy" if number == 0 else "accuracy"
                scores = self._scores(model, corpus.tokenizer, language, queries)
                # Equal queries, as token ids, make equal data.
                n, data = len(queries.answer), fingerprint(queries.prompts, queries.candidates, queries.answer)
                for suffix, values in scores.items():
                    # (n, k) scores -> (n,) the candidate with the highest score.
                    accuracy = (values.argmax(1) == queries.answer).mean()
                    about = {"language": language, "control": control, "data": data}
                    found.append(row(self.name, metric + suffix, accuracy, n, **about))
        # Every query has the same number of candidates, so chance is one value.
        choices = queries.candidates.shape[1]
        return [*found, row(self.name, "chance", 1 / choices, n, data=data)]

    def _scores(self, model: Model, tokenizer: Tokenizer, language: str, queries: Queries) -> dict[str, np.ndarray]:
        """Scores (n, k) of the candidates by the metric's suffix: "" sums, "_mean" averages where it may differ."""
        # n queries of k candidates are n*k rows. A row's loss at the candidate's tokens is minus their log-probability.
        rows, asked = _query_rows(tokenizer, language, queries)
        everything = np.ones(tokenizer.size, bool)
        nll, _ = score(model, rows, everything, self.batch, f"knowledge {language}")
        # (n, k)
        shape = queries.candidates.shape[:2]
        total = -np.where(asked, nll, 0.0).sum(1).reshape(shape)
        # (n, k) tokens of each candidate. Mean and sum rank alike where a query's candidates have equally many.
        lengths = asked.sum(1).reshape(shape)
        return {"": total} | ({"_mean": total / lengths} if (lengths != lengths[:, :1]).any() else {})


def _query_rows(tokenizer: Tokenizer, language: str, queries: Queries) -> tuple[Batch, np.ndarray]:
    """A row per query and candidate, (n*k, T), and a mask (n*k, T) of the candidate's targets."""
    # bos in the query's language, as training has it at the start of a document.
    start = [] if tokenizer.bos is None else [int(tokenizer.clone(np.int32(tokenizer.bos), clone_index(language)[1]))]
    sequences, prompt_lengths = [], []
    for q, prompt in enumerate(queries.prompts):
        # Prompts and candidates are padded arrays; their lengths say what is real.
        opening = [*start, *prompt[: queries.prompt_lengths[q]]]
        for c, candidate in enumerate(queries.candidates[q]):
            sequences.append(np.asarray([*opening, *candidate[: queries.candidate_lengths[q, c]]], np.int32))
            prompt_lengths.append(len(opening))
    # Inputs and targets are the same rows, shifted by one.
    whole = padded(sequences, max(map(len, sequences)))
    rows = {key: whole[key][:, :-1] for key in ("tokens", "positions", "segment_ids")} | {
        "targets": whole["tokens"][:, 1:]
    }
    # (n*k, T) the place in the row of each target, which must lie behind the prompt and before the padding.
    target_at = whole["positions"][:, 1:]
    return rows, (target_at >= np.asarray(prompt_lengths)[:, None]) & (whole["segment_ids"][:, 1:] > 0)
