"""Bilingual lexicon induction: words of a dictionary, translated by their vectors alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import gin
import numpy as np

from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want, pooled
from xalign_jax.evaluation.encode import fingerprint, levels, require_length, row, text_hashes, with_untrained
from xalign_jax.evaluation.inputs.char_ngrams import ngram_cosines
from xalign_jax.evaluation.inputs.texts import probe_reader
from xalign_jax.evaluation.measures.lexicon_induction import lexicon_induction
from xalign_jax.evaluation.measures.statistics import interval_of_mean
from xalign_jax.interfaces import Column, ModelConfig, Probe, ProbedRun, Row
from xalign_jax.models.model import Model
from xalign_jax.recipe import at_least_one, freeze, resolve, with_paths, within

Vectors = Mapping[int, np.ndarray]  # {level: (words,D)}


def _located(dictionaries: tuple) -> tuple:
    return tuple((language, resolve(path)) for language, path in dictionaries)


class Words(NamedTuple):
    """A dictionary as a test.

    Attributes:
      source, target: both vocabularies.
      pairs: of the test's source words, all translations, also those that are in no vocabulary.
    """

    source: list[str]
    target: list[str]
    pairs: list[tuple[str, str]]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LexiconInduction(Probe):
    """Share of words whose nearest word in the other language is a translation, by level.

    A word's vector is the mean of its tokens' states, the word standing alone. Dictionary files hold source<TAB>target
    lines, or any form of `data.lexicon.files.read_dictionary`. The source words are drawn by a hash, `words` of them;
    their translations of one word are the target vocabulary, which is searched whole. `test` of the source words are
    asked. The others are free for fitting maps: no word is in both parts (`asked_words`).

    Metrics, with n = words asked:

    - `precision`: P@1 by CSLS with k = 10; `precision_5` is P@5, and `precision_cosine` is P@1 by cosine;
    - `precision_distinct`: P@1 by CSLS without pairs of equal spelling, and `identical`, their share of the pairs;
    - `coverage`: the share of the test's source words that were asked.

    The control "characters" compares the spellings alone, by counts of character n-grams.

    Attributes:
      dictionaries: {language: path}.
      source: the language of the first words of each line.
      levels: those that are read; () = all.
      seed: of the words that are drawn.
    """

    name: ClassVar[str] = "lexicon_induction"
    title: ClassVar[str] = "Lexicon induction"
    by_level: ClassVar[bool] = True
    meaning: ClassVar[str] = (
        "Share of dictionary words whose nearest word of the other language is a listed translation."
    )
    columns: ClassVar[Mapping[str, Column]] = {
        "precision": Column("P@1, CSLS", headline=True),
        "precision_cosine": Column("P@1, cosine"),
        "precision_5": Column("P@5, CSLS"),
        "precision_distinct": Column("P@1 without equal spellings"),
        "identical": Column("pairs of equal spelling", best=""),
        "coverage": Column("coverage"),
    }

    dictionaries: tuple = dataclasses.field(default=gin.REQUIRED, metadata=with_paths(_located))
    source: str = "en"
    levels: tuple[int, ...] = ()
    words: int = 5000
    test: float = 0.2
    length: int = 16
    seed: int = 0
    controls: tuple[str, ...] = ("characters",)

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "words")
        within(self, "(0, 1]", "test")
        within(self, "[0, inf)", "seed")
        if not self.dictionaries or not all(isinstance(one, tuple) and len(one) == 2 for one in self.dictionaries):
            raise UserError(
                f"LexiconInduction.dictionaries = {self.dictionaries!r}: expected {{language: path of a dictionary}}"
            )
        if unknown := [name for name in self.controls if name not in ("characters", "untrained")]:
            raise UserError(f"LexiconInduction.controls names {unknown[0]!r}: any of characters, untrained")
        if self.length < 3:
            raise UserError(f"LexiconInduction.length = {self.length}: at least 3, bos and eos count")

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_length(model, "LexiconInduction", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for a level that does not exist, or a dictionary that cannot be read."""
        Want(self.levels or levels(run.model)).check(run.model)
        for language, path in _located(self.dictionaries):
            self._words(run, language, path)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows by language, level and control."""
        found: list[Row] = []
        models = list(with_untrained(run, "untrained" in self.controls))
        for language, path in _located(self.dictionaries):
            words = self._words(run, language, path)
            for control, own in models:
                source, target = (self._vectors(own, side) for side in words[:2])
                found += self._measured(words, source, target, language, control)
            if "characters" in self.controls:
                found.append(self._spelled(words, language))
        return found

    def _words(self, run: ProbedRun, language: str, path: str) -> Words:
        """The vocabularies and the test of a dictionary."""
        gold: dict[str, list[str]] = {}
        for entry in read_dictionary(path, (self.source, language)).entries:
            word, *_ = (word for side, word in entry.words if side == 0)
            if _is_word(word):
                gold.setdefault(word, []).extend(other for side, other in entry.words if side == 1)
        order = np.argsort(_hashes(list(gold), self.seed, "vocabulary"), kind="stable")
        chosen = _readable(run, [list(gold)[number] for number in order[: self.words]])
        target = _readable(run, list(dict.fromkeys(other for word in chosen for other in filter(_is_word, gold[word]))))
        asked = asked_words(chosen, self.test, self.seed)
        if not asked or len(target) < 2:
            raise UserError(
                f"{path}: {len(chosen)} words with {len(target)} translations of one word; too few for a test"
            )
        return Words(chosen, target, [(word, other) for word in asked for other in dict.fromkeys(gold[word])])

    def _vectors(self, run: ProbedRun, words: Sequence[str]) -> Vectors:
        """The mean state of each word's tokens by level."""
        reader = probe_reader(run, self.length)
        want = Want(self.levels or levels(run.model))
        vectors = pooled(run.model, reader.ids(words), want, reader.around, "words")["mean"]
        return {level: vectors[level] for level in want.levels}

    def _measured(
        self, words: Words, source: Vectors, target: Vectors, language: str, control: str | None
    ) -> Iterator[Row]:
        """Rows of a language on one model."""
        for level in source:
            sides = source[level], target[level], words.source, words.target, words.pairs
            by_csls, by_cosine = (lexicon_induction(*sides, at=(1, 5), score=score) for score in ("csls", "cosine"))
            hits = {
                "precision": by_csls.hits[1],
                "precision_cosine": by_cosine.hits[1],
                "precision_5": by_csls.hits[5],
            }
            # Where all pairs are of equal spelling, no others are left.
            if by_csls.identical < len(words.pairs):
                distinct = lexicon_induction(*sides, at=(1,), keep_identical=False)
                hits["precision_distinct"] = distinct.hits[1]
            for metric, hit in hits.items():
                yield self._row(words, metric, hit, language, control, level)
            if control is None and level == next(iter(source)):
                about = {"language": self._pair(language), "data": _data(words)}
                share = by_csls.identical / len(words.pairs)
                yield row(self.name, "identical", share, len(words.pairs), **about)
                yield row(self.name, "coverage", by_csls.coverage, len({word for word, _ in words.pairs}), **about)

    def _spelled(self, words: Words, language: str) -> Row:
        """Precision by the spelling alone."""
        gold: dict[str, set[str]] = {}
        for word, translation in words.pairs:
            gold.setdefault(word, set()).add(translation)
        known = set(words.target)
        asked = [word for word, translations in gold.items() if translations & known]
        best = ngram_cosines(asked, words.target).argmax(1)
        hits = np.array([words.target[b] in gold[word] for word, b in zip(asked, best, strict=True)])
        return self._row(words, "precision", hits, language, "characters", None)

    def _row(
        self, words: Words, metric: str, hits: np.ndarray, language: str, control: str | None, level: int | None
    ) -> Row:
        low, high = interval_of_mean(hits, seed=self.seed)
        about = {"language": self._pair(language), "level": level, "control": control, "data": _data(words)}
        return row(self.name, metric, hits.mean(), len(hits), **about, low=low, high=high)

    def _pair(self, language: str) -> str:
        return f"{self.source}->{language}"


def asked_words(words: Sequence[str], share: float, seed: int = 0) -> list[str]:
    """The words of a test: about a share of them, drawn by a hash of the word. The others are free for fitting."""
    drawn = _hashes(words, seed, "test").astype(np.float64) < share * 2.0**64
    return [word for word, chosen in zip(words, drawn, strict=True) if chosen]


def _hashes(words: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """(N,) a hash of each word."""
    return hash64(seed, purpose, text_hashes(words).astype(np.uint64))


def _is_word(text: str) -> bool:
    return len(text.split()) == 1


def _readable(run: ProbedRun, words: Sequence[str]) -> list[str]:
    """The words that have tokens."""
    ids = run.corpus.tokenizer.encode_documents(list(words))
    return [word for word, own in zip(words, ids, strict=True) if len(own)]


def _data(words: Words) -> str:
    """Identifies the test."""
    sides = (words.source, words.target, [text for pair in words.pairs for text in pair])
    return fingerprint(*map(text_hashes, sides))
