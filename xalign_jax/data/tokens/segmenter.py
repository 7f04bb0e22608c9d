"""Borders between words in scripts without spaces, found by ICU's dictionaries (package icu4py, extra `words`)."""

from __future__ import annotations

import functools
import importlib
import itertools
import re
from typing import Any

from xalign_jax.errors import UserError, install

# Stands at borders while a text is tokenised: a character that Unicode keeps free of meaning, so no text has it.
BORDER = "\ufdd1"
# Thai, Lao, Tibetan, Myanmar, Khmer; then the marks, kana and characters of Chinese and Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)


def is_unspaced(text: str) -> bool:
    """True if the text begins with a character of a script that has no spaces between words."""
    return _UNSPACED.match(text) is not None


@functools.cache
def _icu() -> tuple[Any, str]:
    """ICU's breaker of words, and the version of ICU."""
    try:
        return importlib.import_module("icu4py.breakers").WordBreaker, importlib.import_module("icu4py").icu_version
    except ImportError:
        raise UserError(f'Vocabulary.words = "icu" needs the package icu4py: {install("words")}') from None


def version() -> str:
    """The version of ICU, which decides where words end. Raises UserError if icu4py is not installed."""
    return _icu()[1]


def mark_borders(text: str) -> str:
    """The text with `BORDER` at each border between two words of which one is in a script without spaces.

    Borders at white space are not marked. In Tibetan, for which ICU has no dictionary, words are syllables.
    """
    text = text.replace(BORDER, "\ufffd")
    if _UNSPACED.search(text) is None:
        return text
    parts = list(_icu()[0](text, "root"))
    marked = parts[:1]
    for before, after in itertools.pairwise(parts):
        beside = is_unspaced(after) or is_unspaced(before[-1])
        marked += [BORDER, after] if beside and not (after[0].isspace() or before[-1].isspace()) else [after]
    return "".join(marked)
