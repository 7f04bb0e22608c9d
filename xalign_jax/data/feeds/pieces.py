"""Documents cut into pieces: the items of a stream of plain text. A pure function of item numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from xalign_jax.data.corpus import FACTS, Member
from xalign_jax.data.feeds.items import Items, Numbered
from xalign_jax.data.feeds.members import Members
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Epochs, MemberRows
from xalign_jax.data.sampling.mixture import Mixture


class Pieces(Numbered):
    """Documents cut into pieces of at most `most` tokens. Every piece is an item and comes once in an epoch.

    The mixture's rates are shares of items. A language and its clones share one cursor, so no piece comes in two
    languages within an epoch. Empty documents are left out and counted, and so are those that `Mixture.where` leaves out.
    """

    unit = "texts"
    units = 1

    def __init__(self, members: Sequence[Member], mixture: Mixture, most: int, seed: int) -> None:
        pieces = {member.name: sum(int(_cuts(s, most).sum()) for s in _sizes(member)) for member in members}
        self._texts = {member.name: member.text for member in members}
        self._pieces = pieces
        self.rows = self._drawn(mixture)
        self._most, self._members = most, Members(members, self.rows, seed)
        self.languages, self.tokens = self._members.languages, self._members.tokens
        self.tasks = self._members.tasks
        # (D,) documents of all arrays: first token, tokens without eos. `_first` (D + 1,): each document's first piece.
        offsets = [offsets for member in self._members.texts for offsets in member.offsets]
        self._starts = np.concatenate([offset[:-1] for offset in offsets])
        sizes = [size for member in self._members.texts for size in _sizes(member)]
        self._sizes = np.concatenate(sizes)
        self._store_documents = np.cumsum([0, *(len(offset) - 1 for offset in offsets)])
        self._first = np.cumsum(np.concatenate([[0], *(_cuts(size, most) for size in sizes)]))
        # (C + 1,): the first piece of each text, by way of its first token array and that array's first document.
        first = self._first[self._store_documents[self._members.arrays]]
        self._epochs = Epochs(self._members.blocks(seed), first[:-1], np.diff(first), self._members.key)
        every = int(np.count_nonzero(np.concatenate([np.diff(offset) for offset in offsets]) > 1))
        used = int(np.count_nonzero(self._sizes))
        self.report = {"documents": used, "pieces": int(self._first[-1]), "empty": len(self._sizes) - every}
        if mixture.where:
            self.report["left out by Mixture.where"] = every - used

    def _drawn(self, mixture: Mixture) -> MemberRows:
        """Pieces of each member in the blocks of a mixture. A piece is a row of its text."""
        items = {text: self._pieces[name] for name, text in self._texts.items()}
        return limited_rows(self._pieces, mixture, self._texts, items, only_explicit=(FACTS,))

    def drawn_by(self, mixture: Mixture) -> Pieces:
        """A copy that draws the same members at other rates."""
        other = copy.copy(self)
        other.rows = self._drawn(mixture)
        other._epochs = self._epochs.with_rows(self.rows.names, other.rows)
        return other

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0; V = P = 1."""
        # (I,): item -> piece -> document and the piece's start within it -> token array and start there.
        member, _, piece, _ = self._epochs.locate(number)
        document = np.searchsorted(self._first, piece, side="right") - 1
        before = (piece - self._first[document]) * self._most
        size = np.minimum(self._sizes[document] - before, self._most)
        store = np.searchsorted(self._store_documents, document, side="right") - 1
        start, language, k = self._starts[document] + before, self._members.language[member], self._members.k[member]
        store, start, size, language, k = (column[:, None, None] for column in (store, start, size, language, k))
        cut, none = (self._sizes[document] > self._most).astype(np.int64), np.zeros((len(number), 0))
        return Items(store, start, size, language, k, cut, np.ones_like(size), none, none)


def _sizes(member: Member) -> list[np.ndarray]:
    """For each array of a member (D,) int64: tokens of each document without its eos, 0 for those that are not read."""
    sizes = [np.diff(offsets) - 1 for offsets in member.offsets]
    return [s if c is None else np.where(c, s, 0) for s, c in zip(sizes, member.chosen, strict=True)]


def _cuts(sizes: np.ndarray, most: int) -> np.ndarray:
    """(D,) int64: pieces of documents of (D,) tokens."""
    return -(-sizes // most)
