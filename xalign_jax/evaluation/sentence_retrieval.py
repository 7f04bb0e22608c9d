"""Translation of sentences by nearest neighbour, both directions, at every level."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import numpy as np

from xalign_jax.evaluation.encoding import language_means, nearest, pool, row
from xalign_jax.evaluation.parallel import Sentences, sentences
from xalign_jax.evaluation.windows import of_text, run_texts
from xalign_jax.recipe import freeze


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SentenceRetrieval:
    """Share of sentences whose nearest sentence by cosine in the other language is their translation.

    A sentence's vector is the mean of its tokens' hidden states, at most `length` tokens of it. n = sentences = candidates;
    a candidate with the right one's text counts as right. Rows by direction (language "en->de") and level, metrics
    `accuracy` and `accuracy_centred` (each language's mean hidden state taken away, fitted on the last windows of its own
    validation text; languages without text have no such row); control `shuffled`. evaluation specification, section 3.

    `files` is {language: path}, parallel text aligned by line or (.tsv, key<TAB>text) by key; the first language is
    compared with each other one. Without it a clone is compared with its original on the validation documents.
    """

    files: Any = ()
    sentences: int = 1000
    length: int = 64
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)

    def rows(self, model: Any, params: Any, prepared: Any, seed: int) -> list[dict[str, Any]]:
        """Rows by pair, direction, level and control."""
        means: dict[str, np.ndarray] = {}
        for text in run_texts(prepared, "validation"):
            last = of_text(text, prepared.tokenizer, self.length, 2 * self.batch, end=True)
            means[text.language] = language_means(model, params, last, self.batch)
        found = []
        for pair in sentences(prepared, self.files, self.sentences):
            name = "sentence retrieval " + "-".join(pair.languages)
            sides = [pool(model, params, side, self.length, self.batch, name) for side in (pair.source, pair.target)]
            centre = [means.get(language) for language in pair.languages]
            for level in range(model.num_layers + 1):
                raw = [side[level] for side in sides]
                found += _rows(pair, raw, "accuracy", level)
                if all(mean is not None for mean in centre):
                    centred = [side - mean[level] for side, mean in zip(raw, centre, strict=True) if mean is not None]
                    found += _rows(pair, centred, "accuracy_centred", level)
        return found


def _rows(pair: Sentences, vectors: list[np.ndarray], metric: str, level: int) -> list[dict[str, Any]]:
    found = []
    hashes = (pair.source_hash, pair.target_hash)
    for here, there in ((0, 1), (1, 0)):
        language = f"{pair.languages[here]}->{pair.languages[there]}"
        best, texts = nearest(vectors[here], vectors[there]), hashes[there]
        for control, answers in ((None, texts), ("shuffled", np.roll(texts, 1))):
            accuracy = (texts[best] == answers).mean()
            about = {"language": language, "level": level, "control": control}
            found.append(row("sentence_retrieval", metric, accuracy, len(texts), **about))
    return found
