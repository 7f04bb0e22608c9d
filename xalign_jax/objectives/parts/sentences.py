"""Sentence vectors of packed rows, and their ids in a contrast.

A ContrastFeed packs several sentences into one row, queries and keys into separate rows. A TextFeed of whole groups
packs sentences that are queries and keys at once. Shapes: R rows of T tokens, S slots (sentences) in a row, and P groups
and texts for each item. P is 2 where an item joins two pairs (InfoXLM's mixup), else 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment.pooling import pooled_tokens, segment_means
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.objectives.parts.candidates import Ids

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

POOLINGS = ("first", "mean", "last", "mask")
QUERY, KEY = "", "key_"
LANGUAGES = 4096  # more than a feed has


def level_of(model: Model, level: int | None) -> int:
    """The level that an objective's setting means; None = the model's last."""
    return model.num_layers if level is None else level


def check_level(name: str, model: Model, level: int | None) -> None:
    """Raise UserError if the model lacks the level. `name` is the objective's gin class."""
    if not 0 <= level_of(model, level) <= model.num_layers:
        raise UserError(f"{name}.level = {level}: the model has levels 0 to {model.num_layers}")


def check_encoder(name: str, model: Model, level: int | None, pooling: str) -> None:
    """Check an objective's settings against the model.

    Args:
      name: the objective's gin class, for messages.

    Raises:
      UserError: the model lacks the level, the pooling is unknown, it is "first" and the model is causal, or it is "mask"
        and the vocabulary has no mask token.
    """
    check_level(name, model, level)
    if pooling not in POOLINGS:
        raise UserError(f"{name}.pooling = {pooling!r}: one of {', '.join(POOLINGS)}")
    if pooling == "first" and model.causal:
        raise UserError(
            f"{name}.pooling = 'first': a causal model's first token has seen no other; use 'mean' or 'last'"
        )
    if pooling == "mask" and model.mask_id is None:
        raise UserError(f"{name}.pooling = 'mask': the vocabulary has no mask token; one of {', '.join(POOLINGS[:-1])}")


class PoolsSentences(Objective):
    """An objective whose field `pooling` says how the states of a sentence become its vector."""

    pooling: str

    def check_data(self, model: Model, read: Callable[[], Batch]) -> None:
        """Raise UserError for a sentence without a mask token, or with several, if its state is the vector."""
        if self.pooling != "mask":
            return
        batch = read()
        for which in (QUERY, KEY):
            if (segments := batch.get(f"{which}segment_ids")) is not None:
                slot = np.arange(1, segments.max(initial=0) + 1)[:, None, None]
                masks = np.sum((segments == slot) & (batch[f"{which}tokens"] == model.mask_id), axis=2)  # (S,R)
                if len(wrong := masks[(masks != 1) & np.any(segments == slot, axis=2)]):
                    raise UserError(
                        f"{type(self).__name__}.pooling = 'mask': a sentence has {wrong[0]} mask tokens, and one is needed; "
                        "write [MASK] once, in ContrastFeed.prefix or ContrastFeed.suffix"
                    )


def side(batch: Mapping[str, jax.Array], which: str) -> dict[str, jax.Array]:
    """tokens, positions, segment_ids (R,T) int32 of the query side ("") or the key side ("key_")."""
    return {name: batch[which + name] for name in ("tokens", "positions", "segment_ids")}


def sentence_vectors(model: Model, rows: Mapping[str, jax.Array], slots: int, level: int, pooling: str) -> jax.Array:
    """One vector for each sentence: (R * slots, width) float32, 0 where a slot is empty.

    Args:
      model: with its parameters bound.
      rows: tokens, positions and segment_ids (R,T), of `side`; optionally `corrupted` (R,T): read these instead.
      slots: S, the number of sentences that a row has room for.
      level: the level whose states are pooled; nothing above it is computed.
      pooling: "first" = the state of a segment's first token, "last" = the state of its last token, "mean" = the mean
        over its tokens that are not special, "mask" = the state of its mask token.
    """
    positions, segment_ids = rows["positions"], rows["segment_ids"]
    tokens = rows.get("corrupted", rows["tokens"])
    # (R,T) -> (R,T,width).
    states = model.hidden(Inputs(tokens, positions, segment_ids), levels=(level,))[level]
    # (R,T): the segment of each token that counts. Special tokens are those of the original text, because a masked
    # token is still a token of the sentence.
    special = jnp.asarray(model.special)[rows["tokens"]]
    masks = model.mask_id is not None and rows["tokens"] == model.mask_id
    own = pooled_tokens(segment_ids, positions, special, pooling, masks)
    # (R,S,width) -> (R S,width): one row for each item.
    return segment_means(states, own, slots).reshape(-1, states.shape[-1])


def contrast_ids(batch: Mapping[str, jax.Array]) -> tuple[Ids, Ids]:
    """Ids of the queries and of the keys of a contrast feed's batch: N = R * S items, query i is positive with key i.

    Both sides carry the texts of both sides of the item. English-centred corpora repeat English sentences. So a
    candidate may equal an anchor's positive, or be another translation of a sentence that equals the anchor. Neither
    is a negative.
    """
    # (R,S,P) -> (N,P). An item's number is its place in the batch; an empty slot is absent (-1).
    group = batch["group"].reshape(-1, batch["group"].shape[-1])
    own = jnp.where(group[:, 0] >= 0, jnp.arange(group.shape[0], dtype=jnp.int32), -1)
    text = item_texts(batch)
    return Ids(own, group, text), Ids(own, group, text)


def has_keys(batch: Mapping[str, jax.Array]) -> bool:
    """The batch is a ContrastFeed's: keys stand in rows of their own."""
    return f"{KEY}tokens" in batch


def group_ids(batch: Mapping[str, jax.Array]) -> Ids:
    """Ids of the N = R * S sentences of a batch of whole groups. All sentences of a group are positives of each other.

    A sentence with the text of another group's sentence is no negative of that group.
    """
    # (R,S,1) -> (N,). An empty slot has the group -1, which is absent.
    group = batch["group"].reshape(-1)
    return Ids(group, jnp.zeros((group.shape[0], 0), jnp.int32), batch["text"].reshape(-1, 1))


def item_texts(batch: Mapping[str, jax.Array]) -> jax.Array:
    """(R * S, 2 P) uint32: the hashes of the key's texts, then of the query's texts, of each item."""
    parts = (batch[name].reshape(-1, batch[name].shape[-1]) for name in ("key_text", "text"))
    return jnp.concatenate(list(parts), axis=1)


def swapped(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch with queries and keys exchanged. `group` belongs to both sides and stays."""
    names = ("tokens", "positions", "segment_ids", "text")
    return dict(batch) | {KEY + name: batch[name] for name in names} | {name: batch[KEY + name] for name in names}


def sides_apart(batch: Mapping[str, jax.Array]) -> bool:
    """Whether no language stands among the queries as well as among the keys of a contrast feed's batch."""

    @jax.jit
    def shared(queries: jax.Array, keys: jax.Array) -> jax.Array:
        # (languages,) bool each: -1 at padding becomes an index past the end, which is dropped.
        seen = [
            jnp.zeros(LANGUAGES, bool).at[jnp.where(one < 0, LANGUAGES, one).reshape(-1)].set(True, mode="drop")
            for one in (queries, keys)
        ]
        return jnp.any(seen[0] & seen[1])

    return not bool(shared(batch[f"{QUERY}token_language"], batch[f"{KEY}token_language"]))


def items(batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number of items in a contrast feed's batch; float32 scalar."""
    return jnp.sum(batch["group"][..., 0] >= 0, dtype=jnp.float32)
