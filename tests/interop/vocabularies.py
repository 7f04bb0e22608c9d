"""SentencePiece models with all types of pieces, trained on a few generated lines."""

from __future__ import annotations

import io

import sentencepiece

from xalign_jax.data.tokens.sentencepieces import SentencePieces
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary

USER, CONTROL = ("<sep>", "<ent>", "GNOME", "->"), ("<ctl>",)
LINES = ["click Files -> Open in GNOME", "the cats sleep and the GNOME <ent> sleeps", "a clip, a cliff -> open it"] * 40
LINES += ["die Katze schläft in der Küche, öffnet <sep> Dateien", "кошка спит на окне, открыть файлы"] * 40


def unusual(model_type: str, byte_fallback: bool = True, user=USER, **options) -> Tokenizer:
    """A tokenizer with user-defined and control pieces and a clone. No piece of its text contains "<" or ">"."""
    model = io.BytesIO()
    options = {"normalization_rule_name": "nmt_nfkc", "treat_whitespace_as_suffix": False} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=360,
        hard_vocab_limit=False,
        model_type=model_type,
        byte_fallback=byte_fallback,
        user_defined_symbols=list(user),
        control_symbols=list(CONTROL),
        pad_id=3,
        minloglevel=2,
        **options,
    )
    return Tokenizer(SentencePieces(model.getvalue()), Vocabulary(clones=1))
