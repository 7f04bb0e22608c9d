"""The index of translations: which documents of the stores have one, and which documents translate each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.store.store import Store


class Choice(NamedTuple):
    """Which texts of a group may stand together.

    Attributes:
      pivot: one of the languages of every pair; None = any two languages.
      pairs: the only pairs of languages, (first, second) each; () = all pairs.
      least: languages that a group must have.
    """

    pivot: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    least: int = 2


class Pairs:
    """D documents that have a translation, sorted by group, then language, and a way to draw a partner for each.

    Attributes:
      tokens, tasks: token arrays of the stores, and the task of each.
      languages: all languages of the stores, sorted.
      report: counts of documents: used, empty, without a translation.
      degrees: {n: number of groups that have texts in n languages}, whether they are used or not.
      store, start, size: (D,) int64, each document's token array, its first token there, its tokens without eos.
      text: (D,) uint32, hash of its text.
      language: (D,) int64, index into `languages`.
      group: (D,) int32, equal for documents that translate each other.
      by_language: (D,) int64, the documents sorted by language.
      per_language: (L,) int64, documents of each language.
      first: (L, L) bool, a text in language a comes before one in language b, where the choice gives an order.
      group_first, group_count: (G,) int64, the first document of each group, and how many it has.
    """

    def __init__(self, stores: Sequence[Store], choice: Choice, where: Any = ()) -> None:
        self.tokens, self.tasks = [store.tokens for store in stores], [store.task for store in stores]
        self.languages = tuple(sorted({store.language for store in stores}))
        self.first = _directions(self.languages, choice)
        self._allowed = self.first | self.first.T
        # Columns over all documents of all stores, one store after another.
        size = np.concatenate([np.diff(store.offsets) - 1 for store in stores])
        group = _dense_groups(stores)
        count = [len(store.offsets) - 1 for store in stores]
        language = np.repeat([self.languages.index(store.language) for store in stores], count)
        # Documents that count -> their numbers, sorted by group and, within a group, by language.
        chosen = [store.selected(where) for store in stores]
        left_out = np.concatenate([np.zeros(n, bool) if c is None else ~c for n, c in zip(count, chosen, strict=True)])
        used = (size > 0) & (group >= 0) & ~left_out
        used[used], self.degrees = _translated(group[used], language[used], self._allowed, choice.least)
        order = np.flatnonzero(used)
        order = order[np.lexsort((language[order], group[order]))]
        empty = int(np.count_nonzero((size == 0) & ~left_out))
        alone = int(np.count_nonzero(~left_out)) - empty - len(order)
        self.report = {"documents": len(order), "empty": empty, "without translation": alone}
        if where:
            self.report["left out by Mixture.where"] = int(np.count_nonzero(left_out))
        self.store = np.repeat(np.arange(len(stores)), count)[order]
        self.start = np.concatenate([store.offsets[:-1] for store in stores])[order]
        self.text = np.concatenate([store.text_hash for store in stores])[order]
        self.size, self.language = size[order], language[order]
        self.group = np.unique(group[order], return_inverse=True)[1].astype(np.int32)
        self.group_first = np.unique(self.group, return_index=True)[1]
        self.group_count = np.diff(self.group_first, append=len(self.group))
        self.by_language = np.argsort(self.language, kind="stable")
        self.per_language = np.bincount(self.language, minlength=len(self.languages))

    def mates(self, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All documents of groups (I,): the number of the group in this list, and the document; (sum of counts,)."""
        count = self.group_count[group]
        return np.repeat(np.arange(len(group)), count), ranges(self.group_first[group], count)

    def partner(self, document: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """A translation of each document: (I,) int64 documents, (I,) uint64 draws -> (I,) int64 documents.

        It is any document of the group in a language that the choice allows.
        """
        # (N,) all documents of the groups -> those in an allowed language -> the n-th of each document's own ones.
        owner, other = self.mates(self.group[document])
        fits = self._allowed[self.language[document[owner]], self.language[other]]
        owner, other = owner[fits], other[fits]
        count = np.bincount(owner, minlength=len(document))
        nth = (draw % count.astype(np.uint64)).astype(np.int64)
        return other[np.cumsum(count) - count + nth]


def _directions(languages: Sequence[str], choice: Choice) -> np.ndarray:
    """(L, L) bool: a pair of these two languages is allowed in this order. Without a pivot or pairs, in both."""
    first = np.zeros((len(languages), len(languages)), bool)
    if choice.pairs:
        for one, other in choice.pairs:
            first[languages.index(one), languages.index(other)] = True
    elif choice.pivot is not None:
        first[languages.index(choice.pivot)] = True
    else:
        first[:] = True
    np.fill_diagonal(first, False)
    return first


def _dense_groups(stores: Sequence[Store]) -> np.ndarray:
    """(D,) int64: groups of all documents, numbered so that no two tasks share a number; -1 = no group."""
    first: dict[str, int] = {}
    total = 0
    for task in dict.fromkeys(store.task for store in stores):
        first[task] = total
        total += 1 + max(int(store.group.max(initial=-1)) for store in stores if store.task == task)
    return np.concatenate(
        [np.where(store.group >= 0, store.group.astype(np.int64) + first[store.task], -1) for store in stores]
    )


def _translated(
    group: np.ndarray, language: np.ndarray, allowed: np.ndarray, least: int
) -> tuple[np.ndarray, dict[int, int]]:
    """(D,) bool: the document's group has `least` languages, and one that is allowed with the document's own.

    Args:
      group: (D,) int64.   language: (D,) int64.   allowed: (L, L) bool.

    Returns:
      The booleans, and {n: number of groups in n languages}.
    """
    # (D,) groups as 0, 1, ... -> (R,) runs: distinct pairs of group and language.
    dense = np.unique(group, return_inverse=True)[1]
    runs, run = np.unique(dense * len(allowed) + language, return_inverse=True)
    run_group, run_language = np.divmod(runs, len(allowed))
    degree = np.bincount(run_group)
    # (R,) bool, one language after another: the run's group has it, and it is allowed with the run's.
    paired = np.zeros(len(runs), bool)
    for other in range(len(allowed)):
        has = np.zeros(len(degree), bool)
        has[run_group[run_language == other]] = True
        paired |= has[run_group] & allowed[run_language, other]
    counts = np.bincount(degree)
    degrees = {n: int(count) for n, count in enumerate(counts.tolist()) if count}
    return (paired & (degree[run_group] >= least))[run], degrees
