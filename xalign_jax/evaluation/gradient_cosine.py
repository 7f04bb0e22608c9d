"""Cosine of the language-model gradients of two languages on parallel text."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.evaluation.encoding import Batch, fetch, next_token_scores, padded, require_causal, row
from xalign_jax.evaluation.parallel import sentences
from xalign_jax.evaluation.windows import clone_pairs, in_language, of_text, run_texts
from xalign_jax.recipe import freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GradientCosine:
    """Metric `cosine`: of the gradients of the mean loss on the same text in two languages, per parameter tensor of each
    block, averaged over tensors and over `batches` batches of `batch` rows.

    Embeddings and head are left out: clone rows are disjoint, their cosine is 0 by design. Tensors without any gradient
    are left out too. The control `shuffled` is the same for text that is not parallel (the batch after). language = the
    target language; n = batches. evaluation specification, section 7.
    """

    length: int = gin.REQUIRED
    batches: int = 4
    batch: int = 16
    pairs: Any = ()

    def __post_init__(self) -> None:
        freeze(self)

    def rows(self, model: Any, params: Any, prepared: Any, seed: int) -> list[dict[str, Any]]:
        """Two rows per pair of languages: parallel, and the control."""
        require_causal(model, "GradientCosine")
        found = []
        for language, a, b in self._parallel(prepared):
            count = len(a["tokens"]) // self.batch
            cuts = [slice(i * self.batch, (i + 1) * self.batch) for i in range(count)]
            values = []
            for i, cut in enumerate(cuts):
                after = cuts[(i + 1) % count]
                mine = {key: value[cut] for key, value in a.items()}
                others = [{key: value[c] for key, value in b.items()} for c in (cut, after)]
                values.append([float(fetch(_cosine(model, params, mine, other))) for other in others])
            if count:
                parallel, shuffled = np.mean(values, axis=0)
                found.append(row("gradient_cosine", "cosine", parallel, count, language=language))
            if count > 1:
                found.append(row("gradient_cosine", "cosine", shuffled, count, language=language, control="shuffled"))
        return found

    def _parallel(self, prepared: Any) -> list[tuple[str, Batch, Batch]]:
        """(target language, rows, parallel rows) of each pair."""
        count = self.batches * self.batch
        if self.pairs:
            found = []
            for pair in sentences(prepared, self.pairs, count):
                source, target = (_causal_rows(side, self.length) for side in (pair.source, pair.target))
                found.append((pair.languages[1], source, target))
            return found
        pairs = []
        for base, clone in clone_pairs(run_texts(prepared, "validation")):
            text = of_text(base, prepared.tokenizer, self.length, count)
            pairs.append((clone.language, text, in_language(text, prepared.tokenizer, clone.clone)))
        return [(language, _inputs(a), _inputs(b)) for language, a, b in pairs]


def _inputs(text: Batch) -> Batch:
    return {key: text[key] for key in ("tokens", "targets", "weights", "positions", "segment_ids")}


def _causal_rows(sequences: list[np.ndarray], length: int) -> Batch:
    """Sentences as rows that predict their own next token."""
    rows = padded(sequences, length + 1)
    real = rows["segment_ids"][:, 1:] > 0
    return {
        "tokens": rows["tokens"][:, :-1],
        "targets": rows["tokens"][:, 1:],
        "weights": real.astype(np.float32),
        "positions": rows["positions"][:, :-1],
        "segment_ids": rows["segment_ids"][:, :-1],
    }


@functools.partial(jax.jit, static_argnums=0)
def _cosine(model: Any, params: Any, a: Batch, b: Batch) -> jax.Array:
    """Mean over the tensors of the blocks of the cosine between two batches' gradients."""
    axes = jax.tree.leaves(model.logical_axes(), is_leaf=lambda node: isinstance(node, tuple))
    gradients = [jax.tree.leaves(jax.grad(_loss, argnums=1)(model, params, batch)) for batch in (a, b)]
    cosines, real = [], []
    for names, first, second in zip(axes, *gradients, strict=True):
        if "layers" not in names:
            continue
        u, v = (
            jnp.moveaxis(g, names.index("layers"), 0).reshape(g.shape[names.index("layers")], -1)
            for g in (first, second)
        )
        size = jnp.linalg.norm(u, axis=1) * jnp.linalg.norm(v, axis=1)
        real.append(size > 0)
        cosines.append(jnp.where(size > 0, (u * v).sum(1) / jnp.where(size > 0, size, 1.0), 0.0))
    return jnp.concatenate(cosines).sum() / jnp.maximum(jnp.concatenate(real).sum(), 1)


def _loss(model: Any, params: Any, batch: Batch) -> jax.Array:
    """Mean loss over the weights."""
    nll, _ = next_token_scores(model, params, batch, jnp.ones(model.vocabulary_size, bool))
    return jnp.where(batch["weights"] > 0, nll, 0.0).sum() / jnp.maximum(batch["weights"].sum(), 1.0)
