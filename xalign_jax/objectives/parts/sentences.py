"""Sentence vectors of packed rows, and who they are in a contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import pooled_tokens, segment_means
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.parts.contrast import Ids

POOLINGS = ("first", "mean")
QUERY, KEY = "", "key_"


def check_encoder(name: str, model: Any, level: int, pooling: str) -> None:
    """Raise UserError for a level that the model lacks, or a pooling that there is not or that holds nothing.

    Args:
      name: the gin class.
    """
    if not 0 <= level <= model.num_layers:
        raise UserError(f"{name}.level = {level}: the model has levels 0 to {model.num_layers}")
    if pooling not in POOLINGS:
        raise UserError(f"{name}.pooling = {pooling!r}: one of {', '.join(POOLINGS)}")
    if pooling == "first" and model.causal:
        raise UserError(f"{name}.pooling = 'first': a causal model's first token has seen no other; use 'mean'")


def side(batch: Mapping[str, jax.Array], which: str) -> dict[str, jax.Array]:
    """tokens, positions, segment_ids (R,T) of the query side ("") or the key side ("key_")."""
    return {name: batch[which + name] for name in ("tokens", "positions", "segment_ids")}


def sentence_vectors(model: Any, rows: Mapping[str, jax.Array], slots: int, level: int, pooling: str) -> jax.Array:
    """(R * slots, width) float32 vectors of the segments of rows (R,T); 0 where a slot is empty.

    "first" is a segment's first token, "mean" the mean over its tokens that are not special. Where rows have
    `corrupted` tokens the model reads those.
    """
    positions, segment_ids = rows["positions"], rows["segment_ids"]
    tokens = rows.get("corrupted", rows["tokens"])
    states = model.hidden(Inputs(tokens, positions, segment_ids), levels=(level,))[level]
    own = pooled_tokens(segment_ids, positions, jnp.asarray(model.special)[rows["tokens"]], pooling)
    return segment_means(states, own, slots).reshape(-1, states.shape[-1])


def contrast_ids(batch: Mapping[str, jax.Array]) -> tuple[Ids, Ids]:
    """Ids of the queries and the keys of a contrast feed's batch, (R * S,) each: item i is positive with item i.

    Both carry the texts of both: what equals an anchor's positive is no negative of it, nor is another translation of
    what equals the anchor (English-centred corpora repeat English sentences).
    """
    group = batch["group"].reshape(-1, batch["group"].shape[-1])
    own = jnp.where(group[:, 0] >= 0, jnp.arange(group.shape[0], dtype=jnp.int32), -1)
    text = item_texts(batch)
    return Ids(own, group, text), Ids(own, group, text)


def item_texts(batch: Mapping[str, jax.Array]) -> jax.Array:
    """(R * S, 2 P) uint32 hashes of the texts on either side of each item, the key's first."""
    parts = (batch[name].reshape(-1, batch[name].shape[-1]) for name in ("key_text", "text"))
    return jnp.concatenate(list(parts), axis=1)


def swapped(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch with queries and keys exchanged."""
    names = ("tokens", "positions", "segment_ids", "text")
    return dict(batch) | {KEY + name: batch[name] for name in names} | {name: batch[KEY + name] for name in names}


def items(batch: Mapping[str, jax.Array]) -> jax.Array:
    """How many items a contrast feed's batch holds; float32 scalar."""
    return jnp.sum(batch["group"][..., 0] >= 0, dtype=jnp.float32)
