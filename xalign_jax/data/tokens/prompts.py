"""Words around every text, as a model was trained to read it: "query: " (e5), or a prompt with a mask token (PromptBERT)."""

from __future__ import annotations

import itertools

import numpy as np

from xalign_jax.data.tokens.tokenizer import Frame, Tokenizer
from xalign_jax.errors import UserError

MASK = "[MASK]"  # how prompts write the mask token, whatever the vocabulary calls it


def prompt(tokenizer: Tokenizer, owner: str, prefix: str, suffix: str) -> Frame:
    """Base ids of the words before and after a text. Spaces at the end of a prefix belong to the text.

    Args:
      owner: whose `prefix` and `suffix` they are, for messages.

    Raises:
      UserError: the words have [MASK], and the vocabulary has no mask token, or several.
    """
    return _ids(tokenizer, f"{owner}.prefix", prefix), _ids(tokenizer, f"{owner}.suffix", suffix)


def _ids(tokenizer: Tokenizer, binding: str, words: str) -> list[int]:
    parts = words.split(MASK)
    if len(parts) > 1 and tokenizer.mask is None:
        raise UserError(f"{binding} = {words!r}: the vocabulary has no mask token; leave {MASK} out")
    if len(parts) > 1 and len(np.unique(tokenizer.clone_table[:, tokenizer.mask])) > 1:
        raise UserError(f"{binding} = {words!r}: clones have masks of their own; set Vocabulary.clone_specials = False")
    # What stands between two masks is encoded by itself.
    ids = [tokenizer.encode([part.rstrip()])[0].tolist() if part.strip() else [] for part in parts]
    return [*ids[0], *itertools.chain.from_iterable([tokenizer.mask, *part] for part in ids[1:])]
