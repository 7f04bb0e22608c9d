"""Text to base ids: SentencePiece, bytes, Hugging Face tokenizers and bare ids behind one small interface.

A `Pieces` object does not know clones. Each kind tells word starts by the marker in its pieces: "▁" (SentencePiece),
"Ġ" (byte-level BPE), the absence of "##" (WordPiece), a space (bytes).
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xalign_jax.data.tokens.segmenter import BORDER
from xalign_jax.errors import UserError, one_line

SPECIALS = ("pad", "eos", "unk", "bos", "mask")
_SPACE = "▁"
_TRAINING_THREADS = 4  # the same on every machine: SentencePiece splits sums of floats over threads
_SCORE_UNIT = 1 / 256  # scores of trained pieces are multiples of it, so that float32 sums are exact in any order


class Pieces(Protocol):
    """A vocabulary of V base pieces.

    Attributes:
      specials: id or None for each of `SPECIALS`.
      control: (V,) bool, pieces that text never contains (the specials and other control pieces).
      word_start, standalone: (V,) bool, see `Tokenizer`.
      texts: the spelling of each piece, without its marker; "" for a part of a character.
      names: each piece as SentencePiece would write it, "▁" for a space and "<0x..>" for a part of a character, so that
        equal pieces of two vocabularies have equal names. A control piece has its vocabulary's own name.
      files: contents of the files that reproduce the vocabulary, by name.
      border: id of the piece `segmenter.BORDER`, which no other piece reaches over; None if the vocabulary lacks it.
      frame: the ids that the vocabulary's own files put before and after a text; None if they do not say.
    """

    size: int
    specials: dict[str, int | None]
    control: np.ndarray
    word_start: np.ndarray
    standalone: np.ndarray
    texts: list[str]
    names: list[str]
    files: dict[str, bytes]
    border: int | None
    frame: tuple[list[int], list[int]] | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Base ids of each text, without added specials."""

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`; a special's name in a text is encoded as ordinary text."""

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Base ids of each word as after a space."""

    def normal(self, text: str) -> str:
        """The text as it is when pieces are looked for. Only what the library itself does to it is left to do."""

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """`encode_documents` of texts that `normal` gave, and the byte of the text at which each piece begins.

        A piece that begins within a character has the character's first byte. Bytes never fall from piece to piece.
        """

    def decode(self, ids: list[int]) -> str:
        """The text of base ids."""


def fingerprint(pieces: Pieces) -> str:
    """A hash of everything that decides base ids."""
    digest = hashlib.sha256(type(pieces).__name__.encode())
    for name, content in sorted(pieces.files.items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def is_punctuation(text: str) -> bool:
    """True if the text has nothing but punctuation and symbols."""
    # Most pieces begin with a letter, which the first test finds at once.
    return not text[:1].isalnum() and bool(text) and all(unicodedata.category(one)[0] in "PS" for one in text)


def _byte_text(piece: str) -> str:
    """The character of a byte-fallback piece ("," for "<0x2C>"); "" for a byte that is part of a character."""
    byte = int(piece[1:-1], 16)
    return chr(byte) if byte < 128 else ""


def _byte_name(byte: int) -> str:
    return f"<0x{byte:02X}>"


def _id(value: int, size: int) -> int | None:
    return value if 0 <= value < size else None


def _some_id(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


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
            "mask": _some_id(table.get(name) for name in ("<mask>", "[MASK]")),
        }
        # (V,) bool: what SentencePiece marks as control pieces, and the specials in any case.
        self.control = np.array([processor.is_control(i) or processor.is_unknown(i) for i in ids])
        for value in self.specials.values():
            if value is not None:
                self.control[value] = True
        self.texts = [_byte_text(p) if processor.is_byte(i) else p.lstrip(_SPACE) for i, p in enumerate(pieces)]
        self.standalone = self.control | np.array([is_punctuation(text) for text in self.texts])
        # (V,) bool: a piece with the marker begins a word, and so do specials and punctuation.
        self.word_start = self.standalone | np.array([piece.startswith(_SPACE) for piece in pieces])
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
        raise UserError(
            f"Vocabulary.size = {size}, model_type = {model_type!r}: SentencePiece refuses: {reason}"
        ) from None
    # Round the scores: their sums are then exact in float32, so encoding does not depend on the order of the sums.
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]
    for piece in proto.pieces:
        piece.score = round(piece.score / _SCORE_UNIT) * _SCORE_UNIT
    return proto.SerializeToString(deterministic=True)


class _AsWritten:
    """Pieces of texts as they are written, without a piece for borders."""

    border: int | None = None
    frame: tuple[list[int], list[int]] | None = None

    def normal(self, text: str) -> str:
        """The text."""
        return text


class Bytes(_AsWritten):
    """5 specials and the 256 bytes of UTF-8.

    A text that is not empty is encoded as if a space stood before it: a space belongs to the word that follows.
    """

    def __init__(self) -> None:
        self.files = {"bytes.json": b'{"first_byte": 5}'}
        self.size = len(SPECIALS) + 256
        self.specials: dict[str, int | None] = {name: i for i, name in enumerate(SPECIALS)}
        # Bytes below 128 are characters; the others are parts of characters.
        self.texts = [""] * len(SPECIALS) + [chr(i) for i in range(128)] + [""] * 128
        self.names = [*SPECIALS, *(_byte_name(i) for i in range(256))]
        self.control = np.arange(self.size) < len(SPECIALS)
        self.standalone = self.control | np.array([is_punctuation(text) for text in self.texts])
        self.word_start = self.standalone | np.array([text.isspace() for text in self.texts])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        offset = len(SPECIALS)
        return [[byte + offset for byte in b" " + text.encode()] if text else [] for text in texts]

    encode_documents = encode

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode(words)

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        encoded = [text.encode() for text in texts]
        # The space before the text begins where the text begins. Bytes 0b10...... go on with a character.
        first = [np.flatnonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80) for text in encoded]
        begins = [np.repeat(f, np.diff(f, append=len(text))) for f, text in zip(first, encoded, strict=True)]
        return [(ids, [0, *b.tolist()] if ids else []) for ids, b in zip(self.encode(texts), begins, strict=True)]

    def decode(self, ids: list[int]) -> str:
        offset = len(SPECIALS)
        return bytes(i - offset for i in ids if i >= offset).decode(errors="replace").removeprefix(" ")


# Most ids without a token that a vocabulary may have beyond its number of tokens: a damaged id would fill the memory.
_MOST_HOLES = 100_000
_HF_SPECIALS = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[SEP]"),
    "unk": ("<unk>", "[UNK]"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
    "mask": ("<mask>", "[MASK]"),
}


class HuggingFacePieces(_AsWritten):
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
        specials[name] = _some_id(table.get(piece) for piece in candidates)
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
            names[i] = _SPACE * int(starts[i]) + texts[i]
        elif byte_level:
            # Byte-level pieces are bytes in GPT-2's alphabet; added tokens are literal text.
            raw = piece.encode() if piece in literal else bytes(_BYTE_OF.get(character, 63) for character in piece)
            starts[i], texts[i] = raw[:1].isspace(), raw.decode(errors="replace").strip()
            names[i] = raw.decode(errors="replace").replace(" ", _SPACE)
            if "\ufffd" in texts[i]:
                texts[i], names[i] = "", "".join(map(_byte_name, raw))  # a part of a character is no punctuation
        else:
            starts[i], texts[i] = piece.startswith(_SPACE), piece.lstrip(_SPACE)
    return starts, texts, names


def _byte_of_character() -> dict[str, int]:
    """The bytes that GPT-2's printable characters stand for."""
    # Printable bytes stand for themselves, the others for the characters from 256 on, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()


MOST_IDS = 2**26  # ids of a vocabulary and its clones; more are a mistake, and their tables would fill the memory


class Ids(_AsWritten):
    """Token ids without text, for a model without its tokenizer. `ids.json` holds {"size": V, "specials": {}}."""

    def __init__(self, content: bytes) -> None:
        described = json.loads(content)
        self.files = {"ids.json": content}
        self.size: int = described["size"]
        if not isinstance(self.size, int) or not 0 < self.size <= MOST_IDS:
            raise UserError(f"ids.json: size = {str(self.size)[:40]}: a whole number up to {MOST_IDS}")
        self.specials: dict[str, int | None] = {name: described["specials"].get(name) for name in SPECIALS}
        self.control = np.isin(np.arange(self.size), [i for i in self.specials.values() if i is not None])
        self.standalone = self.control
        self.word_start = np.ones(self.size, bool)
        self.texts = self.names = [""] * self.size

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        if texts:
            raise UserError("this vocabulary has token ids only (its model was imported without a tokenizer): no text")
        return []

    encode_documents = encode

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode(words)

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        return [(ids, []) for ids in self.encode(texts)]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"<{i}>" for i in ids)


_FILES = {"sentencepiece": "spm.model", "huggingface": "tokenizer.json", "ids": "ids.json"}  # by kind of vocabulary


def load_pieces(kind: str, path: str | Path) -> Pieces:
    """The pieces of a file or directory. Raises UserError, naming it, if it is missing or of another kind."""
    if kind == "bytes":
        return Bytes()
    path = Path(path).expanduser()
    file = path / _FILES[kind] if path.is_dir() else path
    content = _read(file)
    config = file.parent / "tokenizer_config.json"
    try:
        if kind == "sentencepiece":
            return SentencePieces(content)
        if kind == "ids":
            return Ids(content)
        # The config is optional: without it, the specials have usual names.
        files = {"tokenizer.json": content} | ({config.name: _read(config)} if config.exists() else {})
        return HuggingFacePieces(files)
    except UserError:
        raise
    except BaseException as error:  # libraries raise exceptions of many kinds; Rust's panics are not Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = f"{type(error).__name__}: {one_line(error, None)}"
        reason = why_unreadable(content, f"no {kind} vocabulary, or cut short ({ascii(said)[1:-1]:.200})")
        raise UserError(f"{file}: {reason}; set Vocabulary.path to another file") from None


def why_unreadable(content: bytes, otherwise: str) -> str:
    """The reason why a file cannot be read: `otherwise`, unless Git LFS has left a pointer in its place."""
    pointer = content.startswith(b"version https://git-lfs")
    return "a pointer of Git LFS, not the file; run `git lfs pull` where it comes from" if pointer else otherwise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); set Vocabulary.path") from None
