"""Small hand-made models, stores and dictionaries with known answers."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bindable import Bindable

from xalign_jax.data.store.store import Store
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary


class Bigram(Bindable):
    """A model whose states depend on the token only: level l = level l-1 @ layers[l-1]; logits = level L @ head.T.

    params: embedding (V, D), layers (L, D, D), head (V, D).
    """

    causal = True
    tied = False
    max_length = 64
    mask_id = None

    def __init__(self, rows: int, width: int, layers: int = 1) -> None:
        self.vocabulary_size, self.width, self.num_layers = rows, width, layers

    def init(self, rng: jax.Array) -> dict[str, jax.Array]:
        shapes = {
            "embedding": (self.vocabulary_size, self.width),
            "layers": (self.num_layers, self.width, self.width),
            "head": (self.vocabulary_size, self.width),
        }
        return {
            name: jax.random.normal(jax.random.fold_in(rng, i), shape) for i, (name, shape) in enumerate(shapes.items())
        }

    def logical_axes(self) -> dict[str, tuple[str, ...]]:
        return {"embedding": ("vocab", "embed"), "layers": ("layers", "embed", "mlp"), "head": ("vocab", "embed")}

    def hidden(self, inputs, *, levels, capture=(), edit=None):
        states = [self.params["embedding"][inputs.tokens]]
        for layer in range(self.num_layers):
            states.append(states[-1] @ self.params["layers"][layer])
        return {level: states[level] for level in levels}

    def head_input(self, h):
        return h

    def head_weight(self):
        return self.params["head"]

    def head_bias(self):
        return None


def _params(embedding: np.ndarray, head: np.ndarray, layers: int = 1) -> dict[str, jax.Array]:
    identity = np.broadcast_to(np.eye(embedding.shape[1]), (layers, embedding.shape[1], embedding.shape[1]))
    values = {"embedding": embedding, "head": head, "layers": identity}
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def _store(documents: list[list[int]], language: str = "en", split: str = "validation", **about: object) -> Store:
    lengths = [len(document) for document in documents]
    count = len(documents)
    columns = {
        "tokens": np.concatenate(documents).astype(np.uint16),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "group": np.full(count, -1, np.int32),
        "text_hash": np.arange(count, dtype=np.uint32),
        "utf8_bytes": np.asarray([length - 1 for length in lengths], np.int32),
    }
    return Store(**columns | about, language=language, task="toy", split=split, fingerprint="toy")


def _prepared(tokenizer, stores: list[Store], lexicon=None, facts=None):
    tasks: dict[str, dict[str, dict[str, Store]]] = {}
    for store in stores:
        tasks.setdefault(store.task, {}).setdefault(store.split, {})[store.language] = store
    return types.SimpleNamespace(tokenizer=tokenizer, stores=tasks, lexicon=lexicon, facts=facts)


def _concepts(words: list[tuple[list[int], int, int, int]], languages=("en", "en_clone")):
    """A table of words (tokens, concept, language, text hash)."""
    return types.SimpleNamespace(
        ids=np.asarray([i for tokens, *_ in words for i in tokens], np.int32),
        starts=np.concatenate([[0], np.cumsum([len(tokens) for tokens, *_ in words])]).astype(np.int64),
        concept=np.asarray([word[1] for word in words], np.int32),
        language=np.asarray([word[2] for word in words], np.int32),
        text_hash=np.asarray([word[3] for word in words], np.uint32),
        languages=tuple(languages),
    )


@pytest.fixture
def toy() -> types.SimpleNamespace:
    """Functions that make the parts of a toy run."""
    return types.SimpleNamespace(
        model=Bigram, params=_params, store=_store, corpus=_prepared, concepts=_concepts, value=_value
    )


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A byte vocabulary with one clone: base ids 0..260, clone ids 261.., shared specials."""
    return Tokenizer(Bytes(), Vocabulary(kind="bytes", clones=1))


def _value(rows: list[dict], metric: str, **about: object) -> float:
    """The value of the only row with these keys. `control` is None unless it is given."""
    wanted = {"metric": metric, "control": None, **about}
    found = [row["value"] for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, rows)
    return found[0]
