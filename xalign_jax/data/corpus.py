"""Everything a run reads, opened: vocabulary, stores, lexicon, facts. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from xalign_jax.data.lexicon.facts import Facts, FactTable, build_facts
from xalign_jax.data.lexicon.lexicon import Lexicon, LexiconTable, build_lexicon
from xalign_jax.data.store.store import Mixture, Store, Stores, canonical_task, open_stores, open_tokenizer
from xalign_jax.data.tokens.vocabulary import Tokenizer, Vocabulary, clone_index, clone_name
from xalign_jax.errors import UserError

FACTS = "facts"


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a mixture: a language (clone k of its base), or the facts. Equal `text` shares one cursor.

    Attributes:
      name: the member's name in `Mixture.rates`.   language: what its rows are written in.
      text: the base language, or "facts".   tokens: token arrays, base ids, each document ending with eos.
      offsets: of each token array: document d is tokens[offsets[d]:offsets[d + 1]].
    """

    name: str
    language: str
    k: int
    text: str
    tokens: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]

    @property
    def size(self) -> int:
        """Tokens of text."""
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
    """A run's data, its texts in `stores`."""

    tokenizer: Tokenizer
    stores: Stores
    lexicon: LexiconTable | None
    facts: FactTable | None

    def with_lexicon(self, lexicon: Lexicon) -> Corpus:
        """This, and a lexicon built on it. Raises UserError as `build_lexicon` does."""
        return dataclasses.replace(self, lexicon=build_lexicon(lexicon, self.tokenizer, self.stores))

    def with_facts(self, facts: Facts) -> Corpus:
        """This, and facts made of its lexicon's words. Raises UserError without a lexicon, or too few words."""
        if self.lexicon is None:
            raise UserError("Recipe.facts needs Recipe.lexicon: facts are made of dictionary words")
        return dataclasses.replace(self, facts=build_facts(facts, self.lexicon, self.tokenizer))

    def members(self, mixture: Mixture, split: str = "train") -> list[Member]:
        """A mixture's members: each language of its tasks (or those of `Mixture.languages`), its clones, the facts.

        Facts are there in training only; a language of one text has no validation text.
        Raises:
          UserError: `Mixture.languages` names a language that the tasks lack, or two members have one name.
        """
        texts: dict[str, list[Store]] = {}
        for task in {canonical_task(task): task for task in mixture.tasks}.values():
            for language, store in self.stores[task].get(split, {}).items():
                texts.setdefault(language, []).append(store)
        lacking = [language for language in mixture.languages if language not in texts]
        if lacking and split == "train":
            raise UserError(f"Mixture.languages names {lacking[0]!r}; the text is in {', '.join(texts) or 'none'}")
        members = []
        for base in sorted(set(mixture.languages or texts) & set(texts)):
            tokens = tuple(np.asarray(store.tokens) for store in texts[base])
            offsets = tuple(np.asarray(store.offsets) for store in texts[base])
            names = [clone_name(base, k) for k in range(self.tokenizer.clones + 1)]
            members += [Member(name, name, k, base, tokens, offsets) for k, name in enumerate(names)]
        if self.facts is not None and self.lexicon is not None and split == "train":
            language = self.lexicon.languages[0]
            facts = (self.facts.tokens,), (self.facts.offsets,)
            members.append(Member(FACTS, language, clone_index(language)[1], FACTS, *facts))
        for name, times in Counter(member.name for member in members).items():
            if times > 1:
                raise UserError(
                    f"Mixture.tasks: text in a language called {name!r}, as a clone or the facts are; rename it"
                )
        return members


def load(
    vocabulary: Vocabulary,
    lexicon: Lexicon | None,
    facts: Facts | None,
    mixtures: Sequence[Mixture],
    cache: str | Path | None = None,
) -> Corpus:
    """Opens what `store.prepare` wrote for the mixtures' tasks and builds the lexicon and the facts on it.

    Facts are built only where a mixture tells them (`Mixture.rates` names "facts"): no probe asks for facts that no
    training text holds.

    Raises:
      UserError: facts without a lexicon, and whatever building them finds wrong.
    """
    corpus = open_texts(vocabulary, mixtures, cache)
    if lexicon is not None:
        corpus = corpus.with_lexicon(lexicon)
    return corpus.with_facts(facts) if facts is not None and tells_facts(mixtures) else corpus


def tells_facts(mixtures: Sequence[Mixture]) -> bool:
    """Whether any mixture draws rows of the facts."""
    return any(dict(mixture.rates).get(FACTS, 0) for mixture in mixtures)


def open_texts(vocabulary: Vocabulary, mixtures: Sequence[Mixture], cache: str | Path | None = None) -> Corpus:
    """The vocabulary and the stores of the mixtures' tasks that `store.prepare` wrote."""
    tasks = list(dict.fromkeys(task for mixture in mixtures for task in mixture.tasks))
    tokenizer = open_tokenizer(vocabulary, tasks, cache)
    stores = {task: open_stores(vocabulary, task, cache, tasks) for task in tasks}
    return Corpus(tokenizer, stores, None, None)
