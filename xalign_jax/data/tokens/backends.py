"""Text to base ids: SentencePiece, bytes, Hugging Face tokenizers and bare ids behind one small interface.

A `Pieces` object does not know clones. Each kind tells word starts by the marker in its pieces: "▁" (SentencePiece),
"Ġ" (byte-level BPE), the absence of "##" (WordPiece), a space (bytes).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence

import numpy as np

from xalign_jax.data.tokens.huggingface import HuggingFacePieces
from xalign_jax.data.tokens.pieces import SPECIALS, AsWritten, Pieces, byte_name, is_punctuation
from xalign_jax.data.tokens.sentencepieces import SentencePieces
from xalign_jax.errors import UserError, one_line
from xalign_jax.remote_files import MISSING, file_state, is_url, open_bytes

MOST_IDS = 2**26  # ids of a vocabulary and its clones; more are a mistake, and their tables would fill the memory


class Bytes(AsWritten):
    """5 specials and the 256 bytes of UTF-8.

    A text that is not empty is encoded as if a space stood before it: a space belongs to the word that follows.
    """

    def __init__(self) -> None:
        self.files = {"bytes.json": b'{"first_byte": 5}'}
        self.size = len(SPECIALS) + 256
        self.specials: dict[str, int | None] = {name: i for i, name in enumerate(SPECIALS)}
        # Bytes below 128 are characters; the others are parts of characters.
        self.texts = [""] * len(SPECIALS) + [chr(i) for i in range(128)] + [""] * 128
        self.names = [*SPECIALS, *(byte_name(i) for i in range(256))]
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


class Ids(AsWritten):
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


CONFIG = "tokenizer_config.json"
_FILES = {"sentencepiece": "spm.model", "huggingface": "tokenizer.json", "ids": "ids.json"}  # by kind of vocabulary


def vocabulary_files(kind: str, path: str | os.PathLike) -> tuple[str, str]:
    """The file that holds the pieces, and the config beside it, which need not exist. `path` is the file or its folder.

    Raises:
      UserError: `path` is a URL, and its store does not answer.
    """
    place = os.path.expanduser(os.fspath(path))
    inside = os.path.join(place, _FILES[kind])
    # Object stores have no folders: a folder is there if the file in it is there.
    folder = file_state(inside)[0] != MISSING if is_url(place) else os.path.isdir(place)
    file = inside if folder else place
    return file, os.path.join(os.path.dirname(file), CONFIG)


def load_pieces(kind: str, path: str | os.PathLike) -> Pieces:
    """The pieces of a file or folder, which may be a URL. Raises UserError if it is missing or of another kind."""
    if kind == "bytes":
        return Bytes()
    file, config = vocabulary_files(kind, path)
    content = _read(file)
    try:
        if kind == "sentencepiece":
            return SentencePieces(content)
        if kind == "ids":
            return Ids(content)
        # The config is optional: without it, the specials have usual names.
        files = {"tokenizer.json": content} | ({CONFIG: _read(config)} if file_state(config)[0] != MISSING else {})
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


def _read(path: str) -> bytes:
    try:
        with open_bytes(path) as file:
            return file.read()
    except OSError as error:
        missing = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else ""
        reason = missing or error.strerror or one_line(error)
        raise UserError(f"{path}: cannot be read ({reason}); set Vocabulary.path") from None
