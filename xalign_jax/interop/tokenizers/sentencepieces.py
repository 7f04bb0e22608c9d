"""A SentencePiece model as the `tokenizers` library's JSON: unigram and BPE models."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable
from typing import Any

from xalign_jax.data.tokens.backends import composes, lowers
from xalign_jax.errors import UserError

NEVER = -1000.0  # score of a unigram piece that no text is to be segmented into
_USER_SCORE = 0.1  # of a user-defined piece in a unigram model, for each byte but the first
_SPACES = "[\u1680\u200b\u200c\u200e\u200f\u2028\u2029\ufeff\ufffd]"  # what SentencePiece's nmt_ rules add to NFKC's
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
UNUSUAL = {_USER: "user-defined", _CONTROL: "control", _UNKNOWN: "unknown", _UNUSED: "unused", _BYTE: "byte"}


def read_proto(model: bytes) -> Any:
    """The message of a SentencePiece model's file."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]


def convert(model: bytes) -> dict[str, Any]:
    """tokenizer.json without added tokens and post-processor.

    Raises:
      UserError: a model of words or characters, or one that treats spaces in a way that no fast tokenizer has.
    """
    proto = read_proto(model)
    byte_fallback = any(piece.type == _BYTE for piece in proto.pieces)
    make = {1: _unigram, 2: _bpe}.get(proto.trainer_spec.model_type)
    if make is None:
        raise UserError(
            "Vocabulary: a fast tokenizer exists for unigram and BPE models only; SentencePiece joins unknown words"
        )
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise UserError("Vocabulary: no fast tokenizer exists for SentencePiece's treat_whitespace_as_suffix")
    if not proto.normalizer_spec.escape_whitespaces:
        raise UserError("Vocabulary: no fast tokenizer exists for SentencePiece's escape_whitespaces = False")
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
    """Words, unless a piece crosses spaces; a BPE model's user-defined pieces; and cuts in names that no text may match.

    A BPE model takes user-defined pieces out of a text before it merges anything. Its isolated pieces are whole words to
    `tokenizers`, which `ignore_merges` leaves whole.
    """
    own = [p.piece for p in proto.pieces if p.type in (_NORMAL, _USER)]
    crossing = any("▁" in piece[1:] for piece in own)
    splits = [] if crossing else [_split({"String": "▁"}, "MergedWithNext")]
    if _takes_out(proto):
        user = sorted((p.piece for p in proto.pieces if p.type == _USER), key=len, reverse=True)
        splits.insert(0, _split({"Regex": _any(user)}, "Isolated"))
    if cuts := _cuts(proto, own):
        splits.append(_split({"Regex": cuts}, "MergedWithPrevious"))
    return splits


def _takes_out(proto: Any) -> bool:
    return proto.trainer_spec.model_type == 2 and any(p.type == _USER for p in proto.pieces)


def _split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _cuts(proto: Any, own: list[str]) -> str:
    """A pattern that ends inside each name (of a control piece, a byte and so on) which a text could wrongly match.

    A name is cut between two characters that stand together in no piece of a text, so that the cut changes nothing else.
    The lattice of `tokenizers` prefers a name to an unknown character; a BPE model takes a whole word for a piece.
    """
    known = {piece for piece in own if len(piece) == 1}
    together = {pair for piece in own for pair in map("".join, itertools.pairwise(piece))}
    tails: dict[str, list[str]] = {}  # what follows the cut, by what comes before
    for name in (p.piece for p in proto.pieces if p.type not in (_NORMAL, _USER)):
        if not _takes_out(proto) and (proto.trainer_spec.model_type == 2 or known.issuperset(name)):
            continue
        places = [i for i in range(1, len(name)) if name[i - 1 : i + 1] not in together]
        # Two unknown characters are one unknown piece if nothing parts them.
        places.sort(key=lambda i: known.isdisjoint(name[i - 1 : i + 1]))
        if places:
            tails.setdefault(name[: places[0]], []).append(name[places[0] :])
    return "|".join(f"{re.escape(head)}(?={_any(found)})" for head, found in tails.items())


def _any(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, texts))


def _decoders(byte_fallback: bool) -> list[dict[str, Any]]:
    first = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    first += [{"type": "ByteFallback"}] if byte_fallback else []
    return [*first, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]


def _unigram(proto: Any, byte_fallback: bool) -> dict[str, Any]:
    """Scores as SentencePiece uses them: of a user-defined piece its length decides.

    Pieces that SentencePiece never finds in a text get a score that no segmentation pays.
    """
    scores = {_NORMAL: lambda p: p.score, _USER: lambda p: _USER_SCORE * (len(p.piece.encode()) - 1)}
    vocab = [[p.piece, scores.get(p.type, lambda p: NEVER)(p)] for p in proto.pieces]
    unknown = next(i for i, p in enumerate(proto.pieces) if p.type == _UNKNOWN)
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback}


def _bpe(proto: Any, byte_fallback: bool) -> dict[str, Any]:
    """Merges in the order of the scores of what they make."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    normal = {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}
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
        "ignore_merges": _takes_out(proto),
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
    }
