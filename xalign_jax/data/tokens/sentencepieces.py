"""SentencePiece models: reading and training them."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from xalign_jax.data.tokens.pieces import SPACE, is_punctuation, some_id
from xalign_jax.data.tokens.segmenter import BORDER
from xalign_jax.errors import UserError, one_line

_TRAINING_THREADS = 4  # the same on every machine: SentencePiece splits sums of floats over threads
_SCORE_UNIT = 1 / 256  # scores of trained pieces are multiples of it, so that float32 sums are exact in any order


def _byte_text(piece: str) -> str:
    """The character of a byte-fallback piece ("," for "<0x2C>"); "" for a byte that is part of a character."""
    byte = int(piece[1:-1], 16)
    return chr(byte) if byte < 128 else ""


def _id(value: int, size: int) -> int | None:
    return value if 0 <= value < size else None


def composes(normalization: str) -> bool:
    """True if a SentencePiece normalisation of this name includes NFKC. Text is then normalised before SentencePiece.

    SentencePiece's own tables neither reorder combining marks nor compose across them. Ordinary text is not affected.
    """
    return "nfkc" in normalization


def lowers(normalization: str) -> bool:
    """True if a SentencePiece normalisation of this name folds case. Text is then lowered before SentencePiece."""
    return normalization.endswith("_cf")


class SentencePieces:
    """A SentencePiece model; the space marker is the leading "▁"."""

    frame: tuple[list[int], list[int]] | None = None

    def __init__(self, model: bytes) -> None:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        if not model:
            raise ValueError("the file is empty")
        self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
        self._normalization = proto.normalizer_spec.name
        self.files = {"spm.model": model}
        self.size = processor.get_piece_size()
        ids = list(range(self.size))
        self.names = pieces = [processor.id_to_piece(i) for i in ids]
        table = {piece: i for i, piece in enumerate(pieces)}
        self.specials = {
            "pad": _id(processor.pad_id(), self.size),
            "eos": _id(processor.eos_id(), self.size),
            "unk": _id(processor.unk_id(), self.size),
            "bos": _id(processor.bos_id(), self.size),
            "mask": some_id(table.get(name) for name in ("<mask>", "[MASK]")),
        }
        # (V,) bool: what SentencePiece marks as control pieces, and the specials in any case.
        self.control = np.array([processor.is_control(i) or processor.is_unknown(i) for i in ids])
        for value in self.specials.values():
            if value is not None:
                self.control[value] = True
        self.texts = [_byte_text(p) if processor.is_byte(i) else p.lstrip(SPACE) for i, p in enumerate(pieces)]
        self.standalone = self.control | np.array([is_punctuation(text) for text in self.texts])
        # (V,) bool: a piece with the marker begins a word, and so do specials and punctuation.
        self.word_start = self.standalone | np.array([piece.startswith(SPACE) for piece in pieces])
        # Most models put a space before the text by themselves; for the others, `encode_words` does.
        self._prefix = "" if self.word_start[processor.encode("a")[0]] else " "
        self.border = table.get(BORDER)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode([self.normal(text) for text in texts])

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        # Documents are encoded by several processes, so one thread is enough for each of them.
        return self._processor.encode([self.normal(text) for text in texts], num_threads=1)

    def normal(self, text: str) -> str:
        if composes(self._normalization):
            text = unicodedata.normalize("NFKC", text)
        return text.lower() if lowers(self._normalization) else text

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        found = self._processor.encode(list(texts), return_type="proto", num_threads=1)
        return [([p.id for p in text.pieces], [p.begin for p in text.pieces]) for text in found]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode([self._prefix + word for word in words])

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)


def train_sentencepiece(
    sentences: Sequence[str], size: int, model_type: str, lowercase: bool, borders: bool = False
) -> bytes:
    """A SentencePiece model of exactly `size` pieces: 0 pad, 1 `</s>`, 2 unk, 3 bos, 4 `<mask>`, then bytes and pieces.

    Args:
      sentences: lines in an order that does not depend on the machine.
      borders: the sentences hold `BORDER`, which becomes piece 5. No other piece reaches over it.
    Raises:
      UserError: the text is too small for `size` pieces, or SentencePiece refuses the settings.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            byte_fallback=model_type in ("unigram", "bpe"),
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=3,
            control_symbols=["<mask>"],
            user_defined_symbols=[BORDER] if borders else [],
            shuffle_input_sentence=False,
            num_threads=_TRAINING_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(error, None)
        if most := re.search(r"size too high .*<= (\d+)", reason):
            raise UserError(
                f"Vocabulary.size = {size}: the text is too small for so many pieces; set it to {most[1]} or fewer"
            ) from None
        raise UserError(
            f"Vocabulary.size = {size}, model_type = {model_type!r}: SentencePiece refuses: {reason}"
        ) from None
    # Round the scores: their sums are then exact in float32, so encoding does not depend on the order of the sums.
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]
    for piece in proto.pieces:
        piece.score = round(piece.score / _SCORE_UNIT) * _SCORE_UNIT
    return proto.SerializeToString(deterministic=True)
