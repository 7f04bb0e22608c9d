"""Texts of prepared stores, in the form of `comparable`, and how many of them are duplicates."""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from xalign_jax.data.cleaning import minhash
from xalign_jax.data.cleaning.comparable import comparable
from xalign_jax.data.store.store import Store, Stores
from xalign_jax.data.text.files import keyed_hash
from xalign_jax.data.tokens.tokenizer import Tokenizer

NEAR = 0.45  # similarity of near duplicates in statistics
MOST = 1_000_000  # documents of a language that statistics look at; stores are shuffled, so these are a sample
_BATCH = 1024


def texts(tokenizer: Tokenizer, store: Store, most: int | None = None) -> Iterator[list[str]]:
    """The first documents of a store (`most` None: all of them) in batches, decoded from their tokens."""
    documents = len(store.offsets) - 1
    documents = documents if most is None else min(most, documents)
    for first in range(0, documents, _BATCH):
        bounds = store.offsets[first : min(first + _BATCH, documents) + 1]
        yield [comparable(tokenizer.decode(store.tokens[a:b])) for a, b in itertools.pairwise(bounds.tolist())]


class Duplicates(NamedTuple):
    """Duplicates of a language's texts, over all tasks.

    Attributes:
      documents: training texts.   exact, near: how many of them duplicate an earlier one.
      validation: validation texts.   leaked, near_leaked: how many of them stand in the training text.
    """

    language: str
    documents: int
    exact: int
    near: int
    validation: int
    leaked: int
    near_leaked: int


def duplicates(tokenizer: Tokenizer, stores: Stores) -> list[Duplicates]:
    """The duplicates of each language, sorted by language."""
    languages = sorted({name for splits in stores.values() for found in splits.values() for name in found})
    # A bar is drawn if it takes long.
    return [_duplicates(name, tokenizer, stores) for name in tqdm(languages, "duplicates", delay=2, leave=False)]


def table(found: Sequence[Duplicates]) -> list[str]:
    """For each language, the shares of training texts that duplicate others, and of validation in training."""
    head = f"{'language':<9} {'documents':>10} {'exact':>8} {'near':>8} {'validation: in training':>24} {'near':>8}"
    return ["duplicates in training text, over all tasks:", head, *map(_line, found)]


def _line(one: Duplicates) -> str:
    exact, near = (f"{part / max(1, one.documents):.2%}" for part in (one.exact, one.near))
    leaked, near_leaked = (f"{part / max(1, one.validation):.2%}" for part in (one.leaked, one.near_leaked))
    return f"{one.language:<9} {one.documents:>10,} {exact:>8} {near:>8} {leaked:>24} {near_leaked:>8}"


def _duplicates(language: str, tokenizer: Tokenizer, stores: Stores) -> Duplicates:
    """Validation texts come first, so that training texts are duplicates of them too."""
    keys = array.array("Q")
    signed, counts = [], []
    for split in ("validation", "train"):
        before = len(keys)
        for store in (found[split][language] for found in stores.values() if language in found.get(split, {})):
            for batch in texts(tokenizer, store, MOST):
                keys.extend(map(keyed_hash, batch))
                signed.append(minhash.signatures(batch))
        counts.append(len(keys) - before)
    held_out, trained = counts
    _, firsts, inverse = np.unique(np.array(keys), return_index=True, return_inverse=True)
    # Training texts that are equal to an earlier one of training.
    in_training = np.unique(inverse[held_out:])
    exact = trained - len(in_training)
    leaked = np.isin(inverse[:held_out], in_training).sum()
    # Near duplicates are counted among texts of which no two are equal. Text i of them stood at place firsts[i] first.
    order = np.sort(firsts)
    pairs = order[minhash.near_pairs(np.concatenate(signed)[order], NEAR)]
    within = pairs[pairs[:, 0] >= held_out, 1]
    across = pairs[(pairs[:, 0] < held_out) & (pairs[:, 1] >= held_out), 0]
    return Duplicates(language, trained, exact, len(np.unique(within)), held_out, int(leaked), len(np.unique(across)))
