"""Files of links: Pharaoh lines such as "0-0 1-2", JSON lines, and gold links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from xalign_jax.data.text.lines import read_lines
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.pairs import Alignment, Pair

_LINK = re.compile(r"(\d+)([-p])(\d+)")
_SEEN = 20  # sentence pairs after which a file without any 0 is taken to count from 1

Link = tuple[int, int]


class Gold(NamedTuple):
    """The gold links of a sentence pair, from 0: those that are sure, and those that are only possible."""

    sure: tuple[Link, ...]
    possible: tuple[Link, ...]


def pharaoh(alignment: Alignment) -> str:
    """A line of Pharaoh: "0-0 1-2", source word and target word from 0. Empty if there is no link."""
    return " ".join(f"{i}-{j}" for i, j in alignment.links)


def json_line(pair: Pair, alignment: Alignment) -> str:
    """A JSON object: line (from 1), source and target (words), links (from 0) and their probabilities."""
    values = [round(value, 4) for value in alignment.probabilities]
    row = {"line": pair.line, "source": pair.source, "target": pair.target, "links": alignment.links}
    return json.dumps({**row, "probabilities": values}, ensure_ascii=False)


def read_links(path: str, base: int = 0) -> Iterator[Gold]:
    """The links of each line of a Pharaoh file. "2-3" is sure, "2p3" only possible.

    Args:
      base: the number of a sentence's first word in the file.

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
                raise UserError(f"{path}:{number}: {text} counts words from 0; leave --gold_base=1 out")
            kinds[match[2]].append(link)
        yield Gold(tuple(kinds["-"]), tuple(kinds["p"]))


def read_gold(path: str, pairs: Iterator[Pair], base: int | None = None) -> Iterator[tuple[Pair, Gold]]:
    """Sentence pairs with their gold links.

    Args:
      base: the number of a sentence's first word in the file. None = 0, unless no link of the file has a 0: such a
        file is refused, because it probably counts from 1.

    Raises:
      UserError: naming file:line; a link lies outside its sentence pair, or the numbers of lines differ.
    """
    zero = base is not None
    any_link = False
    number = 0
    gold = read_links(path, base or 0)
    for number, pair in enumerate(pairs, 1):
        found = next(gold, None)
        if found is None:
            raise UserError(f"{path}: {number - 1} lines, but the texts have more; line n holds the links of line n")
        for i, j in found.sure + found.possible:
            any_link = True
            zero = zero or 0 in (i, j)
            if i >= len(pair.source) or j >= len(pair.target):
                raise _outside(path, pair, (i, j), base or 0, zero)
        yield pair, found
    if next(gold, None) is not None:
        raise UserError(f"{path}: more lines than the texts, which have {number}; line n holds the links of line n")
    if any_link and not zero and number >= _SEEN:
        raise UserError(f"{path}: no word 0 in {number} lines, so it seems to count from 1; add --gold_base=1 (or =0)")


def _outside(path: str, pair: Pair, link: Link, base: int, zero: bool) -> UserError:
    hint = "words are split at white space" if zero else "if the file counts from 1, add --gold_base=1"
    shown = "-".join(str(index + base) for index in link)
    return UserError(
        f"{path}:{pair.line}: link {shown} lies outside {len(pair.source)} source and {len(pair.target)} target words; {hint}"
    )
