"""Vocabularies and their clones: id i of clone language k is i + k * V, or closer together with `compact`.

A clone language has the words of its base language under other ids (PreAlign's English-Clone; Schäfer et al. 2024,
"Language Imbalance Can Boost Cross-lingual Generalisation"). All clones share the specials, or with `clone_specials`
each has its own; both conventions are published. With `anchors` the clones also share some ordinary pieces. Then i + k * V
is a row that no text uses, for each shared i. `compact` numbers only the pieces of a clone that are not shared.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xalign_jax.data.tokens.backends import MOST_IDS, Ids, load_pieces
from xalign_jax.data.tokens.pieces import SPECIALS, Pieces, fingerprint
from xalign_jax.data.tokens.segmenter import BORDER, is_unspaced, mark_borders, version
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.data.tokens.words import spaced_flags, split_words
from xalign_jax.errors import UserError, one_line
from xalign_jax.recipe import resolve
from xalign_jax.remote_files import MISSING, file_state, is_url, open_bytes

Frame = tuple[list[int], list[int]]  # ids before and after a text

_ROUND = 128  # the rows of a table are a multiple of it
_STOP = "。"  # a character to put before words of scripts without spaces; most vocabularies have it as a piece


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text of n tokens.

    Attributes:
      ids: (n,) int32 base ids.
      starts: (n,) bool, the tokens that begin words or are standalone; None without `Vocabulary.words`.
      places: (n,) int64, the byte of `Tokenizer.normal(text)` at which each token begins; None if not asked for.
      borders: borders between words of scripts without spaces, and how many of them lie between two tokens.
    """

    ids: np.ndarray
    starts: np.ndarray | None = None
    places: np.ndarray | None = None
    borders: tuple[int, int] = (0, 0)


class Tokenizer:
    """Text to base ids, base ids to the ids of a clone, and back.

    Attributes:
      size: rows of the model's table: `Vocabulary.rows`, or the number of ids rounded up to a multiple of 128.
      ids: ids of the vocabulary and its clones: (clones + 1) * base_size, or fewer with `Vocabulary.compact`.
      base_size: pieces of the base vocabulary, V.
      pad, eos, unk, bos, mask: base ids; None if the vocabulary lacks the special.
      word_start: (V,) bool, the piece begins a word; also true for specials and punctuation.
      standalone: (V,) bool, specials and punctuation. Each is a word by itself and never switched, and the next piece
        begins a word.
      shared: (V,) bool, ids that all clones share.
      special: (size,) bool, rows that text never contains: specials, other control pieces, unused rows.
      base_fingerprint: hash of everything that decides base ids.
      fingerprint: hash of the same and of the clones.
    """

    def __init__(self, pieces: Pieces, vocabulary: Vocabulary) -> None:
        self._pieces = pieces
        self.vocabulary = vocabulary
        self.base_size = pieces.size
        self.clones = vocabulary.clones
        self.pad, self.eos, self.unk, self.bos, self.mask = (
            pieces.specials[name] for name in ("pad", "eos", "unk", "bos", "mask")
        )
        self.word_start = pieces.word_start
        self.standalone = pieces.standalone
        self.shared = self._shared()
        # (V,) int64: how far a clone's id of each piece lies above the clone's first row, which is k * `_step`.
        own = ~self.shared
        self._step = int(own.sum()) if vocabulary.compact else self.base_size
        self._place = (
            np.cumsum(own) - 1 + self.base_size - self._step if vocabulary.compact else np.arange(self.base_size)
        )
        self.ids = self.base_size + self.clones * self._step
        self.size = self._rows()
        # All rows are special until text can contain them: ordinary pieces, and their clones.
        self.special = np.ones(self.size, bool)
        for k in range(self.clones + 1):
            self.special[self.clone(np.flatnonzero(~pieces.control), k)] = False
        self.base_fingerprint = fingerprint(pieces)
        if vocabulary.words:
            # Another version of ICU may find other words.
            parts = [self.base_fingerprint, vocabulary.words, version()]
            self.base_fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        elif pieces.border is not None:
            raise UserError('Vocabulary.path: the vocabulary was trained with Vocabulary.words = "icu"; bind it again')
        # Settings of clones count only if there are clones, so that they do not change other fingerprints.
        clones: list[int | float] = [self.clones, vocabulary.clone_specials, vocabulary.anchors] if self.clones else []
        # Newer settings count only where they are used, for the same reason.
        newer = [vocabulary.anchor_seed if vocabulary.anchors else 0, vocabulary.compact]
        clones += newer if self.clones and any(newer) else []
        self.fingerprint = hashlib.sha256(json.dumps([self.base_fingerprint, clones]).encode()).hexdigest()[:16]

    def _rows(self) -> int:
        """Rows of the model's table. Raises UserError if there are too many, or fewer than ids."""
        ids, rows = self.ids, self.vocabulary.rows
        if not 0 < max(ids, rows or 0) <= MOST_IDS:
            raise UserError(f"Vocabulary.clones, .rows: {max(ids, rows or 0)} ids; at most {MOST_IDS}")
        if rows is not None and rows < ids:
            raise UserError(f"Vocabulary.rows = {rows}: the vocabulary and its clones have {ids} ids")
        return -(-ids // _ROUND) * _ROUND if rows is None else rows

    def _shared(self) -> np.ndarray:
        control = self._pieces.control
        shared = control.copy()
        if self.vocabulary.clone_specials:
            shared = np.arange(self.base_size) == (-1 if self.pad is None else self.pad)
        # The anchors are the first ordinary pieces of a fixed random order: more anchors include fewer ones.
        ordinary = np.random.default_rng(self.vocabulary.anchor_seed).permutation(np.flatnonzero(~control))
        shared[ordinary[: round(self.vocabulary.anchors * ordinary.size)]] = True
        return shared

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Base ids (n,) int32 of each text; no specials are added."""
        return self._without_borders(self._pieces.encode(self._marked(texts)))

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of texts to learn from: the name of a special token in them is text to imported tokenizers too."""
        return self._without_borders(self._pieces.encode_documents(self._marked(texts)))

    def _marked(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts with borders between words, if the vocabulary has a piece for them."""
        return texts if self._pieces.border is None else [mark_borders(text) for text in texts]

    def _without_borders(self, rows: Sequence[list[int]]) -> list[np.ndarray]:
        """Each row as (n,) int32 ids, without the ids of borders."""
        arrays = [np.array(row, np.int32) for row in rows]
        border = self._pieces.border
        return arrays if border is None else [row[row != border] for row in arrays]

    def normal(self, text: str) -> str:
        """The text as it is when pieces are looked for: composed and lowered, where the vocabulary does that."""
        return self._pieces.normal(text)

    def encode_texts(self, texts: Sequence[str], places: bool = False) -> list[Encoded]:
        """`encode_documents` of texts, with the words in them and, if asked, the place of each token."""
        if not self.vocabulary.words and not places:
            return [Encoded(ids) for ids in self.encode_documents(texts)]
        texts = [self.normal(text) for text in texts]
        if not self.vocabulary.words:
            found = self._pieces.places(texts)
            return [Encoded(np.array(ids, np.int32), places=np.array(at, np.int64)) for ids, at in found]
        marked = [mark_borders(text) for text in texts]
        if self._pieces.border is None:
            plain = [text.replace(BORDER, "") for text in marked]
            return [
                self._of_pieces(*row)
                for row in zip(marked, *zip(*self._pieces.places(plain), strict=True), strict=True)
            ]
        if places:
            return [self._of_borders(ids, at) for ids, at in self._pieces.places(marked)]
        return [self._of_borders(ids) for ids in self._pieces.encode_documents(marked)]

    def _of_borders(self, row: list[int], at: list[int] | None = None) -> Encoded:
        """The tokens of a text that was cut at its borders: the tokens after borders begin words.

        Args:
          row: ids with those of borders.   at: the byte of each in the text with borders.
        """
        ids = np.array(row, np.int32)
        border = ids == self._pieces.border
        kept = np.flatnonzero(~border)
        begins = np.append(False, border)[kept]  # the token before is a border
        # (n,) bytes that the borders before each token take.
        before = np.cumsum(border)[kept] * len(BORDER.encode())
        places = None if at is None else np.array(at, np.int64)[kept] - before
        count = int(np.count_nonzero(border))
        return Encoded(ids[kept], self._starts(ids[kept], begins), places, (count, count))

    def _of_pieces(self, marked: str, row: list[int], at: list[int]) -> Encoded:
        """The tokens of a text that was not cut: those that begin at a border begin words."""
        ids, places = np.array(row, np.int32), np.array(at, np.int64)
        # (K,) bytes of the text at which its borders lie. A place that comes twice is a character in several pieces.
        borders = np.cumsum([len(part.encode()) for part in marked.split(BORDER)])[:-1]
        begins = np.isin(places, borders) & (np.diff(places, prepend=-1) > 0)
        return Encoded(ids, self._starts(ids, begins), places, (len(borders), int(np.count_nonzero(begins))))

    @functools.cached_property
    def _spaced_flags(self) -> np.ndarray:
        return spaced_flags(self)

    def _starts(self, ids: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """(n,) bool: the tokens of a text that begin words, of which `begins` (n,) are known beside spaces."""
        starts = split_words(self._spaced_flags[ids][None])[0][0] | begins
        starts[:1] = True
        return starts

    def encode_words(self, words: Sequence[str], spaced: bool = False) -> list[np.ndarray]:
        """Base ids (n,) int32 of each word as it is encoded inside a text; no specials are added.

        A word is encoded as after a space. A word of a script without spaces is encoded as after another character.

        Args:
          spaced: encode words of scripts without spaces as after a space too, which also occurs in texts.
        """
        words = self._marked(words)
        found = self._pieces.encode_words(words)
        unspaced = [number for number, word in enumerate(words) if not spaced and is_unspaced(word)]
        if (border := self._pieces.border) is not None:
            # The ids after the first border are what the word has inside a text.
            for number, ids in zip(
                unspaced, self._pieces.encode([BORDER + words[number] for number in unspaced]), strict=True
            ):
                found[number] = ids[ids.index(border) :]
            return self._without_borders(found)
        # Encode the words without spaces after `_STOP` and cut its ids off. If that fails, the ids after a space stay.
        before, *texts = (
            self._pieces.encode([_STOP, *(_STOP + words[number] for number in unspaced)]) if unspaced else [[]]
        )
        for number, ids in zip(unspaced, texts, strict=True):
            if ids[: len(before)] == before and len(ids) > len(before):
                found[number] = ids[len(before) :]
        return [np.array(ids, np.int32) for ids in found]

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """The text of ids. A clone's ids give the base text; specials and unused rows give nothing."""
        # (n,) ids -> ids that have a piece -> base ids without control pieces.
        rows = np.asarray(ids, np.int64).reshape(-1)
        base = self.unclone(rows[rows < self.ids])
        return self._pieces.decode(base[~self._pieces.control[base]].tolist())

    def clone(self, ids: np.ndarray | np.int32, k: int | np.ndarray) -> np.ndarray:
        """Base ids as clone k writes them, int32; k = 0 leaves them as they are. `ids` and `k` broadcast together."""
        ids = np.asarray(ids, np.int32)
        k = np.asarray(k, np.int32)
        return np.where(self.shared[ids] | (k == 0), ids, self._place[ids] + k * np.int32(self._step)).astype(np.int32)

    @functools.cached_property
    def clone_table(self) -> np.ndarray:
        """(clones + 1, base_size) int32: each base id as each clone writes it; row 0 leaves them as they are."""
        return np.stack([self.clone(np.arange(self.base_size), k) for k in range(self.clones + 1)])

    def unclone(self, ids: np.ndarray) -> np.ndarray:
        """The base ids of ids of any clone, int32, same shape."""
        if not self.vocabulary.compact:
            return (np.asarray(ids) % self.base_size).astype(np.int32)
        return self._bases[ids]

    @functools.cached_property
    def _bases(self) -> np.ndarray:
        """(size,) int32: the base id of each row; 0 for rows that no text contains."""
        bases = np.zeros(self.size, np.int32)
        for k in range(self.clones, -1, -1):
            bases[self.clone_table[k]] = np.arange(self.base_size)
        return bases

    def language_rows(self, k: int) -> np.ndarray:
        """(size,) bool: the rows that text of clone k may contain, which are its own and the shared ones."""
        rows = np.zeros(self.size, bool)
        rows[self.clone_table[k]] = True
        return rows

    @functools.cached_property
    def row_map(self) -> np.ndarray | None:
        """(size,) int32: the row whose parameters each row uses; None if clones are not tied.

        A row in use maps to its base id. An unused row (a clone of a shared id, or the rounding) maps to itself.
        """
        if not self.vocabulary.tie_clones:
            return None
        # (size,) bool: rows that any clone writes.
        used = np.any([self.language_rows(k) for k in range(self.clones + 1)], axis=0)
        rows = np.arange(self.size, dtype=np.int32)
        return np.where(used, self.unclone(rows), rows)

    @property
    def texts(self) -> list[str]:
        """The spelling of each base piece, without a space before it; "" for parts of characters."""
        return self._pieces.texts

    @property
    def frame(self) -> Frame | None:
        """Base ids that the vocabulary's own files put before and after a text; None if they do not say."""
        return self._pieces.frame

    def framing(self, causal: bool) -> Frame:
        """What feeds and exports write around a text: bos before it, and eos after it if the model sees both sides."""
        before, after = ([] if one is None else [one] for one in (self.bos, self.eos))
        return before, ([] if causal else after)

    @property
    def names(self) -> list[str]:
        """The name of each base piece, with spaces and parts of characters (`Pieces.names`)."""
        return self._pieces.names

    @property
    def files(self) -> dict[str, bytes]:
        """The files that reproduce the pieces, by name."""
        return self._pieces.files

    def with_clones(self, vocabulary: Vocabulary) -> Tokenizer:
        """A tokenizer of the same pieces with the clones of another setting."""
        return Tokenizer(self._pieces, vocabulary)

    def save(self, directory: str | Path) -> None:
        """Write the files that `load` reads: vocabulary.json (settings) and the files of the pieces."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
        # The fingerprint and the size are saved too, so that `load` notices damaged files.
        settings = {
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "base_size": self.base_size,
            "size": self.size,
            "fingerprint": self.fingerprint,
        }
        if self.vocabulary.words:
            settings["icu"] = version()
        (directory / "vocabulary.json").write_text(json.dumps(settings, indent=2) + "\n")

    @staticmethod
    def of(vocabulary: Vocabulary) -> Tokenizer:
        """The tokenizer at `vocabulary.path`. Raises UserError if there is no vocabulary of its kind."""
        return Tokenizer(load_pieces(vocabulary.kind, vocabulary.path or ""), vocabulary)

    @staticmethod
    def load(directory: str | os.PathLike) -> Tokenizer:
        """The tokenizer that `save` wrote. Raises UserError if its files are missing or differ from those saved."""
        file = os.path.join(directory, "vocabulary.json")
        try:
            with open_bytes(file) as opened:
                saved = json.loads(opened.read().decode())
            vocabulary, fingerprint, size = Vocabulary(**saved["vocabulary"]), saved["fingerprint"], saved["size"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as error:
            raise UserError(f"{file}: no saved vocabulary ({one_line(error)})") from None
        if vocabulary.words and saved.get("icu") != version():
            raise UserError(
                f"{file}: words were found by ICU {saved.get('icu')}, but the package icu4py here has ICU {version()}, "
                "which may find others; install the version of icu4py with which the vocabulary was made"
            )
        try:
            tokenizer = Tokenizer(load_pieces(vocabulary.kind, directory), vocabulary)
            wrong = (
                "" if (tokenizer.fingerprint, tokenizer.size) == (fingerprint, size) else "another fingerprint or size"
            )
        except Exception as error:  # each kind of pieces has exceptions of its own for damaged files
            wrong = one_line(error)
        if wrong:
            files = "" if is_url(file) else ": " + ", ".join(sorted(os.listdir(directory)))
            raise UserError(
                f"{directory}: not the vocabulary that was saved there ({wrong}); bring its files back{files}"
            )
        return tokenizer


def blank_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer with the sizes and specials that `vocabulary` describes.

    If the vocabulary is yet to be trained, or its file is not here, the tokenizer has ids without text.

    Raises:
      UserError: the vocabulary's file is missing and `Vocabulary.rows` is not given.
    """
    # A vocabulary that is here is read, because its specials matter.
    there = vocabulary.path is not None and file_state(resolve(vocabulary.path))[0] != MISSING
    if vocabulary.kind == "bytes" or there:
        return Tokenizer(load_pieces(vocabulary.kind, vocabulary.path or ""), vocabulary)
    if not vocabulary.trained and vocabulary.rows is None:
        raise UserError(f"Vocabulary.path = {vocabulary.path}: no such file; or bind Vocabulary.rows to its size")
    size = vocabulary.size if vocabulary.rows is None else vocabulary.rows // (vocabulary.clones + 1)
    # A trained vocabulary has the specials in this order; an unknown one is taken to have them too.
    specials = {name: i for i, name in enumerate(SPECIALS)}
    return Tokenizer(Ids(json.dumps({"size": size, "specials": specials}).encode()), vocabulary)
