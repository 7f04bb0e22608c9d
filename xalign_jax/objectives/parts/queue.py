"""A queue of past keys, which are negatives of a contrast (He et al. 2020, MoCo, arXiv 1911.05722, section 3.2).

It is a ring: when it is full, new keys replace the oldest. Its K places are plain arrays that may be sharded by rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xalign_jax.objectives.parts.candidates import Ids

Queue = dict[str, jax.Array]

PARTS = 2  # groups and texts of a key; a row that joins two pairs (InfoXLM's mixup) has two of each
# Logical axes of a queue's arrays. The runtime maps "queue" to the mesh axes along which rows lie.
AXES = {"keys": ("queue", None), "group": ("queue", None), "text": ("queue", None), "next": ()}


def empty(size: int, width: int) -> Queue:
    """A queue of `size` empty places.

    Arrays: keys (K,D) float32; group (K,2) int32, -1 = no group, twice -1 = the place is empty; text (K,2) uint32; and
    next, an int32 scalar: the place that is written next.
    """
    return {
        "keys": jnp.zeros((size, width), jnp.float32),
        "group": jnp.full((size, PARTS), -1, jnp.int32),
        "text": jnp.zeros((size, PARTS), jnp.uint32),
        "next": jnp.zeros((), jnp.int32),
    }


@jax.named_scope("momentum")
def push(queue: Queue, keys: jax.Array, group: jax.Array, text: jax.Array) -> Queue:
    """The queue with new keys written over the oldest ones.

    Args:
      keys: (N,D), N at most the queue's size.
      group: (N,P) int32, P = 1 or 2. A key whose first group is -1 is absent and not written.
      text: (N,P) integers, P = 1 or 2, independent of the groups' P.
    """
    size = queue["group"].shape[0]
    present = group[:, 0] >= 0
    rank = jnp.cumsum(present) - 1
    # (N,): the present keys take consecutive places, around the end. Absent keys get a place past the end, which
    # `mode="drop"` below ignores; so shapes do not depend on how many are present.
    place = jnp.where(present, (queue["next"] + rank) % size, size)
    # Keys with one group have no second one. A single text is repeated, since every number may be a text's hash.
    written = {
        "keys": keys.astype(jnp.float32),
        "group": jnp.pad(group, ((0, 0), (0, PARTS - group.shape[1])), constant_values=-1),
        "text": jnp.pad(text.astype(jnp.uint32), ((0, 0), (0, PARTS - text.shape[1])), mode="edge"),
    }
    found = {name: queue[name].at[place].set(new, mode="drop") for name, new in written.items()}
    return found | {"next": (queue["next"] + jnp.sum(present, dtype=jnp.int32)) % size}


def ids(queue: Queue) -> Ids:
    """The places as rows of a contrast, K of them: keys are negatives of every query, empty places are absent."""
    # In `Ids`, -2 = present but never a positive, and -1 = absent.
    return Ids(jnp.where(queue["group"][:, 0] >= 0, -2, -1), queue["group"], queue["text"])
