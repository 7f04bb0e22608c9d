"""Tokenizers of Hugging Face: a `tokenizer.json` and what it says about each piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from xalign_jax.data.tokens.pieces import SPACE, AsWritten, byte_name, is_punctuation, some_id

# Most ids without a token that a vocabulary may have beyond its number of tokens: a damaged id would fill the memory.
_MOST_HOLES = 100_000
_HF_SPECIALS = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[SEP]"),
    "unk": ("<unk>", "[UNK]"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
    "mask": ("<mask>", "[MASK]"),
}


class HuggingFacePieces(AsWritten):
    """A `tokenizer.json`. A `tokenizer_config.json` next to it names the specials, if there is one."""

    def __init__(self, files: dict[str, bytes]) -> None:
        from tokenizers import Tokenizer

        self.files = files
        text = files["tokenizer.json"].decode()
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        table = self._tokenizer.get_vocab(with_added_tokens=True)
        # Ids may have holes, so the size follows from the largest id.
        self.size = max(table.values()) + 1
        if self.size > 2 * len(table) + _MOST_HOLES:
            raise ValueError(f"{len(table)} tokens with ids up to {self.size - 1}")
        # Control pieces are the added tokens that are marked as special, and the specials in any case.
        # Parsed once: a large vocabulary has some 20 MB of JSON.
        content = json.loads(text)
        added = [entry["content"] for entry in content.get("added_tokens", []) if entry.get("special")]
        self.specials = _hf_specials(table, json.loads(files.get("tokenizer_config.json", b"{}")), added)
        self.control = np.zeros(self.size, bool)
        self.control[[table[name] for name in added if name in table]] = True
        self.control[[value for value in self.specials.values() if value is not None]] = True
        starts, self.texts, self.names = _hf_pieces(table, content, self.size)
        self.standalone = self.control | np.array([is_punctuation(text) for text in self.texts])
        self.word_start = self.standalone | starts
        own = self.encode(["a"])[0]
        self._prefix = "" if self.word_start[own[0]] else " "
        # The file's own template, such as [CLS] a [SEP].
        framed = self._tokenizer.encode("a").ids
        at = next((i for i in range(len(framed)) if framed[i : i + len(own)] == own), None)
        self.frame = None if at is None else (framed[:at], framed[at + len(own) :])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        # A document may hold a special's name, which is ordinary text there.
        self._tokenizer.encode_special_tokens = True
        try:
            return self.encode(texts)
        finally:
            self._tokenizer.encode_special_tokens = False

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode([self._prefix + word for word in words])

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        self._tokenizer.encode_special_tokens = True
        try:
            found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = False
        # Characters -> bytes. `maximum`: a piece that a normaliser adds may have no place of its own.
        places = []
        for text, encoding in zip(texts, found, strict=True):
            byte = np.cumsum([0, *(len(character.encode()) for character in text)])
            begins = np.array([begin for begin, _ in encoding.offsets], np.int64)
            places.append((encoding.ids, np.maximum.accumulate(byte[begins]).tolist()))
        return places

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _hf_specials(table: dict[str, int], config: dict[str, Any], added: list[str]) -> dict[str, int | None]:
    """Ids of the specials: the tokens that the config names, otherwise added tokens with a usual name."""
    specials: dict[str, int | None] = {}
    for name, usual in _HF_SPECIALS.items():
        named = config.get(f"{name}_token")
        # The config names a special by its text, or by a dict with its text.
        named = named["content"] if isinstance(named, dict) else named
        candidates = (named,) if named else tuple(piece for piece in usual if piece in added)
        specials[name] = some_id(table.get(piece) for piece in candidates)
    return specials


def _hf_pieces(table: dict[str, int], content: dict[str, Any], size: int) -> tuple[np.ndarray, list[str], list[str]]:
    """(size,) bool, the pieces that begin a word; each piece's text without its marker; its name (`Pieces.names`)."""
    starts, texts, names = np.zeros(size, bool), [""] * size, [""] * size
    # The kind of model decides the marker: WordPiece marks continuations, byte-level BPE writes a space as "Ġ", and
    # others mark word starts as SentencePiece does.
    continuing = content["model"].get("continuing_subword_prefix") or "##"
    word_piece = content["model"].get("type") == "WordPiece"
    byte_level = '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    literal = {entry["content"] for entry in content.get("added_tokens", [])}
    for piece, i in table.items():
        names[i] = piece
        if word_piece:
            starts[i], texts[i] = not piece.startswith(continuing), piece.removeprefix(continuing)
            names[i] = SPACE * int(starts[i]) + texts[i]
        elif byte_level:
            # Byte-level pieces are bytes in GPT-2's alphabet; added tokens are literal text.
            raw = piece.encode() if piece in literal else bytes(_BYTE_OF.get(character, 63) for character in piece)
            starts[i], texts[i] = raw[:1].isspace(), raw.decode(errors="replace").strip()
            names[i] = raw.decode(errors="replace").replace(" ", SPACE)
            if "\ufffd" in texts[i]:
                texts[i], names[i] = "", "".join(map(byte_name, raw))  # a part of a character is no punctuation
        else:
            starts[i], texts[i] = piece.startswith(SPACE), piece.lstrip(SPACE)
    return starts, texts, names


def _byte_of_character() -> dict[str, int]:
    """The bytes that GPT-2's printable characters stand for."""
    # Printable bytes stand for themselves, the others for the characters from 256 on, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()
