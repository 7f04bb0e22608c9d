"""Rows of a batch as plain values, token by token: what `xalign data preview` shows in a terminal and on a page."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Sequence

SWITCHED, MASKED, RANDOM, KEPT = "switched", "masked", "random", "kept"

# What may have happened to a token, in words for a reader.
CHANGES = {
    SWITCHED: "a word of another language stands in the input; the original word begins as shown",
    MASKED: "the mask piece hides this token, which is predicted",
    RANDOM: "a random piece replaces this token, which is predicted",
    KEPT: "this token is predicted although the input shows it",
}
_JOINERS = "\u200c\u200d"  # part of the spelling of words in Persian, Indic scripts and emoji


@dataclasses.dataclass(frozen=True)
class Token:
    """One position of a row.

    Attributes:
      id: the token that the model reads.
      text: its text, with the space before it; "" = a further part of the character before.
      special: it is no text, such as bos or the mask piece.
      language: "" = unknown.
      position, segment: as the model reads them; segments count from 1.
      type: the token type; None = the batch has none.
      weight: of the position's loss; None = the batch has neither weights nor chosen positions.
      target: text of the token that is predicted here; None = none is.
      change: a key of CHANGES; "" = the token is as in the text.
      begins: the first token of a change.
      original: text of the token that stood here; for a switched word, of the first piece of the original word.
      restarts: its position is 0 within its segment, not at the segment's beginning.
      ends: it ends a text within its segment.
    """

    id: int
    text: str
    special: bool
    language: str
    position: int
    segment: int
    type: int | None = None
    weight: float | None = None
    target: str | None = None
    change: str = ""
    begins: bool = False
    original: str = ""
    restarts: bool = False
    ends: bool = False


@dataclasses.dataclass(frozen=True)
class Slot:
    """A segment of a row.

    Attributes:
      number: from 0.
      labels: ("group", "466"), for example: slots of equal labels belong together.
      views: its tokens in each view of the batch, in the order of `Preview.views`.
    """

    number: int
    labels: tuple[tuple[str, str], ...]
    views: tuple[tuple[Token, ...], ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the batch.

    Attributes:
      language: of the whole row; "" = each token or slot has its own.
      padding: share of the positions without text, in each view.
    """

    number: int
    language: str
    padding: tuple[float, ...]
    slots: tuple[Slot, ...]


@dataclasses.dataclass(frozen=True)
class Preview:
    """The first rows of a stream's batch.

    Attributes:
      stage, stream, step: where the batch is read; steps count from 0 over all stages.
      size: rows of the whole batch.
      views: the prefix of each view's arrays: "" alone, or "" for queries and "key_" for keys.
      languages: the languages of the feed.
      arrays: name and shape of each array of the whole batch.
    """

    stage: str
    stream: str
    step: int
    size: int
    views: tuple[str, ...]
    languages: tuple[str, ...]
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    rows: tuple[Row, ...]


def side_by_side(row: Row) -> list[list[Slot]]:
    """The slots of a row that hold tokens; neighbours of equal labels, such as a concept's words, in one list."""
    used = [slot for slot in row.slots if any(slot.views)]
    return [list(same) for _, same in itertools.groupby(used, lambda slot: slot.labels or slot.number)]


def texts(tokens: Sequence[Token], by_language: bool) -> list[tuple[str, list[Token]]]:
    """(language, tokens) of each text of a segment. A text ends with eos or, `by_language`, where the language changes.

    Switched words stand in another language, but in the same text.
    """
    found: list[tuple[str, list[Token]]] = []
    for token in tokens:
        own = "" if token.change == SWITCHED else token.language
        if not found or found[-1][1][-1].ends or (by_language and own and found[-1][0] and own != found[-1][0]):
            found.append((own, []))
        found[-1][1].append(token)
        found[-1] = (found[-1][0] or own, found[-1][1])
    return found


def visible(text: str) -> str:
    r"""Text in which characters that move, hide or break text are written out: "\x1b", "\u202e", "\ud800"."""
    # No printable character is one of these; most texts hold nothing else.
    return text if text.isprintable() else "".join(map(_visible, text))


def piece(text: str) -> str:
    """A token's text by itself, without the space before it; "▁" for a space alone."""
    return visible(text.strip(" ")) or "▁" * text.startswith(" ")


def _visible(character: str) -> str:
    # Cc, Cf, Cs: controls, formats such as those that turn the direction of text, half surrogates. Zl, Zp: U+2028, 2029.
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _JOINERS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()
