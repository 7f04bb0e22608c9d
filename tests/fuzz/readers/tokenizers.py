"""Vocabularies of others: tokenizer.json with its configuration, SentencePiece models."""

from __future__ import annotations

import io
import json
from pathlib import Path

from fuzz.harness import Reader
from xalign_jax.data.tokens.backends import load_pieces
from xalign_jax.data.tokens.pieces import Pieces

WORDS = ["the cat sleeps", "die Katze schläft", "le chat dort, n'est-ce pas?", "кошка спит", "猫は眠る"] * 30


def _fast() -> list[dict[str, bytes]]:
    """Small tokenizers of every kind of model, with an ordinary added token and specials."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    found = []
    for kind in ("BPE", "Unigram", "WordPiece"):
        fast = Tokenizer(models.WordPiece(unk_token="<unk>") if kind == "WordPiece" else getattr(models, kind)())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel() if kind == "BPE" else pre_tokenizers.Metaspace()
        fast.decoder = decoders.ByteLevel() if kind == "BPE" else decoders.Metaspace()
        options = {"unk_token": "<unk>"} if kind == "Unigram" else {}
        names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
        trainer = getattr(trainers, f"{kind.replace('BPE', 'Bpe')}Trainer")(
            vocab_size=120, special_tokens=names, show_progress=False, **options
        )
        fast.train_from_iterator(WORDS, trainer)
        fast.add_tokens(["<tool>"])
        around = [("<s>", 2), ("</s>", 3)]
        fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
        config = {"pad_token": "<pad>", "eos_token": {"content": "</s>"}, "bos_token": "<s>", "model_max_length": 64}
        found.append({"tokenizer.json": fast.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()})
    return found


def _sentencepiece() -> list[dict[str, bytes]]:
    """Models of every type that SentencePiece trains."""
    import sentencepiece

    found = []
    for kind in ("unigram", "bpe", "word", "char"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(WORDS),
            model_writer=model,
            vocab_size=60,
            hard_vocab_limit=False,
            model_type=kind,
            user_defined_symbols=["<sep>"] if kind != "word" else [],
            minloglevel=2,
        )
        found.append({"spm.model": model.getvalue()})
    return found


def _check(pieces: Pieces, folder: Path) -> None:
    """Ids are of the vocabulary, and so are all that is said of its pieces."""
    assert len(pieces.texts) == len(pieces.names) == len(pieces.control) == len(pieces.word_start) == pieces.size
    assert all(0 <= i < pieces.size for i in pieces.specials.values() if i is not None)
    for ids in (*pieces.encode(["the cat", ""]), *pieces.encode_documents(["<s> cat"]), *pieces.encode_words(["cat"])):
        assert all(0 <= i < pieces.size for i in ids), ids
        pieces.decode(ids)


READERS = [
    Reader("tokenizer_json", _fast, lambda folder: load_pieces("huggingface", folder), _check),
    Reader("sentencepiece", _sentencepiece, lambda folder: load_pieces("sentencepiece", folder), _check),
]
