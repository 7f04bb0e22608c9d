"""Translation of sentences by nearest neighbour, in both directions, at every level."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gin
import numpy as np

from xalign_jax.alignment.neighbours import best, by_margin, cosines
from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.store.store import Store
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import (
    fingerprint,
    require_length,
    row,
    text_vectors,
    with_untrained,
)
from xalign_jax.evaluation.inputs.char_ngrams import ngram_cosines
from xalign_jax.evaluation.inputs.parallel_files import all_files, located_files
from xalign_jax.evaluation.inputs.parallel_text import Sentences, sentences
from xalign_jax.evaluation.measures.retrieval import hits
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, with_paths, within

NEIGHBOURS = 4  # of a margin
FITTED = 256  # training documents from which a language's mean is taken


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SentenceRetrieval(Probe):
    """Share of sentences whose nearest sentence in the other language is their translation.

    n = sentences = candidates; a candidate with the right one's text counts as right. Rows by direction (language
    "en->de") and level. Where several languages are paired with one, there is also their mean ("en->*", "*->en"). Every
    language counts alike in it, however many sentences it has, and n is the sum over languages.

    Metrics: `accuracy` (mean over a sentence's own tokens, cosine), with any of these suffixes in this order:
      `_first`: the first token instead of the mean.
      `_margin`: ratio margin of cosines (k = 4) instead of the cosine.
      `_centred`: each language's mean sentence vector is subtracted. It is fitted on up to 256 documents of the
        language's training text, cut to `length`. Languages without training text have no such row.
    Controls:
      `shuffled`: right answers moved by one, where there are two or more.
      `ngram`: character n-grams instead of hidden states; no level, and not for clones, which are not written.
      `untrained`, if asked for: fresh parameters of this seed.

    Sources: `files` is {language: path}, parallel text aligned by line or (.tsv, key<TAB>text) by key; the first
    language is compared with each other one. Without files, `pivot` is compared with each other language that shares
    enough groups of the run's validation texts; a group gives one text of each. Without both, a clone is compared with
    its original on the validation documents.

    Attributes:
      others: the only languages that the pivot is compared with; () = all.
      least: sentences that a pair of languages must have. Languages that share fewer with the pivot are left out.
        `files` and clones with fewer are refused.
      sentences: the most sentences of each pair of languages.
      length: tokens read of a sentence. bos and eos count where the model reads them (bidirectional models: bos x eos).
      batch: sentences at a time.
    """

    name: ClassVar[str] = "sentence_retrieval"
    title: ClassVar[str] = "Sentence retrieval"
    meaning: ClassVar[str] = "Share of sentences whose nearest sentence of the other language is their translation."
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "accuracy": Column("accuracy", headline=True),
        "accuracy_first": Column("first token", meaning="its vector stands for the sentence"),
        "accuracy_margin": Column("margin", meaning="a cosine is divided by the mean cosine of nearest neighbours"),
        "accuracy_centred": Column(
            "centred", short="sentences", meaning="the mean vector of each language is subtracted first"
        ),
        "accuracy_first_margin": Column("first token, margin"),
        "accuracy_first_centred": Column("first token, centred"),
        "accuracy_margin_centred": Column("margin, centred"),
        "accuracy_first_margin_centred": Column("first token, margin, centred"),
    }

    files: tuple = dataclasses.field(default=(), metadata=with_paths(located_files))
    pivot: str | None = None
    others: tuple[str, ...] = ()
    least: int = 10
    metrics: tuple[str, ...] = ("accuracy", "accuracy_centred")
    untrained: bool = False
    sentences: int = 1000
    length: int = 64
    batch: int = 32

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "sentences", "batch")
        within(self, "[0, inf)", "least")
        for metric in self.metrics:
            if metric not in self.columns:
                raise UserError(f"SentenceRetrieval.metrics names {metric!r}: any of {', '.join(self.columns)}")
        if self.length < 3:
            raise UserError(f"SentenceRetrieval.length = {self.length}: at least 3, bos and eos count")

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The parallel files, if the probe reads any."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_length(model, "SentenceRetrieval", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        # One sentence of each pair is enough to find what is missing.
        sentences(run.corpus, self.files, 1, self.pivot, self.least, self.others)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by pair, direction, level and control."""
        corpus = run.corpus
        pairs = sentences(corpus, self.files, self.sentences, self.pivot, self.least, self.others)
        found = []
        # Means are fitted once per model and language, though a pivot is in every pair.
        for control, own in with_untrained(run, self.untrained):
            model = own.model
            means: dict[str, dict[str, np.ndarray] | None] = {}
            for pair in pairs:
                vectors = self._vectors(model, corpus, pair)
                for language in pair.languages:
                    if language not in means:
                        means[language] = self._means(model, corpus, language)
                found += self._levels(pair, vectors, [means[language] for language in pair.languages], control)
        # The copy baseline needs no model, so it is the same for both.
        for pair in pairs:
            found += _ngram_rows(pair, corpus.tokenizer)
        return found + _mean_rows(found, pairs)

    def _vectors(self, model: Model, corpus: CorpusView, pair: Sentences) -> list[dict[str, np.ndarray]]:
        """Vectors of both sides: for each, pooling -> (L+1,N,D)."""
        # One pass for both sides: every text stands alone, so they may share batches.
        name, both = "sentence retrieval " + "-".join(pair.languages), pair.source + pair.target
        states = text_vectors(model, corpus.tokenizer, both, self.length, self.batch, name)
        sides = slice(None, len(pair.source)), slice(len(pair.source), None)
        return [{kind: every[:, side] for kind, every in states.items()} for side in sides]

    def _means(self, model: Model, corpus: CorpusView, language: str) -> dict[str, np.ndarray] | None:
        """Mean vectors of a language: pooling -> (L+1,1,D). None without training text, or if no metric is centred."""
        if not any(metric.endswith("_centred") for metric in self.metrics):
            return None
        # A clone is fitted on its own spelling of its base language's documents.
        base, clone = clone_index(language)
        stores = [s["train"][base] for s in corpus.stores.values() if base in s.get("train", {})]
        chosen = [corpus.tokenizer.clone(document, clone) for store in stores for document in _spread(store, stores)]
        if not chosen:
            return None
        name = f"sentence mean {language}"
        states = text_vectors(model, corpus.tokenizer, chosen, self.length, self.batch, name)
        return {kind: every.mean(1, keepdims=True) for kind, every in states.items()}

    def _levels(
        self,
        pair: Sentences,
        sides: list[dict[str, np.ndarray]],
        means: list[dict[str, np.ndarray] | None],
        control: str | None,
    ) -> list[Row]:
        """Rows of a pair by metric, level and direction."""
        found = []
        for metric in self.metrics:
            kind, vectors = "first" if "_first" in metric else "mean", sides
            if metric.endswith("_centred"):
                centres = [mean for mean in means if mean is not None]
                if len(centres) < len(means):
                    continue
                vectors = [{kind: side[kind] - mean[kind]} for side, mean in zip(sides, centres, strict=True)]
            # (N, D) of each side at one level, and (N, N) cosines.
            for level in range(len(vectors[0][kind])):
                source, target = (side[kind][level] for side in vectors)
                about = {"level": level, "control": control, "data": pair.fingerprint}
                found += _directions(pair, cosines(source, target), metric, "_margin" in metric, about)
        return found


def _spread(store: Store, stores: list[Store]) -> Iterator[np.ndarray]:
    """A store's share of FITTED documents, evenly spaced over the store: texts of one source often lie together."""
    total = len(store.offsets) - 1
    for d in np.unique(np.linspace(0, total - 1, min(total, -(-FITTED // len(stores)))).astype(int)):
        yield np.asarray(store.tokens[store.offsets[d] : store.offsets[d + 1]], np.int32)


def _directions(pair: Sentences, similarity: np.ndarray, metric: str, margin: bool, about: dict[str, Any]) -> list[Row]:
    """Rows of both directions from cosines (source, target). The trained model also gets shuffled answers."""
    found = []
    # Both directions' best candidates, then put in order of the ratio margin.
    forward, backward = (best(scores, NEIGHBOURS if margin else 1) for scores in (similarity, similarity.T))
    if margin:
        forward, backward = by_margin(forward, backward, "ratio"), by_margin(backward, forward, "ratio")
    ways = (pair.languages, forward, pair.target_hash), (pair.languages[::-1], backward, pair.source_hash)
    for languages, candidates, texts in ways:
        answers = {about["control"]: texts}
        if about["control"] is None and len(texts) > 1:
            answers["shuffled"] = np.roll(texts, 1)
        for control, right in answers.items():
            where = about | {"language": "->".join(languages), "control": control}
            share = hits(candidates.indices[:, 0], texts, right).mean()
            found.append(row("sentence_retrieval", metric, share, len(texts), **where))
    return found


def _ngram_rows(pair: Sentences, tokenizer: Tokenizer) -> list[Row]:
    """Rows of the copy baseline; none for clones, which exist as token ids only."""
    if any(clone_index(language)[1] for language in pair.languages):
        return []
    texts = pair.texts or tuple([tokenizer.decode(tokens) for tokens in side] for side in (pair.source, pair.target))
    about = {"level": None, "control": "ngram", "data": pair.fingerprint}
    return _directions(pair, ngram_cosines(*texts), "accuracy", False, about)


def _mean_rows(found: list[Row], pairs: list[Sentences]) -> list[Row]:
    """The mean over languages of every value that all pairs with a first language have. Every language counts alike.

    A single pair has no mean.
    """
    means = []
    for first in dict.fromkeys(pair.languages[0] for pair in pairs):
        others = [pair.languages[1] for pair in pairs if pair.languages[0] == first]
        if len(others) < 2:
            continue
        for name, languages in (
            (f"{first}->*", [f"{first}->{other}" for other in others]),
            (f"*->{first}", [f"{other}->{first}" for other in others]),
        ):
            # Rows that measure the same thing, one for each pair of languages.
            kinds: dict[tuple, list[Row]] = {}
            for one in found:
                if one["language"] in languages:
                    kinds.setdefault((one["metric"], one["level"], one["control"]), []).append(one)
            # A mean over some of the pairs only would not compare with others.
            for rows in kinds.values():
                if len(rows) == len(others):
                    value, n = np.mean([one["value"] for one in rows]), sum(one["n"] for one in rows)
                    data = fingerprint([int(one["data"], 16) for one in rows])
                    means.append(rows[0] | {"language": name, "value": float(value), "n": n, "data": data})
    return means
