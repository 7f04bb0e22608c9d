"""Centred cosine of hidden states of parallel text, beside that of unrelated text."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.evaluation.encoding import (
    Batch,
    batches,
    fetch,
    hidden_levels,
    language_means,
    pool,
    require_length,
    row,
    unit,
)
from xalign_jax.evaluation.parallel import located_files, sentences
from xalign_jax.evaluation.windows import Text, clone_pairs, in_language, of_text, run_texts
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HiddenCosine:
    """Metrics per level: `parallel`, `shuffled` and `gap` = parallel - shuffled, means of centred cosines.

    Clones are compared token by token on the same validation windows, shuffled = the window after. Languages given as
    `files` (see `SentenceRetrieval`) are compared by their mean-pooled sentences, shuffled = the sentence after. Each language's mean hidden state is taken
    away, fitted on the last windows of its own validation text, which are not the scored ones unless the text is short
    (without text of its own a language is centred on the scored sentences). language = the target language;
    n = cosines averaged. Raw cosines would say little: states of any two texts share a large mean.
    """

    length: int = gin.REQUIRED
    windows: int = 64
    files: tuple = dataclasses.field(default=(), metadata=with_paths(located_files))
    sentences: int = 1000
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "windows", "sentences", "batch")

    def check(self, model: Any, prepared: Any) -> None:
        """Raise UserError for what the model or the data lacks, before anything is trained."""
        require_length(model, "HiddenCosine", self.length)
        run_texts(prepared, "validation")
        sentences(prepared, self.files, 1)

    def rows(self, model: Any, params: Any, prepared: Any, seed: int) -> list[dict[str, Any]]:
        """Three rows per pair of languages and level."""
        texts = run_texts(prepared, "validation")
        means = {}
        for text in texts:
            last = of_text(text, prepared.tokenizer, self.length, self.windows, end=True)
            means[text.language] = language_means(model, params, last, self.batch)
        if self.files:
            return self._sentences(model, params, prepared, means)
        return self._clones(model, params, prepared.tokenizer, texts, means)

    def _clones(self, model: Any, params: Any, tokenizer: Any, texts: list[Text], means: dict) -> list[dict[str, Any]]:
        found = []
        for base, clone in clone_pairs(texts):
            a = of_text(base, tokenizer, self.length, self.windows)
            b = in_language(a, tokenizer, clone.clone)
            after = {key: np.roll(value, -1, axis=0) for key, value in b.items()}
            centres = (means[base.language], means[clone.language])
            parallel, n = _token_cosines(model, params, a, b, centres, self.batch)
            shuffled, _ = _token_cosines(model, params, a, after, centres, self.batch)
            found += _rows(parallel, shuffled, n, clone.language)
        return found

    def _sentences(self, model: Any, params: Any, prepared: Any, means: dict) -> list[dict[str, Any]]:
        found = []
        for pair in sentences(prepared, self.files, self.sentences):
            sides = []
            for language, side in zip(pair.languages, (pair.source, pair.target), strict=True):
                states = pool(model, params, side, self.length, self.batch, "cosine")
                sides.append(unit(states - means.get(language, states.mean(1))[:, None]))
            a, b = sides
            parallel, shuffled = (np.sum(a * other, -1).mean(1) for other in (b, np.roll(b, -1, axis=1)))
            found += _rows(parallel, shuffled, a.shape[1], pair.languages[1])
        return found


def _rows(parallel: np.ndarray, shuffled: np.ndarray, n: int, language: str) -> list[dict[str, Any]]:
    found = []
    for level, (same, other) in enumerate(zip(parallel, shuffled, strict=True)):
        values = {"parallel": same, "shuffled": other, "gap": same - other}
        found += [row("cosine", name, value, n, language=language, level=level) for name, value in values.items()]
    return found


def _token_cosines(
    model: Any, params: Any, a: Batch, b: Batch, means: tuple[np.ndarray, np.ndarray], batch: int
) -> tuple[np.ndarray, int]:
    """Mean cosine (L+1,) of states at the same place of two sets of windows, and how many places."""
    keys = ("tokens", "positions", "segment_ids")
    both = {f"a_{key}": a[key] for key in keys} | {f"b_{key}": b[key] for key in keys}
    total: Any = 0.0
    for cut, real in batches(both, batch, "cosine"):
        total = total + fetch(_row_cosines(model, params, cut, means))[:, :real].sum(1, dtype=np.float64)
    n = int(((a["segment_ids"] > 0) & (b["segment_ids"] > 0)).sum())
    return total / n, n


@functools.partial(jax.jit, static_argnums=0)
def _row_cosines(model: Any, params: Any, both: Batch, means: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Sum of cosines over the real places of each row, (L+1, B)."""
    states = []
    for side, mean in zip("ab", means, strict=True):
        own = {key[2:]: value for key, value in both.items() if key[0] == side}
        centred = hidden_levels(model, params, own) - mean[:, None, None]
        states.append(centred / jnp.maximum(jnp.linalg.norm(centred, axis=-1, keepdims=True), 1e-12))
    real = (both["a_segment_ids"] > 0) & (both["b_segment_ids"] > 0)
    return jnp.where(real, (states[0] * states[1]).sum(-1), 0.0).sum(-1)
