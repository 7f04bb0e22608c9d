"""A SentencePiece model (unigram or BPE) as the JSON of the `tokenizers` library."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from xalign_jax.data.tokens.sentencepieces import composes, lowers
from xalign_jax.errors import UserError

NEVER = -1000.0  # score of a unigram piece that no segmentation should choose
_USER_SCORE = 0.1  # of a user-defined piece in a unigram model, for each byte but the first
_SPACES = "[\u1680\u200b\u200c\u200e\u200f\u2028\u2029\ufeff\ufffd]"  # what SentencePiece's nmt_ rules add to NFKC's
# Types of pieces, by their numbers in SentencePiece's message.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
UNUSUAL = {_USER: "user-defined", _CONTROL: "control", _UNKNOWN: "unknown", _UNUSED: "unused", _BYTE: "byte"}


class Piece(Protocol):
    """A piece of a model."""

    piece: str
    score: float
    type: int


class NormalizerSpec(Protocol):
    """How a model normalises text; `precompiled_charsmap` is its own table of characters."""

    name: str
    precompiled_charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


class TrainerSpec(Protocol):
    """How a model was trained; `model_type` is 1 for unigram, 2 for BPE, and larger for words and characters."""

    model_type: int
    treat_whitespace_as_suffix: bool


class Proto(Protocol):
    """The fields of SentencePiece's ModelProto that are read here."""

    pieces: Sequence[Piece]
    trainer_spec: TrainerSpec
    normalizer_spec: NormalizerSpec


def read_proto(model: bytes) -> Proto:
    """The message of a SentencePiece model's file."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]


def convert(model: bytes) -> dict[str, Any]:
    """The contents of tokenizer.json, without added tokens and post-processor.

    Raises:
      UserError: a model of words or characters, or one that treats spaces in a way that fast tokenizers do not have.
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
    # Text goes through these in order; the decoder turns ids into text again.
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto.normalizer_spec)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(proto)},
        "decoder": {"type": "Sequence", "decoders": _decoders(byte_fallback)},
        "model": make(proto, byte_fallback),
    }


def _normalizers(spec: NormalizerSpec) -> list[dict[str, Any]]:
    """The steps that give SentencePiece's normalised text.

    The model's own table of characters comes last: `tokenizers` drops marks after a character that the table replaces.
    """
    # The named rules first: NFKC, case folding where Python's lower case differs, and the additional spaces.
    steps: list[dict[str, Any]] = [{"type": "NFKC"}] if composes(spec.name) else []
    steps += [{"type": "Lowercase"}, _replace("ς", "σ"), _replace("\u0345", "ι")] if lowers(spec.name) else []
    steps += [_replace(_SPACES, " ")] if spec.name.startswith("nmt_") else []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    # Spaces at last, when nothing can make new ones. SentencePiece puts one before the text.
    if spec.remove_extra_whitespaces:
        steps += [_replace("^ +| +$", ""), _replace(" {2,}", " ")]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]


def _replace(pattern: str, content: str) -> dict[str, Any]:
    """A normaliser that replaces each match of a regular expression."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _splits(proto: Proto) -> list[dict[str, Any]]:
    """How a text is cut before the model sees it.

    It is cut into words, unless a piece crosses spaces; around a BPE model's user-defined pieces; and inside names that
    no text may match (`_cuts`).

    A BPE model takes user-defined pieces out of a text before it merges anything. The pieces that are cut out are whole
    words to `tokenizers`, and `ignore_merges` leaves whole words as they are.
    """
    own = [p.piece for p in proto.pieces if p.type in (_NORMAL, _USER)]
    crossing = any("▁" in piece[1:] for piece in own)
    splits = [] if crossing else [_split({"String": "▁"}, "MergedWithNext")]
    # Longest first, because a regular expression takes the first alternative that matches.
    if _takes_out(proto):
        user = sorted((p.piece for p in proto.pieces if p.type == _USER), key=len, reverse=True)
        splits.insert(0, _split({"Regex": _any(user)}, "Isolated"))
    if cuts := _cuts(proto, own):
        splits.append(_split({"Regex": cuts}, "MergedWithPrevious"))
    return splits


def _takes_out(proto: Proto) -> bool:
    """Whether user-defined pieces are taken out of a text before merges: a BPE model that has some."""
    return proto.trainer_spec.model_type == 2 and any(p.type == _USER for p in proto.pieces)


def _split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
    """A step that cuts at each match of a pattern."""
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _cuts(proto: Proto, own: list[str]) -> str:
    """A pattern that ends inside each name which a text could wrongly match: names of control pieces, bytes and so on.

    A name is cut between two characters that are neighbours in no piece of a text, so the cut changes nothing else.
    Names match wrongly for two reasons. The lattice of `tokenizers` prefers a name to an unknown character, and a BPE
    model takes a whole word for a piece.
    """
    # Characters that are pieces, and pairs of neighbouring characters of any piece.
    known = {piece for piece in own if len(piece) == 1}
    together = {pair for piece in own for pair in map("".join, itertools.pairwise(piece))}
    tails: dict[str, list[str]] = {}  # what follows the cut, by what comes before
    for name in (p.piece for p in proto.pieces if p.type not in (_NORMAL, _USER)):
        # Some models spell the name by its characters and need no cut: a unigram model that knows all of them,
        # or a BPE model that merges every word.
        if not _takes_out(proto) and (proto.trainer_spec.model_type == 2 or known.issuperset(name)):
            continue
        places = [i for i in range(1, len(name)) if name[i - 1 : i + 1] not in together]
        # Two unknown characters are one unknown piece if nothing parts them.
        places.sort(key=lambda i: known.isdisjoint(name[i - 1 : i + 1]))
        if places:
            tails.setdefault(name[: places[0]], []).append(name[places[0] :])
    return "|".join(f"{re.escape(head)}(?={_any(found)})" for head, found in tails.items())


def _any(texts: Iterable[str]) -> str:
    """A pattern that matches any of some texts."""
    return "|".join(map(re.escape, texts))


def _decoders(byte_fallback: bool) -> list[dict[str, Any]]:
    """The steps from pieces to text: spaces, bytes that make characters, and the space before the text."""
    first = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    first += [{"type": "ByteFallback"}] if byte_fallback else []
    return [*first, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]


def _unigram(proto: Proto, byte_fallback: bool) -> dict[str, Any]:
    """A unigram model with the scores that SentencePiece uses: the length decides the score of a user-defined piece.

    Pieces that SentencePiece never finds in a text get a score that is too low for any segmentation.
    """
    scores = {_NORMAL: lambda p: p.score, _USER: lambda p: _USER_SCORE * (len(p.piece.encode()) - 1)}
    vocab = [[p.piece, scores.get(p.type, lambda p: NEVER)(p)] for p in proto.pieces]
    unknown = next(i for i, p in enumerate(proto.pieces) if p.type == _UNKNOWN)
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback}


def _bpe(proto: Proto, byte_fallback: bool) -> dict[str, Any]:
    """A BPE model: merges in the order of the scores of the pieces that they make."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    normal = {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}
    merges = []
    # SentencePiece has scores and no list of merges. Every pair of pieces that makes a piece is a merge.
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
