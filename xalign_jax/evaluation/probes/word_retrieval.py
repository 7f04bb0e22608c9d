"""Word translation by nearest neighbour: isolated words, source to each target language, at every level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
import numpy as np

from xalign_jax.alignment.neighbours import best, cosines
from xalign_jax.data.lexicon.lexicon import Concepts, LexiconTable
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import fingerprint, pool_head, row, text_vectors, untrained
from xalign_jax.interfaces import Column, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze

Level = int | str  # a hidden level, or "head"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordRetrieval(Probe):
    """Share of source words whose nearest target word by cosine translates them, over the TRUE word pairs.

    A word's vector is the mean of its tokens' hidden states. The word stands alone; a bidirectional model reads it
    between bos and eos. Levels are 0 .. L. Untied models also have level "head", the mean of the output head's rows.

    Candidates are the target words of up to `candidates` concepts of the same split, drawn once with a fixed seed. n is
    the number of source words asked. Chance is about 1 / n. A candidate with the text of a right one counts as right. A
    split with words of a single concept leaves nothing to choose from and has no rows.

    Metrics: `accuracy`, and `accuracy_centred` with each language's mean subtracted (fitted on the words of the other
    split). Splits: `dictionary` (concepts that training may use) and `heldout`. Controls, at every level: `untrained`
    (fresh parameters of this seed) and `shuffled` (right answers permuted between concepts).
    """

    name: ClassVar[str] = "word_retrieval"
    title: ClassVar[str] = "Word retrieval"
    meaning: ClassVar[str] = "Share of words whose nearest word of the other language is a translation."
    by_level: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "accuracy": Column("accuracy", headline=True, short="words"),
        "accuracy_centred": Column("centred", meaning="the mean vector of each language is subtracted first"),
    }

    candidates: int = 1000
    batch: int = 512

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "candidates", "batch")

    def check(self, run: ProbedRun) -> None:
        """Raise UserError where the run has no dictionary."""
        _lexicon(run)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by split, target language, level and control."""
        corpus, lexicon = run.corpus, _lexicon(run)
        tables = {"dictionary": lexicon.dictionary, "heldout": lexicon.heldout}
        # A split may be empty, such as `heldout` where nothing is held out.
        chosen = {split: _choose(table, self.candidates) for split, table in tables.items() if len(table.concept)}
        longest = max(len(tokens) for words in chosen.values() for tokens in words.tokens)
        found = []
        for control, model in ((None, run.model), ("untrained", untrained(run.model, run.seed))):
            # split -> level -> (W, D)
            vectors = {
                split: _vectors(model, corpus.tokenizer, words, longest, self.batch) for split, words in chosen.items()
            }
            means = {split: _means(vectors[split], words) for split, words in chosen.items()}
            for split, words in chosen.items():
                # A mean fitted on the scored words would know something about them.
                fitted = means.get("heldout" if split == "dictionary" else "dictionary", {})
                # Language 0 is the source language.
                for language in range(1, len(words.languages)):
                    about = {"split": split, "language": words.languages[language], "data": words.fingerprint}
                    for level, every in vectors[split].items():
                        found += _level(words, language, every, fitted, control, about | {"level": level})
        return found


def _lexicon(run: ProbedRun) -> LexiconTable:
    """The run's dictionary, without which there is nothing to ask."""
    if run.corpus.lexicon is None:
        raise UserError("WordRetrieval: no dictionary; bind Recipe.lexicon or take the probe out of Stage.probes")
    return run.corpus.lexicon


@dataclasses.dataclass(frozen=True)
class _Words:
    """Some words of a dictionary: tokens of each, concept (W,), language (W,), text_hash (W,) int64."""

    tokens: list[np.ndarray]
    concept: np.ndarray
    language: np.ndarray
    text_hash: np.ndarray
    languages: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Identifies the words and which of them translate each other."""
        return fingerprint(self.concept, self.language, self.text_hash)


def _choose(table: Concepts, concepts: int) -> _Words:
    """The words of up to `concepts` concepts: of one table always the same."""
    # Words of a table are ragged: word w is ids[starts[w]:starts[w + 1]].
    kept = np.random.default_rng(0).permutation(np.unique(table.concept))[:concepts]
    index = np.flatnonzero(np.isin(table.concept, kept))
    tokens = [np.asarray(table.ids[table.starts[w] : table.starts[w + 1]]) for w in index]
    concept, language, text_hash = (
        np.asarray(column)[index].astype(np.int64) for column in (table.concept, table.language, table.text_hash)
    )
    return _Words(tokens, concept, language, text_hash, tuple(table.languages))


def _vectors(model: Model, tokenizer: Tokenizer, words: _Words, longest: int, batch: int) -> dict[Level, np.ndarray]:
    """Word vectors (W, D) by level. `longest` is the number of tokens of the longest word."""
    # Room for bos and eos.
    length = min(longest + (0 if model.causal else 2), model.max_length)
    states = text_vectors(model, tokenizer, words.tokens, length, batch, "word retrieval")["mean"]
    # (L+1, W, D) -> {level: (W, D)}
    vectors: dict[Level, np.ndarray] = dict(enumerate(states))
    if not model.tied:
        vectors["head"] = pool_head(model, words.tokens, longest, batch)
    return vectors


def _means(vectors: dict[Level, np.ndarray], words: _Words) -> dict[tuple[Level, int], np.ndarray]:
    """Mean vector (D,) by level and language."""
    # A language without words in the split has no mean.
    spoken = [int(language) for language in np.unique(words.language)]
    return {(level, k): every[words.language == k].mean(0) for level, every in vectors.items() for k in spoken}


def _level(
    words: _Words,
    language: int,
    every: np.ndarray,
    means: dict[tuple[Level, int], np.ndarray],
    control: str | None,
    about: dict[str, Any],
) -> list[Row]:
    """Rows of one level, split and target language; `every` are the vectors (W, D) of all languages."""
    # Numbers of the words that are candidates, and of the source words that have a translation among them.
    candidates = np.flatnonzero(words.language == language)
    sources = np.flatnonzero((words.language == 0) & np.isin(words.concept, words.concept[candidates]))
    if len(np.unique(words.concept[sources])) < 2:
        return []

    def nearest(words: np.ndarray, others: np.ndarray) -> np.ndarray:
        # (S,) the first candidate of largest cosine for each source word.
        return best(cosines(words, others)).indices[:, 0]

    def accuracy(chosen: np.ndarray, asked: np.ndarray) -> float:
        # A (concept, text) pair as one int64. The best candidate is right if one with its text translates the word.
        right = words.concept[candidates] << 32 | words.text_hash[candidates]
        answers = asked << 32 | words.text_hash[candidates][chosen]
        return np.isin(answers, right).mean()

    n, level = len(sources), about["level"]
    asked = words.concept[sources]
    chosen = nearest(every[sources], every[candidates])
    found = [row("word_retrieval", "accuracy", accuracy(chosen, asked), n, control=control, **about)]
    # Only the trained model is also shuffled and centred.
    if control is not None:
        return found
    wrong = _next_concept(asked)
    found.append(row("word_retrieval", "accuracy", accuracy(chosen, wrong), n, control="shuffled", **about))
    if (level, 0) in means and (level, language) in means:
        chosen = nearest(every[sources] - means[level, 0], every[candidates] - means[level, language])
        found.append(row("word_retrieval", "accuracy_centred", accuracy(chosen, asked), n, **about))
    return found


def _next_concept(concept: np.ndarray) -> np.ndarray:
    """(S,) every concept replaced by another one of the list, one to one."""
    # A random cycle through all concepts: each is replaced by the one that precedes it in `order`, never by itself.
    kinds, index = np.unique(concept, return_inverse=True)
    order = np.random.default_rng(1).permutation(len(kinds))
    following = np.empty_like(order)
    following[order] = np.roll(order, 1)
    return kinds[following[index]]
