"""A SentencePiece model as the `tokenizers` library's JSON: unigram and BPE models."""

from __future__ import annotations

import base64
import re
from typing import Any

from xalign_jax.data.pieces import composes, lowers
from xalign_jax.errors import UserError

NEVER = -1000.0  # score of a unigram piece that no text is to be segmented into
_SPACES = "[\u1680\u200b\u200c\u200e\u200f\u2028\u2029\ufeff\ufffd]"  # what SentencePiece's nmt_ rules add to NFKC's
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def convert(model: bytes) -> dict[str, Any]:
    """tokenizer.json without added tokens and post-processor.

    Raises:
      UserError: a model of words or characters.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    byte_fallback = any(piece.type == _BYTE for piece in proto.pieces)
    make = {1: _unigram, 2: _bpe}.get(proto.trainer_spec.model_type)
    if make is None:
        raise UserError(
            "Vocabulary: a fast tokenizer exists for unigram and BPE models only; SentencePiece joins unknown words"
        )
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto.normalizer_spec)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(proto)},
        "decoder": {"type": "Sequence", "decoders": _decoders(byte_fallback)},
        "model": make(proto, byte_fallback),
    }


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    """The model's own table of characters comes last, as `tokenizers` drops marks behind what that table replaces."""
    steps: list[dict[str, Any]] = [{"type": "NFKC"}] if composes(spec.name) else []
    steps += [{"type": "Lowercase"}, _replace("ς", "σ"), _replace("\u0345", "ι")] if lowers(spec.name) else []
    steps += [_replace(_SPACES, " ")] if spec.name.startswith("nmt_") else []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps += [_replace("^ +| +$", ""), _replace(" {2,}", " ")]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _splits(proto: Any) -> list[dict[str, Any]]:
    """Words, unless a piece crosses spaces or is several; and the characters of specials' names that no piece holds.

    The lattice of `tokenizers` prefers any piece, a special's name too, to an unknown character.
    """
    crossing = any("▁" in piece.piece[1:] for piece in proto.pieces if piece.type in (_NORMAL, _USER))
    word = {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext", "invert": False}
    splits = [] if crossing else [word]
    known = {p.piece for p in proto.pieces if p.type in (_NORMAL, _USER)}
    named = {character for p in proto.pieces if p.type in (_CONTROL, _UNKNOWN, _BYTE) for character in p.piece}
    if unknown := sorted(named - known):
        pattern = {"Regex": "|".join(re.escape(character) for character in unknown)}
        splits.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    return splits


def _decoders(byte_fallback: bool) -> list[dict[str, Any]]:
    first = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    first += [{"type": "ByteFallback"}] if byte_fallback else []
    return [*first, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]


def _unigram(proto: Any, byte_fallback: bool) -> dict[str, Any]:
    """Pieces that SentencePiece never finds in a text get a score that no segmentation pays."""
    vocab = [[p.piece, p.score if p.type in (_NORMAL, _USER) else NEVER] for p in proto.pieces]
    unknown = next(i for i, p in enumerate(proto.pieces) if p.type == _UNKNOWN)
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback}


def _bpe(proto: Any, byte_fallback: bool) -> dict[str, Any]:
    """Merges in the order of the scores of what they make."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    normal = {p.piece: p.score for p in proto.pieces if p.type in (_NORMAL, _USER)}
    merges = []
    for piece in sorted(normal, key=lambda piece: (-normal[piece], vocab[piece])):
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = [pair for pair in pairs if pair[0] in normal and pair[1] in normal]
        merges += sorted(found, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    unknown = next(p.piece for p in proto.pieces if p.type == _UNKNOWN)
    return {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
    }
