"""Rows of any feed's batch as plain values. The arrays alone tell what there is to show, not the kind of feed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.preview.spelling import Spelling
from xalign_jax.records.previewed import KEPT, MASKED, RANDOM, SWITCHED, Preview, Row, Slot, Token

LABELS = ("group", "concept")  # arrays whose equal values belong together

Arrays = Mapping[str, np.ndarray]


def collect(
    batch: Arrays,
    corpus: Corpus,
    languages: tuple[str, ...],
    *,
    rows: int,
    corrupted: Arrays | None = None,
    stage: str = "",
    stream: str = "",
    step: int = 0,
) -> Preview:
    """The first `rows` rows of a batch.

    Args:
      batch: arrays of B rows. Every view has `tokens`, `positions` and `segment_ids` (B, T); the views' names are
        prefixes ("key_tokens"). Others are shown if they are there. `targets`, `weights`, `types` and `token_language`
        are (B, T). `language` is (B,), (B, T), or (B, S) by slot. `group` and `concept` are (B,), (B, S) or (B, S, P).
      languages: of the feed; arrays of languages hold indices into it.
      corrupted: the arrays of `Objective.corrupted` for the same batch.
    """
    views = views_of(batch)
    size = len(batch["tokens"])
    reader = _Reader(batch, corpus, views, languages, corrupted or {})
    found = [reader.row(number) for number in range(min(rows, size))]
    arrays = tuple((name, array.shape) for name, array in batch.items())
    return Preview(stage, stream, step, size, views, languages, arrays, tuple(found))


def views_of(batch: Arrays) -> tuple[str, ...]:
    """The views of a batch, as prefixes of their arrays."""
    prefixes = [name.removesuffix("tokens") for name in sorted(batch, key=len) if name.endswith("tokens")]
    return tuple(view for view in prefixes if f"{view}segment_ids" in batch)


def token_languages(batch: Arrays, view: str = "") -> np.ndarray:
    """(B, T) the language of each position of a view, an index into the feed's languages; -1 = padding or unknown."""
    segments = batch[f"{view}segment_ids"]
    values = batch.get(f"{view}token_language", batch.get(f"{view}language", batch.get("language")))
    if values is None:
        return np.full(segments.shape, -1)
    # (B,), (B, T) or (B, S) by slot -> (B, T).
    values = values[:, None] if values.ndim == 1 else values
    if values.shape[1] not in (1, segments.shape[1]):
        values = np.take_along_axis(values, np.clip(segments - 1, 0, values.shape[1] - 1), axis=1)
    return np.where(segments > 0, values, -1)


class _Reader:
    """Reads rows of one batch."""

    def __init__(
        self, batch: Arrays, corpus: Corpus, views: tuple[str, ...], languages: tuple[str, ...], corrupted: Arrays
    ) -> None:
        self._batch, self._views, self._languages, self._corrupted = batch, views, languages, corrupted
        self._token_languages = {view: token_languages(batch, view) for view in views}
        self._tokenizer, self._spelling = corpus.tokenizer, Spelling(corpus.tokenizer)
        # The languages of the dictionary, from which switched words come.
        self._switched = () if corpus.lexicon is None else corpus.lexicon.languages

    def row(self, number: int) -> Row:
        """A row with its segments as slots."""
        language = self._batch.get("language")
        whole = self._name(language[number]) if language is not None and language.ndim == 1 else ""
        tokens = [self._tokens(view, number) for view in self._views]
        slots = max([token.segment for view in tokens for token in view], default=0)
        return Row(
            number,
            whole,
            tuple(float(np.mean(self._batch[f"{view}segment_ids"][number] == 0)) for view in self._views),
            tuple(
                Slot(
                    slot,
                    self._labels(number, slot),
                    tuple(tuple(t for t in v if t.segment == slot + 1) for v in tokens),
                )
                for slot in range(slots)
            ),
        )

    def _name(self, index: int) -> str:
        return self._languages[index] if 0 <= index < len(self._languages) else ""

    def _labels(self, row: int, slot: int) -> tuple[tuple[str, str], ...]:
        """The slot's values of the arrays in LABELS; -1 is none."""
        found = []
        for name in LABELS:
            if (values := self._batch.get(name)) is not None:
                values = values[row] if values.ndim == 1 else values[row][min(slot, len(values[row]) - 1)]
                found += [(name, str(value)) for value in np.ravel(values).tolist() if value >= 0]
        return tuple(found)

    def _tokens(self, view: str, row: int) -> list[Token]:
        """The positions of a row that are not padding."""
        clean, positions, segments = (self._batch[view + name][row] for name in ("tokens", "positions", "segment_ids"))
        read = np.asarray(self._corrupted.get(f"{view}tokens", self._batch[f"{view}tokens"]))[row]
        chosen = self._corrupted.get(f"{view}chosen")
        targets, weights = (self._batch.get(view + name) for name in ("targets", "weights"))
        types = self._batch.get(f"{view}types")
        if chosen is not None:  # the chosen positions are predicted, whatever else the batch holds
            picked = np.asarray(chosen)[row]
            changes, begins, originals = self._masks(clean, read, picked)
            predicted, weight = clean, picked.astype(np.float32)
        elif targets is None or weights is None:
            changes, begins, originals = [""] * len(read), np.zeros(len(read), bool), clean
            predicted = weight = None
        else:
            predicted, weight = targets[row], weights[row]
            changes, begins, originals = _switches(read, predicted, weight, segments)
        texts = self._spelling.texts(read)
        target = None if predicted is None else self._spelling.texts(predicted)
        languages = [self._name(index) for index in self._token_languages[view][row].tolist()]
        ends = self._tokenizer.unclone(clean) == self._tokenizer.eos
        inner = np.append(False, segments[1:] == segments[:-1])
        return [
            Token(
                id=int(read[t]),
                text=texts[t],
                special=bool(self._tokenizer.special[read[t]]),
                language=self._switched_to(languages[t]) if changes[t] == SWITCHED else languages[t],
                position=int(positions[t]),
                segment=int(segments[t]),
                type=None if types is None else int(types[row][t]),
                weight=None if weight is None else float(weight[t]),
                target=None if target is None or weight is None or weight[t] <= 0 else target[t],
                change=changes[t],
                begins=bool(begins[t]),
                original=self._spelling.one(int(originals[t])) if changes[t] else "",
                restarts=bool(inner[t] and positions[t] == 0),
                ends=bool(ends[t]),
            )
            for t in np.flatnonzero(segments > 0).tolist()
        ]

    def _masks(
        self, clean: np.ndarray, read: np.ndarray, chosen: np.ndarray
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """What became of each chosen position (T,), where changes begin, and the tokens of the text."""
        kinds = np.where(read == clean, KEPT, np.where(read == self._tokenizer.mask, MASKED, RANDOM))
        return np.where(chosen, kinds, "").tolist(), chosen, clean

    def _switched_to(self, language: str) -> str:
        """The language of switched words in a row of a language; "" = it may be one of several."""
        others = [name for name in self._switched if name != language]
        return others[0] if len(others) == 1 else ""


def _switches(
    read: np.ndarray, targets: np.ndarray, weights: np.ndarray, segments: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Which tokens (T,) a code-switching feed put in, where switched words begin, and the original's first piece."""
    # The original of the input at t + 1 is the target at t; a difference shows a switch.
    original = np.append(read[:1], targets[:-1])
    changed = np.append(False, (read != original)[1:] & (segments[1:] == segments[:-1]) & (segments[1:] > 0))
    # Later tokens of a switched word have weight 0: `goes_on`. A word of equal first tokens shows by them alone.
    weighs = np.append(True, weights[:-1] > 0)
    goes_on = changed & ~weighs
    begins = weighs & (changed | np.append(goes_on[1:], False))
    # The original of each later token is that of the token where its word begins.
    first = np.maximum.accumulate(np.where(begins, np.arange(len(read)), 0))
    return np.where(begins | goes_on, SWITCHED, "").tolist(), begins, original[first]
