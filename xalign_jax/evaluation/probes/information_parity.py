"""The cost of the same content in each language, in nats."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import gin
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import token_losses
from xalign_jax.evaluation.encode import require_causal, require_length, row
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.inputs.parallel_text import Sentences, sentences
from xalign_jax.evaluation.inputs.texts import TextReader, probe_reader
from xalign_jax.evaluation.measures.likelihood import bits_per_byte, utf8_bytes
from xalign_jax.evaluation.measures.statistics import bootstrap_mean, bootstrap_ratio
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths


@gin.configurable
@dataclasses.dataclass(frozen=True)
class InformationParity(Probe):
    """Losses of a causal model on parallel text, comparable across languages and vocabularies.

    `parity` is total nats of a language / total nats of the pivot on the same sentences; 1 = the same cost. `nats` is the
    mean total loss of a sentence. `bits_per_byte` compares models on one language. It does not compare languages,
    because UTF-8 spends more bytes on some scripts.

    Each sentence stands alone. Ids after a sentence are not scored. The first token is scored if the model reads an id
    before it. Intervals of 95 % are bootstraps over sentences.

    `files` as in `ParallelText`; the first language is the pivot.

    Attributes:
      sentences: the most sentences of each pair of languages.
      least: sentences that a pair of languages must have.
      length: the most tokens of a sentence. A pair with a longer side is left out, because a cut would favour it.
    """

    name: ClassVar[str] = "information_parity"
    title: ClassVar[str] = "Information parity"
    meaning: ClassVar[str] = (
        "How much information the model needs for a text in each language, against the same text in the pivot."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "parity": Column("nats / nats of the pivot", headline=True, best=""),
        "nats": Column("nats a sentence", best="lowest"),
        "bits_per_byte": Column("bits/byte", best="lowest"),
    }

    files: tuple = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(located_files))
    sentences: int = 300
    least: int = 10
    length: int = 512

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "sentences", "least", "length")

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The files that it reads."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_causal(model, "InformationParity")
        require_length(model, "InformationParity", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        sentences(run.corpus, self.files, self.sentences, least=self.least)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by language; those of the pivot are beside the first language."""
        found: list[Row] = []
        known: dict[str, float] = {}  # losses of the pivot's sentences, which several languages share
        seen: set[str] = set()
        for pair in sentences(run.corpus, self.files, self.sentences, least=self.least):
            reader = probe_reader(run, run.model.max_length)
            texts = self._short(reader, pair)
            new = [text for text in dict.fromkeys(texts[0]) if text not in known]
            known |= dict(zip(new, self._losses(run, reader, new, pair.languages[0]), strict=True))
            pivot = np.array([known[text] for text in texts[0]])
            nats = np.array(self._losses(run, reader, texts[1], pair.languages[1]))
            parity = bootstrap_ratio(nats, pivot, seed=run.seed)
            about = {"language": "->".join(pair.languages), "data": pair.fingerprint}
            found.append(row(self.name, "parity", parity.value, parity.n, **about, low=parity.low, high=parity.high))
            for language, own, losses in zip(pair.languages, texts, (pivot, nats), strict=True):
                if language not in seen:
                    found += self._alone(language, own, losses, pair.fingerprint, run.seed)
                    seen.add(language)
        return found

    def _alone(self, language: str, texts: Sequence[str], nats: np.ndarray, data: str, seed: int) -> list[Row]:
        """Rows of one language."""
        mean, size = bootstrap_mean(nats, seed=seed), utf8_bytes(texts)
        bits = bootstrap_ratio(nats / math.log(2), size, seed=seed)
        about = {"language": language, "data": data}
        return [
            row(self.name, "nats", mean.value, mean.n, **about, low=mean.low, high=mean.high),
            row(self.name, "bits_per_byte", bits_per_byte(nats, size), mean.n, **about, low=bits.low, high=bits.high),
        ]

    def _short(self, reader: TextReader, pair: Sentences) -> tuple[list[str], list[str]]:
        """The sentences of a pair that both sides can be read whole."""
        if pair.texts is None:
            raise UserError("InformationParity.files: name files of parallel text")
        room = self.length - sum(reader.around)
        # A side with one token only has nothing to score where the model reads no id before it.
        least = 1 if reader.around[0] else 2
        fits = [all(least <= len(side) <= room for side in both) for both in zip(pair.source, pair.target, strict=True)]
        name = "->".join(pair.languages)
        if left := fits.count(False):
            print(
                f"{name}: {left} of {len(fits)} pairs are empty or longer than {room} tokens; left out", file=sys.stderr
            )
        if sum(fits) < self.least:
            raise UserError(
                f"InformationParity: {name} has {sum(fits)} sentences of at most {room} tokens; lower .least or raise .length"
            )
        source, target = ([text for text, fit in zip(side, fits, strict=True) if fit] for side in pair.texts)
        return source, target

    def _losses(self, run: ProbedRun, reader: TextReader, texts: Sequence[str], language: str) -> list[float]:
        """The total loss of each text in nats."""
        if not texts:
            return []
        losses = token_losses(run.model, reader.ids(texts, cut=False), reader.around, language)
        return [float(one.sum(dtype=np.float64)) for one in losses]
