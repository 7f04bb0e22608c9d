"""Planted facts: synthetic triples (s, r, o) told in the source language only, asked in every language.

Operational definition of cross-lingual knowledge application for PreAlign (Li et al. 2024): the query "s r ?" in a
target language, a few candidate objects, the most probable one answers.
"""

from __future__ import annotations

import dataclasses

import gin
import numpy as np

from xalign_jax.data.lexicon.lexicon import Concepts, LexiconTable
from xalign_jax.data.tokens.vocabulary import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, within

COPIES = 64


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Facts:
    """How many facts; words are drawn from the dictionary's training concepts, one role each.

    Attributes:
      count: facts; every (s, r) pair is asked once.   relations, objects: words in these roles, equally frequent.
      candidates: objects to choose from in a query; the wrong ones come from the same pool, so a prior cannot answer.
    """

    count: int = 200
    relations: int = 10
    objects: int = 50
    candidates: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "count", "relations")
        within(self, "[0, inf)", "seed")
        within(self, "[2, inf)", "objects")
        within(self, f"[2, {self.objects}]", "candidates")


@dataclasses.dataclass(frozen=True)
class Queries:
    """The facts as questions in one language: ids of its clone, no specials, right-padded with 0.

    prompts (n, P) int32 "s r", prompt_lengths (n,); candidates (n, k, C) int32, candidate_lengths (n, k); answer (n,).
    """

    prompts: np.ndarray
    prompt_lengths: np.ndarray
    candidates: np.ndarray
    candidate_lengths: np.ndarray
    answer: np.ndarray


@dataclasses.dataclass(frozen=True)
class FactTable:
    """The facts and their text.

    Attributes:
      tokens (N,) int32 base ids, offsets (D + 1,) int64: documents "s r o eos" in the source language, COPIES times all
        facts, each time in another order.
      words: words[language][number] = ids of the word with that number.
      triples: (n, 3) word numbers.   choices: (n, k) word numbers of the candidate objects.   answer: (n,) int32.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    words: tuple[tuple[np.ndarray, ...], ...]
    triples: np.ndarray
    choices: np.ndarray
    answer: np.ndarray

    def queries(self, language: int) -> Queries:
        """The questions in languages[language] of the lexicon."""
        words = self.words[language]
        prompts = [np.concatenate([words[s], words[r]]) for s, r, _ in self.triples]
        prompt_ids, prompt_lengths = _padded(prompts)
        ids, lengths = _padded([words[o] for o in self.choices.ravel()])
        shape = self.choices.shape
        return Queries(prompt_ids, prompt_lengths, ids.reshape(*shape, -1), lengths.reshape(shape), self.answer)


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids, lengths


def build_facts(facts: Facts, table: LexiconTable, tokenizer: Tokenizer) -> FactTable:
    """Draws the facts from the dictionary's true training words, those of the fewest tokens first.

    Short words, so that a fact is an association of words and not a matter of spelling.

    Raises:
      UserError: too few concepts with a word of its own in every language.
    """
    words = _unambiguous(table.dictionary)
    rng = np.random.default_rng(facts.seed)
    order = _shortest(words, facts.relations + facts.objects + facts.count, rng)
    relations, objects, subjects = np.split(order, [facts.relations, facts.relations + facts.objects])
    if len(subjects) * facts.relations < facts.count:
        needed = facts.relations + facts.objects - (-facts.count // facts.relations)
        raise UserError(
            f"Facts: {facts.count} facts take {needed} training words of the dictionary that are unambiguous, and the "
            f"lexicon has {len(words[0])}; lower Facts.count, .relations and .objects, bind Recipe.facts = None, or see in "
            "`xalign data stats` what became of the dictionary"
        )
    number = np.arange(facts.count)
    first = rng.integers(facts.relations, size=len(subjects))
    relation = relations[(first[number % len(subjects)] + number // len(subjects)) % facts.relations]
    right = rng.permutation(number % facts.objects)
    triples = np.stack([subjects[number % len(subjects)], relation, objects[right]], axis=1)
    wrong = [rng.choice(facts.objects - 1, facts.candidates - 1, replace=False) for _ in number]
    choices = np.concatenate([right[:, None], (right[:, None] + 1 + np.stack(wrong)) % facts.objects], axis=1)
    answer = rng.integers(facts.candidates, size=facts.count).astype(np.int32)
    choices[number, answer], choices[:, 0] = choices[:, 0].copy(), choices[number, answer].copy()
    tokens, offsets = _documents([[words[0][w] for w in triple] for triple in triples], tokenizer, rng)
    return FactTable(tokens, offsets, words, triples, objects[choices], answer)


def _shortest(words: tuple[tuple[np.ndarray, ...], ...], number: int, rng: np.random.Generator) -> np.ndarray:
    """At most `number` word numbers in random order, chosen by tokens in the longest language, ties by lot."""
    order = rng.permutation(len(words[0]))
    tokens = np.array([max(map(len, forms)) for forms in zip(*words, strict=True)])
    return rng.permutation(order[np.argsort(tokens[order], kind="stable")][:number])


def _unambiguous(dictionary: Concepts) -> tuple[tuple[np.ndarray, ...], ...]:
    """By language: the first word of each concept that has one in every language that no other concept has."""
    sizes = np.diff(dictionary.starts)
    first: dict[int, dict[int, int]] = {}
    for word, (concept, language) in enumerate(zip(dictionary.concept, dictionary.language, strict=True)):
        first.setdefault(int(concept), {}).setdefault(int(language), word)
    taken: set[tuple[int, bytes]] = set()
    kept = []
    for words in first.values():
        names = {(language, dictionary.tokens(word).tobytes()) for language, word in words.items()}
        if len(words) == len(dictionary.languages) and not names & taken and all(sizes[w] for w in words.values()):
            kept.append(words)
        taken |= names
    languages = range(len(dictionary.languages))
    return tuple(tuple(dictionary.tokens(words[language]) for words in kept) for language in languages)


def _documents(
    facts: list[list[np.ndarray]], tokenizer: Tokenizer, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    eos = np.array([] if tokenizer.eos is None else [tokenizer.eos], np.int32)
    documents = [np.concatenate([tokenizer.unclone(np.concatenate(fact)), eos]) for fact in facts]
    told = [documents[i] for _ in range(COPIES) for i in rng.permutation(len(documents))]
    return np.concatenate(told).astype(np.int32), np.cumsum([0, *map(len, told)], dtype=np.int64)
