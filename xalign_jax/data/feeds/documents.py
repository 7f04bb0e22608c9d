"""Feeds of documents in several languages: GroupFeed (lines of one group), InterleavedFeed (two texts in turn)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin

from xalign_jax.data.feeds.lines import GroupLines, Interleaved, Tags, room
from xalign_jax.data.feeds.packed import check_choice, group_index, reads
from xalign_jax.data.feeds.packing import Batch, Form, PackedRows, blank_rows
from xalign_jax.data.feeds.pair_items import PairExamples
from xalign_jax.data.feeds.pairs import Choice
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Feed
from xalign_jax.recipe import at_least_one, freeze

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.sampling.mixture import Mixture


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GroupFeed(Feed):
    """Multi-way documents, "bos en: text eos de: text eos ..", for a causal or masked language model.

    The lines of a document are texts of one group in different languages, in random order. The mixture's rates are
    shares of documents. They draw the language of one line; the other lines are drawn from its group.

    Attributes:
      length: T, tokens of a row.   slots: S, most documents of a row.
      lines: lines of a document.
      side: most tokens of a line without its tag; longer texts are cut and counted.
      fewest: languages that a group must have; groups of fewer are left out. If it is less than `lines`, documents of
        small groups have fewer lines. None = `lines`.
      pivot: the language of one line of every document; None = any languages.
      tag: text before each line, with {} in place of the language; "" = none.
      shuffled: the matched control. Lines change places within their language, so that the lines of a document come
        from different groups. A block of documents has the same lines as without `shuffled`.
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    lines: int = gin.REQUIRED
    side: int = gin.REQUIRED
    fewest: int | None = None
    pivot: str | None = None
    tag: str = "{}:"
    shuffled: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "slots", "lines", "side", "fewest")
        for setting in ("lines", "fewest"):
            if (value := getattr(self, setting)) == 1:
                raise UserError(f"GroupFeed.{setting} = {value}: documents have lines in two languages or more")
        if self.fewest is not None and self.fewest > self.lines:
            raise UserError(f"GroupFeed.fewest = {self.fewest}: more than GroupFeed.lines = {self.lines}; lower it")
        _check_tag(self)

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: no group has enough languages, the texts lack the pivot, or the lines do not fit a row.
        """
        mixture, own = reads(self, mixture), int(hash64(seed, "GroupFeed"))
        least = self.lines if self.fewest is None else self.fewest
        limit = f"GroupFeed.lines = {self.lines}" if self.fewest is None else f"GroupFeed.fewest = {self.fewest}"
        pairs = group_index(self, corpus, mixture, split, Choice(self.pivot, (), least), limit)
        tags = Tags(pairs, corpus.tokenizer, self.tag)
        # The longest document has `lines` lines of the longest tags.
        needed = self.lines * (self.side + int(tags.size.max()) + 1) + (corpus.tokenizer.bos is not None)
        if needed > self.length:
            raise UserError(
                f"GroupFeed.side = {self.side}: {self.lines} lines with their tags take {needed} tokens, more than "
                f"GroupFeed.length = {self.length}; lower side or lines, or raise length"
            )
        examples = PairExamples(pairs, mixture, own)
        source = GroupLines(examples, tags, self.pivot, self.lines, self.side, self.shuffled, own)
        return PackedRows(source, mixture, self._form(), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "documents")

    def _form(self) -> Form:
        return Form(self.length, self.slots, groups=self.lines, targets=True)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class InterleavedFeed(Feed):
    """Two documents of one group in turn, "bos A1 eos B1 eos A2 eos B2 eos ..", for a language model.

    A pair that is longer than a row becomes several windows (CrossIC-PT). The mixture's rates are shares of windows.
    They draw the language of one document; its partner is drawn from its group.

    Attributes:
      length: T, tokens of a row.   slots: S, most windows of a row.
      part: tokens of a part, about. Parts begin at sentences where they can.
      pivot: the language of one of the two documents; None = any two languages.
      pairs: the only pairs of languages, (("en", "de"), ("en", "fr")); () = all, or all with the pivot.
      tag: text before each part, with {} in place of the language; "" = none.
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    part: int = gin.REQUIRED
    pivot: str | None = None
    pairs: tuple = ()
    tag: str = ""

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "slots")
        if self.part < 2:
            raise UserError(f"InterleavedFeed.part = {self.part}: must be at least 2")
        check_choice(self)
        _check_tag(self)

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: there are no translations, the texts lack a language, or a row is too short for two parts.
        """
        mixture, own = reads(self, mixture), int(hash64(seed, "InterleavedFeed"))
        pairs = group_index(self, corpus, mixture, split, Choice(self.pivot, self.pairs))
        tags = Tags(pairs, corpus.tokenizer, self.tag)
        if room(self.length, self.part, int(tags.size.max()), corpus.tokenizer) < 2 * self.part:
            raise UserError(
                f"InterleavedFeed.part = {self.part}: a row of InterleavedFeed.length = {self.length} tokens does not "
                "hold two parts and their ends; lower part or raise length"
            )
        source = Interleaved(pairs, tags, corpus.tokenizer, mixture, self.part, self.length, own)
        return PackedRows(source, mixture, self._form(), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "windows")

    def _form(self) -> Form:
        return Form(self.length, self.slots, groups=2, targets=True)


def _check_tag(feed: Any) -> None:
    """Raise UserError if a tag does not say where the language stands."""
    if feed.tag and "{}" not in feed.tag:
        raise UserError(f'{type(feed).__name__}.tag = {feed.tag!r}: no {{}} for the language, as in "{{}}:"')
