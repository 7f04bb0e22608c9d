"""Prompts around texts: the mask token is written, and what a vocabulary cannot write is refused."""

from __future__ import annotations

import pytest
from fakes import FakeTokenizer

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.prompts import prompt
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError


def test_prompts_write_the_mask_token_and_leave_spaces_before_a_text_to_it():
    tokenizer = FakeTokenizer(["▁w1", "▁w2"])
    mask = tokenizer.mask
    w1, w2 = (tokenizer.encode([word])[0].tolist() for word in ("w1", "w2"))
    assert prompt(tokenizer, "F", " ", "") == ([], [])
    assert prompt(tokenizer, "F", "w1  ", "[MASK]") == (w1, [mask])
    assert prompt(tokenizer, "F", "w1 [MASK] w2[MASK]", " w2 ") == ([*w1, mask, *w2, mask], w2)


def test_a_prompt_whose_mask_the_vocabulary_lacks_or_has_several_times_is_refused():
    bytes_only = Tokenizer(Bytes(), Vocabulary("bytes", clones=1, clone_specials=True))
    with pytest.raises(UserError, match=r"F.suffix = '\[MASK\]': clones have masks of their own"):
        prompt(bytes_only, "F", "", "[MASK]")
    bytes_only.mask = None
    with pytest.raises(UserError, match=r"F.prefix = 'a \[MASK\]': the vocabulary has no mask token; leave"):
        prompt(bytes_only, "F", "a [MASK]", "")
