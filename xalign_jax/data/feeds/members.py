"""The members of a mixture and the texts that they are written from: what feeds of text share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xalign_jax.data.corpus import Member
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.mixing import Blocks, MemberRows


class Members:
    """M members of a mixture, and the C texts that they are written from. A language and its clones share one text.

    Attributes:
      rows: rows of each member in the blocks.
      cursor: (M,) int64, the text of each member.
      k: (M,) int64, the clone that each member is written as.
      language: (M,) int64, index of each member's language in `languages`.
      languages: their names.
      texts: one member of each text.
      key: (C,) uint64, the key that each text's orders are drawn from.
      tokens: the token arrays of all texts, one text after another.
      starts: for each of them `Store.word_start`.
      tasks: the task of each of these arrays; "" for the facts.
      arrays: (C + 1,) int64, text c has tokens[arrays[c]] to tokens[arrays[c + 1] - 1].
    """

    def __init__(self, members: Sequence[Member], rows: MemberRows, seed: int) -> None:
        # Members without rows are left out; several members (a language and its clones) may read the same text.
        members = [member for member in members if member.name in rows.names]
        texts = {member.text: member for member in members}
        self.rows = rows
        self.cursor = np.array([list(texts).index(member.text) for member in members])
        self.k = np.array([member.k for member in members])
        self.languages = tuple(dict.fromkeys(member.language for member in members))
        self.language = np.array([self.languages.index(member.language) for member in members])
        self.texts = list(texts.values())
        self.key = np.stack([hash64(seed, "text", text) for text in texts])
        self.tokens = [tokens for member in self.texts for tokens in member.tokens]
        self.starts = [starts for member in self.texts for starts in member.starts]
        self.tasks = [task for member in self.texts for task in member.tasks or [""] * len(member.tokens)]
        self.arrays = np.cumsum([0, *(len(member.tokens) for member in self.texts)])

    def blocks(self, seed: int) -> Blocks:
        """Which member each row belongs to."""
        return Blocks(self.rows.counts, self.cursor, seed, self.rows.start)


def several_sources(tasks: Sequence[str]) -> bool:
    """Whether token arrays belong to more than one task. `tasks`: the task of each array; "" for the facts."""
    return len({*tasks} - {""}) > 1


def by_source(
    tasks: Sequence[str], languages: Sequence[str], store: np.ndarray, language: np.ndarray
) -> dict[str, int]:
    """How often each source and language occur among some texts.

    Args:
      tasks: the task of each token array; "" for the facts, which are left out.
      store, language: (I,) int64, each text's token array, and its index in `languages`.
    """
    # (I,) -> one number for each pair of array and language.
    pairs, counts = np.unique(store * len(languages) + language, return_counts=True)
    found: dict[str, int] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if task := tasks[pair // len(languages)]:
            name = f"{task}:{languages[pair % len(languages)]}"
            found[name] = found.get(name, 0) + count
    return found
