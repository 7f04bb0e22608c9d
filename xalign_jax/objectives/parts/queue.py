"""A ring of past keys: negatives for a contrast. Plain arrays; rows may be sharded over devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xalign_jax.objectives.parts.contrast import Ids

Queue = dict[str, jax.Array]

PARTS = 2  # groups and texts of a key: mixup rows carry two
AXES = {"keys": ("queue", None), "group": ("queue", None), "text": ("queue", None), "next": ()}


def empty(size: int, width: int) -> Queue:
    """`size` places that hold nothing: keys (K,D) float32, group (K,2) int32 (-1), text (K,2) uint32, next () int32."""
    return {
        "keys": jnp.zeros((size, width), jnp.float32),
        "group": jnp.full((size, PARTS), -1, jnp.int32),
        "text": jnp.zeros((size, PARTS), jnp.uint32),
        "next": jnp.zeros((), jnp.int32),
    }


def push(queue: Queue, keys: jax.Array, group: jax.Array, text: jax.Array) -> Queue:
    """Write the present keys (N,D), those with group (N,P) >= 0 in their first part, over the oldest ones; texts are (N,P).

    P is 1 or 2, of groups and of texts by itself.

    N must not exceed the queue's size. The place moves on by the number of present keys, around the end.
    """
    size = queue["group"].shape[0]
    present = group[:, 0] >= 0
    rank = jnp.cumsum(present) - 1
    place = jnp.where(present, (queue["next"] + rank) % size, size)  # past the end: dropped
    written = {
        "keys": keys.astype(jnp.float32),
        "group": jnp.pad(group, ((0, 0), (0, PARTS - group.shape[1])), constant_values=-1),
        "text": jnp.pad(text.astype(jnp.uint32), ((0, 0), (0, PARTS - text.shape[1])), mode="edge"),
    }
    found = {name: queue[name].at[place].set(new, mode="drop") for name, new in written.items()}
    return found | {"next": (queue["next"] + jnp.sum(present, dtype=jnp.int32)) % size}


def ids(queue: Queue) -> Ids:
    """The places as negatives of everybody; empty ones are absent."""
    return Ids(jnp.where(queue["group"][:, 0] >= 0, -2, -1), queue["group"], queue["text"])
