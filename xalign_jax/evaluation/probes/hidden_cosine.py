"""Centred cosine of hidden states of parallel text, compared with unrelated text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment.neighbours import unit
from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.evaluation.encode import (
    Batch,
    batches,
    fetch,
    framed,
    hidden_levels,
    language_means,
    require_frame,
    require_length,
    row,
    text_vectors,
)
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.inputs.parallel_text import sentences
from xalign_jax.evaluation.inputs.windows import Text, clone_pairs, documents, known_texts, of_text, run_texts
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HiddenCosine(Probe):
    """Metrics per level: `parallel`, `shuffled` and `gap` = parallel - shuffled, means of centred cosines.

    Clones are compared token by token on the same validation windows; `shuffled` takes the window after. A
    bidirectional model reads whole documents, bos x eos cut to `length`, instead of windows. Languages given as `files`
    (see `SentenceRetrieval`) are compared by their mean-pooled sentences; `shuffled` takes the sentence after. A single
    window or sentence has no other to be shuffled with, so `shuffled` and `gap` are left out. language = the target
    language; n = cosines averaged.

    Raw cosines would say little, because states of any two texts share a large mean. Each language's mean hidden state
    is therefore subtracted first. It is fitted on the last windows of the language's validation text, which are not the
    scored ones unless the text is short. A language without text of its own is centred on the scored sentences, of
    which there must be two.
    """

    name: ClassVar[str] = "cosine"
    title: ClassVar[str] = "Hidden cosine"
    meaning: ClassVar[str] = (
        "Mean cosine of the states of translated texts, and of texts that do not translate each other."
    )
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "parallel": Column("parallel", best=""),
        "shuffled": Column("shuffled", best=""),
        "gap": Column("parallel minus shuffled", short="cosine"),
    }

    length: int = gin.REQUIRED
    windows: int = 64
    files: tuple = dataclasses.field(default=(), metadata=with_paths(located_files))
    sentences: int = 1000
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "windows", "sentences", "batch")

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The parallel files, if the probe reads any."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_length(model, "HiddenCosine", self.length)
        if self.files:
            require_frame(model, "HiddenCosine", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        sentences(run.corpus, self.files, 1)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Up to three rows per pair of languages and level."""
        model, corpus = run.model, run.corpus
        # With files, the run's own texts only serve to fit means, and there may be none.
        texts = known_texts(corpus, "validation") if self.files else run_texts(corpus, "validation")
        # language -> (L+1, D)
        means = {}
        for text in texts:
            last = self._read(model, corpus.tokenizer, text, end=True)
            means[text.language] = language_means(model, last, self.batch)
        if self.files:
            return self._sentences(model, corpus, means)
        return self._clones(model, corpus.tokenizer, texts, means)

    def _read(self, model: Model, tokenizer: Tokenizer, text: Text, end: bool = False) -> Batch:
        """Rows of a text as the model reads it, and `own` (N,T) bool, the places that count."""
        if model.causal:
            rows = of_text(text, tokenizer, self.length, self.windows, end)
            own = rows["segment_ids"] > 0
        else:
            rows = framed(model, tokenizer, documents(text, tokenizer, self.windows, end), self.length)
            # bos and eos are the same in every language: they would raise the cosine of any two texts.
            own = (rows["segment_ids"] > 0) & ~tokenizer.special[rows["tokens"]]
        return {key: rows[key] for key in ("tokens", "positions", "segment_ids")} | {"own": own}

    def _clones(self, model: Model, tokenizer: Tokenizer, texts: list[Text], means: dict[str, np.ndarray]) -> list[Row]:
        """Rows of every clone with its base language, compared token by token."""
        found = []
        for base, clone in clone_pairs(texts):
            # The same windows in two languages: token t of row n means the same on both sides.
            a, b = (self._read(model, tokenizer, text) for text in (base, clone))
            centres = (means[base.language], means[clone.language])
            parallel, n = _token_cosines(model, a, b, centres, self.batch)
            shuffled = None
            # Row n against row n+1, the last one against the first.
            if len(a["tokens"]) > 1:
                after = {key: np.roll(value, -1, axis=0) for key, value in b.items()}
                shuffled, _ = _token_cosines(model, a, after, centres, self.batch)
            found += _rows(parallel, shuffled, n, clone.language, base.fingerprint)
        return found

    def _sentences(self, model: Model, corpus: CorpusView, means: dict[str, np.ndarray]) -> list[Row]:
        """Rows of every pair of languages in `files`, compared sentence by sentence."""
        found = []
        for pair in sentences(corpus, self.files, self.sentences):
            if len(pair.source) == 1 and not means.keys() >= set(pair.languages):
                continue  # centred on itself nothing is left
            # Both sides' vectors, (L+1, N, D), centred and of length 1.
            sides = []
            for language, side in zip(pair.languages, (pair.source, pair.target), strict=True):
                vectors = text_vectors(model, corpus.tokenizer, side, self.length, self.batch, "cosine")
                states = vectors["mean"]
                # A language without a mean of its own is centred on the mean of these sentences, (L+1, 1, D).
                sides.append(unit(states - means.get(language, states.mean(1))[:, None]))
            a, b = sides
            # (L+1,) each; the sum over D is the cosine, since vectors have length 1.
            parallel, shuffled = (np.sum(a * other, -1).mean(1) for other in (b, np.roll(b, -1, axis=1)))
            count = a.shape[1]
            found += _rows(parallel, shuffled if count > 1 else None, count, pair.languages[1], pair.fingerprint)
        return found


def _rows(parallel: np.ndarray, shuffled: np.ndarray | None, n: int, language: str, data: str) -> list[Row]:
    """Rows of every level from means (L+1,) of cosines; where `shuffled` is None, of `parallel` alone."""
    metrics = {"parallel": parallel}
    if shuffled is not None:
        metrics |= {"shuffled": shuffled, "gap": parallel - shuffled}
    about = {"language": language, "data": data}
    return [
        row(HiddenCosine.name, name, values[level], n, level=level, **about)
        for level in range(len(parallel))
        for name, values in metrics.items()
    ]


def _token_cosines(
    model: Model, a: Batch, b: Batch, means: tuple[np.ndarray, np.ndarray], batch: int
) -> tuple[np.ndarray, int]:
    """Mean cosine (L+1,) of states at the same place of two sets of windows, and the number of places."""
    # Both sides go through one call, so that a batch holds the same rows of each.
    both = {f"{side}_{key}": value for side, rows in (("a", a), ("b", b)) for key, value in rows.items()}
    total = np.zeros(model.num_layers + 1)
    for cut, real in batches(both, batch, "cosine"):
        # (L+1, B) cut to real rows, summed over rows in float64.
        total = total + fetch(_row_cosines(model, cut, means))[:, :real].sum(1, dtype=np.float64)
    n = int((a["own"] & b["own"]).sum())
    return total / n, n


@jax.jit
def _row_cosines(model: Model, both: Batch, means: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Sum of cosines over the real places of each row, (L+1, B)."""
    states = []
    for side, mean in zip("ab", means, strict=True):
        # "a_tokens" and so on are side a's arrays.
        own = {key[2:]: value for key, value in both.items() if key[0] == side}
        # (L+1, B, T, D) minus (L+1, 1, 1, D)
        centred = hidden_levels(model, own) - mean[:, None, None]
        states.append(centred / jnp.maximum(jnp.linalg.norm(centred, axis=-1, keepdims=True), 1e-12))
    real = both["a_own"] & both["b_own"]
    return jnp.where(real, (states[0] * states[1]).sum(-1), 0.0).sum(-1)
