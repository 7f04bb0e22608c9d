"""Planted facts: synthetic triples (s, r, o), stated in the source language only and asked in every language.

They make the cross-lingual knowledge application of PreAlign (Li et al. 2024) measurable. A query is "s r ?" in a
target language with a few candidate objects, and the most probable candidate is the answer.
"""

from __future__ import annotations

import dataclasses

import gin
import numpy as np

from xalign_jax.data.lexicon.lexicon import Concepts, LexiconTable
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, within

COPIES = 64  # how often the training text states each fact


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Facts:
    """How many facts there are. Their words are drawn from the dictionary's training concepts, and each has one role.

    Attributes:
      count: facts; no two of them share both s and r.
      relations, objects: numbers of words in these roles; all words of a role are equally frequent.
      candidates: objects to choose from in a query. The wrong ones come from the same pool, so a prior cannot answer.
      seed: of all random choices.
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
    """The n facts as questions in one language: ids as the language (or clone) writes them, no specials, padded with 0.

    Attributes:
      prompts: (n, P) int32, "s r".
      prompt_lengths: (n,) int32.
      candidates: (n, k, C) int32, the objects to choose from.
      candidate_lengths: (n, k) int32.
      answer: (n,) int32, the number of the right candidate.
    """

    prompts: np.ndarray
    prompt_lengths: np.ndarray
    candidates: np.ndarray
    candidate_lengths: np.ndarray
    answer: np.ndarray


@dataclasses.dataclass(frozen=True)
class FactTable:
    """n facts and their text.

    Attributes:
      tokens: (N,) int32 base ids of D documents "s r o eos" in the source language. All facts come COPIES times, each
        time in another order.
      offsets: (D + 1,) int64, document d is tokens[offsets[d]:offsets[d + 1]].
      words: words[language][number] is the ids, (length,) int32, of the word with that number.
      triples: (n, 3) int64 word numbers of s, r and o.
      choices: (n, k) int64 word numbers of the candidate objects.
      answer: (n,) int32, the number of the right candidate.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    words: tuple[tuple[np.ndarray, ...], ...]
    triples: np.ndarray
    choices: np.ndarray
    answer: np.ndarray

    def queries(self, language: int) -> Queries:
        """The questions in the lexicon's language with this number."""
        words = self.words[language]
        prompts = [np.concatenate([words[s], words[r]]) for s, r, _ in self.triples]
        prompt_ids, prompt_lengths = _padded(prompts)
        ids, lengths = _padded([words[o] for o in self.choices.ravel()])
        shape = self.choices.shape
        return Queries(prompt_ids, prompt_lengths, ids.reshape(*shape, -1), lengths.reshape(shape), self.answer)


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """n arrays of ids -> (n, longest) int32 padded with 0, and lengths (n,) int32."""
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids, lengths


def build_facts(facts: Facts, table: LexiconTable, tokenizer: Tokenizer) -> FactTable:
    """Draws the facts from the dictionary's true training words.

    Words of few tokens are preferred, so that a fact is an association of words and not a matter of spelling.

    Raises:
      UserError: too few concepts have an unambiguous word in every language.
    """
    words = _unambiguous(table.dictionary)
    rng = np.random.default_rng(facts.seed)
    # Word numbers -> relations, objects, and the rest as subjects; every word has one role.
    order = _shortest(words, facts.relations + facts.objects + facts.count, rng)
    relations, objects, subjects = np.split(order, [facts.relations, facts.relations + facts.objects])
    if len(subjects) * facts.relations < facts.count:
        needed = facts.relations + facts.objects - (-facts.count // facts.relations)
        raise UserError(
            f"Facts: {facts.count} facts take {needed} training words of the dictionary that are unambiguous, and the "
            f"lexicon has {len(words[0])}; lower Facts.count, .relations and .objects, bind Recipe.facts = None, or "
            "see in `xalign data stats` why entries of the dictionary are not used"
        )
    # (n,) facts: subjects take turns; each time round, a subject takes its next relation; objects are equally frequent.
    number = np.arange(facts.count)
    first = rng.integers(facts.relations, size=len(subjects))
    relation = relations[(first[number % len(subjects)] + number // len(subjects)) % facts.relations]
    right = rng.permutation(number % facts.objects)
    triples = np.stack([subjects[number % len(subjects)], relation, objects[right]], axis=1)
    # (n, k) candidates as numbers of objects: the right one and k - 1 others. The right one goes to a random place.
    wrong = [rng.choice(facts.objects - 1, facts.candidates - 1, replace=False) for _ in number]
    choices = np.concatenate([right[:, None], (right[:, None] + 1 + np.stack(wrong)) % facts.objects], axis=1)
    answer = rng.integers(facts.candidates, size=facts.count).astype(np.int32)
    choices[number, answer], choices[:, 0] = choices[:, 0].copy(), choices[number, answer].copy()
    # The text is in the source language, language 0.
    tokens, offsets = _documents([[words[0][w] for w in triple] for triple in triples], tokenizer, rng)
    return FactTable(tokens, offsets, words, triples, objects[choices], answer)


def _shortest(words: tuple[tuple[np.ndarray, ...], ...], number: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `number` word numbers in random order: those with the fewest tokens in their longest language.

    Args:
      words: words[language][number] as in `FactTable`.
    """
    order = rng.permutation(len(words[0]))
    tokens = np.array([max(map(len, forms)) for forms in zip(*words, strict=True)])
    return rng.permutation(order[np.argsort(tokens[order], kind="stable")][:number])


def _unambiguous(dictionary: Concepts) -> tuple[tuple[np.ndarray, ...], ...]:
    """By language, the ids (length,) of the first words of the unambiguous concepts.

    Such a concept has a word in every language, and no earlier concept has any of its first words.
    """
    sizes = np.diff(dictionary.starts)
    first: dict[int, dict[int, int]] = {}
    # Concept -> language -> its first word in that language; the table is sorted by both.
    for word, (concept, language) in enumerate(zip(dictionary.concept, dictionary.language, strict=True)):
        first.setdefault(int(concept), {}).setdefault(int(language), word)
    taken: set[tuple[int, bytes]] = set()
    kept = []
    for words in first.values():
        # The words of a concept that was dropped are taken as well, because they are ambiguous.
        names = {(language, dictionary.tokens(word).tobytes()) for language, word in words.items()}
        if len(words) == len(dictionary.languages) and not names & taken and all(sizes[w] for w in words.values()):
            kept.append(words)
        taken |= names
    languages = range(len(dictionary.languages))
    return tuple(tuple(dictionary.tokens(words[language]) for words in kept) for language in languages)


def _documents(
    facts: list[list[np.ndarray]], tokenizer: Tokenizer, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and offsets of `FactTable`: the facts, as lists of the ids of s, r and o, told COPIES times."""
    eos = np.array([] if tokenizer.eos is None else [tokenizer.eos], np.int32)
    documents = [np.concatenate([tokenizer.unclone(np.concatenate(fact)), eos]) for fact in facts]
    # Documents are base ids: rows of a clone's facts are written as clones when they are read.
    told = [documents[i] for _ in range(COPIES) for i in rng.permutation(len(documents))]
    return np.concatenate(told).astype(np.int32), np.cumsum([0, *map(len, told)], dtype=np.int64)
