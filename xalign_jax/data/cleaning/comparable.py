"""A form of texts in which two texts that differ only in case, spacing or punctuation are equal."""

from __future__ import annotations

import functools
import re
import unicodedata


def comparable(text: str) -> str:
    """The text in Unicode NFKC and lower case, without spaces, punctuation and control characters.

    A text that consists of these alone stays as it is, without the white space at its ends. The result is never empty.
    """
    return _ignored().sub("", unicodedata.normalize("NFKC", text).casefold()) or text.strip().replace("\0", " ") or " "


@functools.cache
def _ignored() -> re.Pattern[str]:
    """Runs of characters of the categories P (punctuation), Z (spaces) and C (control, format, unassigned).

    Only characters below U+10000 count, because `re` looks these up in a table. Wider classes are seven times slower.
    """
    # A string with the category of each code point, to find runs of ignored ones.
    kinds = "".join([unicodedata.category(chr(code))[0] for code in range(0x10000)])
    runs = [run.span() for run in re.finditer("[PZC]+", kinds)]
    return re.compile("[" + "".join(rf"\u{start:04x}-\u{end - 1:04x}" for start, end in runs) + "]+")
