"""The data of a run, opened: vocabulary, stores, lexicon, facts. This needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.lexicon.facts import Facts, FactTable, build_facts
from xalign_jax.data.lexicon.lexicon import Lexicon, LexiconTable, build_lexicon
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store.store import Store, Stores, Texts, open_stores, open_tokenizer
from xalign_jax.data.text.names import canonical_task
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary, clone_index, clone_name
from xalign_jax.errors import UserError

FACTS = "facts"


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a mixture: a language (clone k of its base language), or the facts.

    Attributes:
      name: the member's name in `Mixture.rates`: a language, "facts", or a language of one source ("wiki:en").
      language: the language that its rows are written in.
      k: the number of the clone; 0 = the base language.
      text: the base language ("en", "wiki:en"), or "facts". Members with equal `text` share one cursor.
      tokens: arrays of base ids, (N,) each; every document ends with eos.
      offsets: for each of these arrays, (D + 1,) int64: document d is tokens[offsets[d]:offsets[d + 1]].
      starts: for each of these arrays `Store.word_start`.
      chosen: for each of these arrays (D,) bool, the documents that are read; None = all.
      tasks: for each of these arrays, the task that it belongs to; () for the facts.
    """

    name: str
    language: str
    k: int
    text: str
    tokens: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    starts: tuple[np.ndarray | None, ...]
    chosen: tuple[np.ndarray | None, ...]
    tasks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of tokens of its text."""
        return sum(map(len, self.tokens))


class CorpusView(Protocol):
    """What a `Corpus` shows to those who only read it; `xalign evaluate` opens texts when they are first asked for."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def stores(self) -> Stores: ...

    @property
    def lexicon(self) -> LexiconTable | None: ...

    @property
    def facts(self) -> FactTable | None: ...


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The data of a run: vocabulary, texts, and the lexicon and the facts if there are any."""

    tokenizer: Tokenizer
    stores: Stores
    lexicon: LexiconTable | None
    facts: FactTable | None

    def with_lexicon(self, lexicon: Lexicon) -> Corpus:
        """A copy with a lexicon that is built on its texts. Raises UserError as `build_lexicon` does."""
        return dataclasses.replace(self, lexicon=build_lexicon(lexicon, self.tokenizer, self.stores))

    def with_facts(self, facts: Facts) -> Corpus:
        """A copy with facts made of its lexicon's words. Raises UserError if it has no lexicon or too few words."""
        if self.lexicon is None:
            raise UserError("Recipe.facts needs Recipe.lexicon: facts are made of dictionary words")
        return dataclasses.replace(self, facts=build_facts(facts, self.lexicon, self.tokenizer))

    def members(self, mixture: Mixture, split: str = "train") -> list[Member]:
        """A mixture's members: each language of its tasks (or of `Mixture.languages`), its clones, and the facts.

        Facts are members in training only. A language may have no validation text.

        Raises:
          UserError: `Mixture.languages` names a language that the tasks lack, or two members have the same name.
        """
        # Base language -> its stores, one for each task. Tasks with the same canonical name are the same text.
        texts: dict[str, list[Store]] = {}
        for task in {canonical_task(task): task for task in mixture.tasks}.values():
            for language, store in self.stores[task].get(split, {}).items():
                texts.setdefault(language, []).append(store)
        # Only training must have all languages: a split may leave a language without validation text.
        lacking = [language for language in mixture.languages if language not in texts]
        if lacking and split == "train":
            raise UserError(f"Mixture.languages names {lacking[0]!r}; the text is in {', '.join(texts) or 'none'}")
        texts = {base: texts[base] for base in sorted(set(mixture.languages or texts) & set(texts))}
        # A text that is named by its source is no longer part of its language's text.
        apart = _apart(mixture, {base: {canonical_task(s.task) for s in stores} for base, stores in texts.items()})
        members = []
        for base, stores in texts.items():
            rest = [store for store in stores if (canonical_task(store.task), base) not in apart]
            names = [clone_name(base, k) for k in range(self.tokenizer.clones + 1)] if rest else []
            members += [_member(name, name, k, base, rest, mixture.where) for k, name in enumerate(names)]
        for (task, base), (source, clones) in apart.items():
            own = [store for store in texts[base] if canonical_task(store.task) == task]
            for k in sorted(clones):
                language = clone_name(base, k)
                members.append(_member(f"{source}:{language}", language, k, f"{source}:{base}", own, mixture.where))
        # The facts are one more text. They are written in the lexicon's source language, which may be a clone.
        if self.facts is not None and self.lexicon is not None and split == "train":
            language = self.lexicon.languages[0]
            facts = (self.facts.tokens,), (self.facts.offsets,), (None,), (None,)
            members.append(Member(FACTS, language, clone_index(language)[1], FACTS, *facts))
        # Rates name members, so names must be unique: a text's language could be called like a clone.
        for name, times in Counter(member.name for member in members).items():
            if times > 1:
                raise UserError(
                    f"Mixture.tasks: a text's language is called {name!r}, as a clone or the facts are; rename it"
                )
        return members


def _member(name: str, language: str, k: int, text: str, stores: Sequence[Store], where: Any) -> Member:
    """A member with the text of some stores. A base language and its clones read the same arrays."""
    tokens = tuple(store.tokens for store in stores)
    offsets = tuple(np.asarray(store.offsets) for store in stores)
    starts = tuple(store.word_start for store in stores)
    chosen = tuple(store.selected(where) for store in stores)
    return Member(name, language, k, text, tokens, offsets, starts, chosen, tuple(store.task for store in stores))


def _apart(mixture: Mixture, texts: Mapping[str, set[str]]) -> dict[tuple[str, str], tuple[str, set[int]]]:
    """The texts that `Mixture.rates` names by their source.

    Args:
      texts: the canonical tasks of each base language.
    Returns:
      (canonical task, base language) -> the source's name, and the clones that are named; 0 = the base language.
    """
    found: dict[tuple[str, str], tuple[str, set[int]]] = {}
    for name in mixture.named:
        source, colon, language = name.rpartition(":")
        if not colon:
            continue
        task, (base, k) = mixture.task_of(source), clone_index(language)
        # "*" stands for all base languages of the source. A language that the source lacks is found with the rates.
        for one in texts if language == "*" else [base]:
            if task in texts.get(one, ()):
                first, clones = found.setdefault((task, one), (source, set()))
                if first != source:
                    raise UserError(f"Mixture.rates names one source as {first!r} and as {source!r}; use one name")
                clones.add(k)
    return found


def load(
    vocabulary: Vocabulary,
    lexicon: Lexicon | None,
    facts: Facts | None,
    mixtures: Sequence[Mixture],
    cache: str | Path | None = None,
    cleaning: Cleaning | None = None,
) -> Corpus:
    """Opens the stores that `store.prepare` wrote for the mixtures' tasks, and builds lexicon and facts on them.

    Facts are built only if a mixture states them (`Mixture.rates` names "facts"), so that no probe asks for facts that
    no training text holds.

    Raises:
      UserError: a task has not been prepared, there are facts but no lexicon, or one of them cannot be built.
    """
    corpus = open_texts(vocabulary, mixtures, cache, cleaning)
    if lexicon is not None:
        corpus = corpus.with_lexicon(lexicon)
    # The lexicon comes first, because facts are made of its words.
    return corpus.with_facts(facts) if facts is not None and tells_facts(mixtures) else corpus


def tells_facts(mixtures: Sequence[Mixture]) -> bool:
    """True if any mixture draws rows from the facts."""
    return any(mixture.named.get(FACTS, False) for mixture in mixtures)


def open_texts(
    vocabulary: Vocabulary,
    mixtures: Sequence[Mixture],
    cache: str | Path | None = None,
    cleaning: Cleaning | None = None,
) -> Corpus:
    """The vocabulary and the stores that `store.prepare` wrote for the mixtures' tasks, without lexicon and facts."""
    tasks = list(dict.fromkeys(task for mixture in mixtures for task in mixture.tasks))
    texts = Texts(vocabulary, tasks, cache, cleaning)
    return Corpus(open_tokenizer(texts), {task: open_stores(texts, task) for task in tasks}, None, None)
