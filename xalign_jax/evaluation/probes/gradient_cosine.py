"""Cosine of the language-model gradients of two languages on parallel text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.corpus import CorpusView
from xalign_jax.evaluation.encode import Batch, fetch, next_token_scores, padded, require_causal, require_length, row
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.inputs.parallel_text import sentences
from xalign_jax.evaluation.inputs.windows import clone_pairs, in_language, of_text, run_texts
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GradientCosine(Probe):
    """Metric `cosine`: the cosine of the gradients of the mean loss on the same text in two languages.

    Cosines are taken per parameter tensor of each block. They are averaged over tensors and over up to `batches`
    batches of `batch` rows; fewer rows than a batch make one batch. language = the target language; n = batches
    compared.

    Embeddings and head are left out: clone rows are disjoint, so their cosine is 0 by design. Tensors without any
    gradient are left out too. The control `shuffled` compares text that is not parallel (the batch before). The text is
    the validation text of clones, or the sentences of `files` (see `SentenceRetrieval`).
    """

    name: ClassVar[str] = "gradient_cosine"
    title: ClassVar[str] = "Gradient cosine"
    meaning: ClassVar[str] = "How alike the updates of the parameters are that the same text in two languages asks for."
    columns: ClassVar[Mapping[str, Column]] = {"cosine": Column("cosine", short="gradients")}

    length: int = gin.REQUIRED
    batches: int = 4
    batch: int = 16
    files: tuple = dataclasses.field(default=(), metadata=with_paths(located_files))

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "batches", "batch")

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The parallel files, if the probe reads any."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_causal(model, "GradientCosine")
        require_length(model, "GradientCosine", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        sentences(run.corpus, self.files, 1)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Two rows per pair of languages: parallel, and the control."""
        found = []
        for language, data, *sides in self._parallel(run.corpus):
            cosines: dict[str | None, list[float]] = {None: [], "shuffled": []}
            before = None
            # Whole batches only, so that every gradient is a mean over equally many rows.
            total = len(sides[0]["tokens"])
            size = min(self.batch, total)
            for start in range(0, total - size + 1, size):
                cuts = [{key: value[start : start + size] for key, value in side.items()} for side in sides]
                # One gradient for each language; parameters do not change between batches.
                source, target = (_directions(run.model, cut) for cut in cuts)
                cosines[None].append(float(fetch(_mean_cosine(source, target))))
                # The control costs no further gradient: the target side of the batch before is kept.
                if before is not None:
                    cosines["shuffled"].append(float(fetch(_mean_cosine(source, before))))
                before = target
            for control, values in cosines.items():
                if values:
                    about = {"language": language, "control": control, "data": data}
                    found.append(row(self.name, "cosine", float(np.mean(values)), len(values), **about))
        return found

    def _parallel(self, corpus: CorpusView) -> list[tuple[str, str, Batch, Batch]]:
        """(target language, fingerprint of the text, rows, parallel rows) of each pair."""
        count = self.batches * self.batch
        found = []
        # Sentences of files stand alone in rows; a clone's text comes in windows, as it is trained.
        if self.files:
            for pair in sentences(corpus, self.files, count):
                source, target = (_causal_rows(side, self.length) for side in (pair.source, pair.target))
                found.append((pair.languages[1], pair.fingerprint, source, target))
            return found
        for base, clone in clone_pairs(run_texts(corpus, "validation")):
            text = of_text(base, corpus.tokenizer, self.length, count)
            text = {key: text[key] for key in ("tokens", "targets", "weights", "positions", "segment_ids")}
            cloned = in_language(text, corpus.tokenizer, clone.clone)
            found.append((clone.language, base.fingerprint, text, cloned))
        return found


def _causal_rows(sequences: list[np.ndarray], length: int) -> Batch:
    """Sentences as rows of `length` inputs, each of which predicts the sentence's next token."""
    # One token more than inputs: targets are the same rows, shifted by one.
    rows = padded(sequences, length + 1)
    return {
        "tokens": rows["tokens"][:, :-1],
        "targets": rows["tokens"][:, 1:],
        "weights": (rows["segment_ids"][:, 1:] > 0).astype(np.float32),
        "positions": rows["positions"][:, :-1],
        "segment_ids": rows["segment_ids"][:, :-1],
    }


@jax.jit
def _directions(model: Model, batch: Batch) -> list[jax.Array]:
    """The gradient of the mean loss for each tensor of the blocks, (layers, entries), each row of length 1 or 0."""
    # Parameters as a list, and the numbers of those that belong to blocks: their axes name "layers".
    leaves, structure = jax.tree.flatten(model.params)
    axes = jax.tree.leaves(model.logical_axes(), is_leaf=lambda node: isinstance(node, tuple))
    inside = [number for number, names in enumerate(axes) if "layers" in names]

    def loss(blocks: list[jax.Array]) -> jax.Array:
        # The other parameters are constants here, so that no gradient is computed for them.
        merged = list(leaves)
        for number, block in zip(inside, blocks, strict=True):
            merged[number] = block
        # The loss is the mean of the next token's loss over the places that count.
        whole = model.bind(jax.tree.unflatten(structure, merged))
        nll, _ = next_token_scores(whole, batch, jnp.ones(model.vocabulary_size, bool))
        return jnp.where(batch["weights"] > 0, nll, 0.0).sum() / jnp.maximum(batch["weights"].sum(), 1.0)

    found = []
    # Blocks are stacked along "layers". (..., layers, ...) -> (layers, entries), one direction for each block.
    for number, gradient in zip(inside, jax.grad(loss)([leaves[number] for number in inside]), strict=True):
        layers = axes[number].index("layers")
        flat = jnp.moveaxis(gradient, layers, 0).reshape(gradient.shape[layers], -1)
        # (layers, 1). A tensor without a gradient stays 0, and `_mean_cosine` leaves it out.
        size = jnp.linalg.norm(flat, axis=1, keepdims=True)
        found.append(jnp.where(size > 0, flat / jnp.where(size > 0, size, 1.0), 0.0))
    return found


@jax.jit
def _mean_cosine(first: list[jax.Array], second: list[jax.Array]) -> jax.Array:
    """The mean over all tensors, of each block, that have a gradient on both sides."""
    # (tensors * layers,) cosines: both sides have length 1 already.
    cosine = jnp.concatenate([(u * v).sum(1) for u, v in zip(first, second, strict=True)])
    real = jnp.concatenate([u.any(1) & v.any(1) for u, v in zip(first, second, strict=True)])
    return cosine.sum() / jnp.maximum(real.sum(), 1)
