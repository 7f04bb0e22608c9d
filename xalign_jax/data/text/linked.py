"""Parallel sentences, line by line, and gold links between their words.

Words are what white space separates, or what ICU finds. A line of links is Pharaoh's: "2-3" is a sure link and "2p3" a
possible one; the first number is the source word's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xalign_jax.data.text.lines import read_lines
from xalign_jax.data.tokens.segmenter import BORDER, mark_borders
from xalign_jax.errors import UserError

_LINK = re.compile(r"(\d+)([-p])(\d+)")
GOLD_BASE = "--gold_base"  # the option of `xalign align`
_SEEN = 20  # sentence pairs after which a file without any 0 is taken to count from 1

Link = tuple[int, int]


class Pair(NamedTuple):
    """One line of both files: its number from 1, and its words."""

    line: int
    source: tuple[str, ...]
    target: tuple[str, ...]


class Gold(NamedTuple):
    """The gold links of a sentence pair, from 0: those that are sure, and those that are only possible."""

    sure: tuple[Link, ...]
    possible: tuple[Link, ...]


def split_words(text: str, words: str = "spaces") -> tuple[str, ...]:
    """The words of a sentence: between white space, and with "icu" also where scripts without spaces have borders."""
    if words == "icu":
        text = mark_borders(text).replace(BORDER, " ")
    return tuple(text.split())


def read_pairs(source: str, target: str, words: str = "spaces") -> Iterator[Pair]:
    """The sentence pairs of two files, which may be compressed. One line is held at a time.

    Raises:
      UserError: the files have unequal numbers of lines, or `read_lines` refuses one.
    """
    missing = object()
    for (number, first), (_, second) in itertools.zip_longest(
        read_lines(source), read_lines(target), fillvalue=(0, missing)
    ):
        if not (isinstance(first, str) and isinstance(second, str)):
            raise _unequal(source, target)
        yield Pair(number, split_words(first, words), split_words(second, words))


def count_pairs(source: str, target: str) -> int:
    """The number of lines of both files. Raises UserError if they are unequal: before the work, not after it."""
    counts = [sum(1 for _ in read_lines(file)) for file in (source, target)]
    if counts[0] != counts[1]:
        raise _unequal(source, target, counts)
    return counts[0]


def _unequal(source: str, target: str, counts: Sequence[int] = ()) -> UserError:
    said = " and ".join(f"{count:,}" for count in counts) or "different numbers of"
    return UserError(f"{source} and {target} have {said} lines; line n of one must translate line n of the other")


def read_links(path: str, base: int = 0, option: str = GOLD_BASE) -> Iterator[Gold]:
    """The links of each line of a Pharaoh file. "2-3" is sure, "2p3" only possible.

    Args:
      base: the number of a sentence's first word in the file.
      option: what messages call `base`.

    Raises:
      UserError: naming file:line; something else stands there, or a number below `base`.
    """
    for number, line in read_lines(path):
        kinds: dict[str, list[Link]] = {"-": [], "p": []}
        for text in line.split():
            match = _LINK.fullmatch(text)
            if match is None:
                raise UserError(f"{path}:{number}: {text[:40]!r} is no link; write 2-3 (sure) or 2p3 (possible)")
            link = int(match[1]) - base, int(match[3]) - base
            if min(link) < 0:
                raise UserError(f"{path}:{number}: {text} counts words from 0; leave {option}=1 out")
            kinds[match[2]].append(link)
        yield Gold(tuple(kinds["-"]), tuple(kinds["p"]))


def read_gold(
    path: str, pairs: Iterator[Pair], base: int | None = None, option: str = GOLD_BASE
) -> Iterator[tuple[Pair, Gold]]:
    """Sentence pairs with their gold links.

    Args:
      base: the number of a sentence's first word in the file. None = 0, unless no link of the file has a 0: such a
        file is refused, because it probably counts from 1.
      option: what messages call `base`.

    Raises:
      UserError: naming file:line; a link lies outside its sentence pair, or the numbers of lines differ.
    """
    zero = base is not None
    any_link = False
    number = 0
    gold = read_links(path, base or 0, option)
    for number, pair in enumerate(pairs, 1):
        found = next(gold, None)
        if found is None:
            raise UserError(f"{path}: {number - 1} lines, but the texts have more; line n holds the links of line n")
        for i, j in found.sure + found.possible:
            any_link = True
            zero = zero or 0 in (i, j)
            if i >= len(pair.source) or j >= len(pair.target):
                raise _outside(path, pair, (i, j), base or 0, "" if zero else option)
        yield pair, found
    if next(gold, None) is not None:
        raise UserError(f"{path}: more lines than the texts, which have {number}; line n holds the links of line n")
    if any_link and not zero and number >= _SEEN:
        raise UserError(f"{path}: no word 0 in {number} lines, so it seems to count from 1; add {option}=1 (or =0)")


def _outside(path: str, pair: Pair, link: Link, base: int, option: str) -> UserError:
    """The error of a link outside its sentences. `option`: names the base, if that may be wrong; else ""."""
    hint = f"if the file counts from 1, add {option}=1" if option else "words are split at white space"
    shown = "-".join(str(index + base) for index in link)
    return UserError(
        f"{path}:{pair.line}: link {shown} lies outside {len(pair.source)} source and {len(pair.target)} target words; {hint}"
    )
