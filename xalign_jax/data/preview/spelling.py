"""The text of single tokens. Pieces that are parts of a character have none: their character is put together here."""

from __future__ import annotations

import numpy as np

from xalign_jax.data.tokens.tokenizer import Tokenizer

_BYTE = "<0x"  # begins the name of a piece that is bytes
_MOST = 4  # bytes of a character


class Spelling:
    """Ids of a tokenizer as texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def one(self, number: int) -> str:
        """The text of one id with the space before it, or its name if it has no text."""
        base = number % self._tokenizer.base_size
        name, text = self._tokenizer.names[base], self._tokenizer.texts[base]
        if not name or number >= (self._tokenizer.clones + 1) * self._tokenizer.base_size:
            return f"<{number}>"  # an imported model's id, or an unused row
        # A byte below 128 is a character.
        return text if text and name.startswith(_BYTE) else name.replace("▁", " ")

    def texts(self, ids: np.ndarray) -> list[str]:
        """The text of each id (n,); bytes of one character give it at the first of them, and "" at the others."""
        found = [self.one(number) for number in ids.tolist()]
        start = 0
        while start < len(found):
            size = self._character(ids[start : start + _MOST], found[start : start + _MOST])
            if size:
                found[start] = self._tokenizer.decode(ids[start : start + size])
                found[start + 1 : start + size] = [""] * (size - 1)
            start += max(size, 1)
        return found

    def _character(self, ids: np.ndarray, names: list[str]) -> int:
        """How many of these bytes make up the first character; 0 = the first is no byte, or the text is damaged."""
        for size in range(1, len(ids) + 1):
            if not names[size - 1].startswith(_BYTE):
                return 0
            if (text := self._tokenizer.decode(ids[:size])) and "\ufffd" not in text:
                return size
        return 0
