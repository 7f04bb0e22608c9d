"""Which rows of a contrast are positives of a query, and which are candidates, by their ids.

Shapes as in `contrast`: n queries, m keys, G groups and H texts for each row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Ids(NamedTuple):
    """Who the rows of a contrast are. G and H may be 0.

    Two rows share a group if any group of one equals any group of the other. The same holds for texts.

    Attributes:
      own: (N,) int32, the row's item. Rows of equal own >= 0 are positives; -1 = absent; -2 = present, but never a
        positive.
      group: (N,G) int32; sentences that translate each other have the same group; -1 = none.
      text: (N,H) integers, equal for equal texts, such as hashes.
    """

    own: jax.Array
    group: jax.Array
    text: jax.Array


class Rows(NamedTuple):
    """Some rows of the batch, and their numbers."""

    ids: Ids
    row: jax.Array  # (n,) int32 number in the global batch; -1 fills a chunk


class TextOwners(NamedTuple):
    """Which items each text occurs in: E = M H entries (text, item), sorted by text and then by item.

    The items of a text have the ranks 0, 1, .. in this order, so a text and a rank name at most one item.
    """

    text: jax.Array  # (M,H) number of each key's texts; equal texts have equal numbers
    entry_text: jax.Array  # (E,) number of the entry's text
    entry_own: jax.Array  # (E,) item of the entry
    entry_rank: jax.Array  # (E,) rank of the item; -1 = no item, or a repetition of the entry before
    most: jax.Array  # scalar, the most items that any text occurs in


def text_owners(ids: Ids) -> TextOwners:
    """The table of all keys' texts, from the ids of M keys."""
    # (M,) and (M,H) -> (E,): one entry for each text of each key, sorted so that equal texts are neighbours.
    own, text = jnp.repeat(ids.own, ids.text.shape[1]), ids.text.reshape(-1)
    order = jnp.lexsort((own, text))
    own, text = own[order], text[order]
    # (E,) bool: the entry is the first one of its text, and the first one of its pair of text and item.
    new_text = jnp.concatenate([jnp.ones(1, bool), text[1:] != text[:-1]])
    new_item = (new_text | jnp.concatenate([jnp.ones(1, bool), own[1:] != own[:-1]])) & (own >= 0)
    number, items = jnp.cumsum(new_text) - 1, jnp.cumsum(new_item)
    # Ranks start again at 0 with each text, but `items` counts through all texts. So the items of earlier texts are
    # subtracted; the running maximum carries their number from a text's first entry to its other entries.
    before = jax.lax.cummax(jnp.where(new_text, items - new_item, 0))
    rank = jnp.where(new_item, items - before - 1, -1)
    # Undo the sorting: (E,) -> (M,H).
    numbers = jnp.zeros_like(number).at[order].set(number).reshape(ids.text.shape)
    return TextOwners(numbers, number, own, rank, jnp.max(rank) + 1)


def _shares_text_with_positive(owners: TextOwners, query_own: jax.Array) -> jax.Array:
    """(n,m) bool: a text of the key also occurs in the query's item, so it is the text of a positive.

    The loop compares one rank at a time, so that no round holds more than (n,m). Most texts occur in one item, so there
    are few rounds.
    """

    def mark(rank: jax.Array, shared: jax.Array) -> jax.Array:
        # (E,) -> (m,H): the item of this rank in which each text of each key occurs, -1 where there is none. An absent
        # query (-1) matches those as well; `masks_of` leaves absent queries out anyway.
        here = jnp.where(owners.entry_rank == rank, owners.entry_own, -1)
        owner = jnp.full_like(owners.entry_own, -1).at[owners.entry_text].max(here)[owners.text]
        return shared | _any_equal(query_own[:, None], owner)

    empty = jnp.zeros((query_own.shape[0], owners.text.shape[0]), bool)
    return jax.lax.fori_loop(0, owners.most, mark, empty)


def _any_equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """(n,m) bool: any column of a (n,G) equals any column of b (m,H)."""
    # Loops over the one or two columns, because a broadcast would hold (n,m,G,H) booleans.
    equal = jnp.zeros((a.shape[0], b.shape[0]), bool)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            equal |= a[:, i, None] == b[:, j]
    return equal


def shared_ids(query: Ids, key: Ids) -> jax.Array:
    """(n,m) bool: the query and the key share a group or a text."""
    # "No group" is -1 on both sides. It must not match itself, so queries write it as -2.
    group = jnp.where(query.group < 0, -2, query.group)
    return _any_equal(group, key.group) | _any_equal(query.text, key.text)


def masks_of(
    queries: Rows, keys: Rows, owners: TextOwners | None, exclude_self: bool, in_batch: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three masks (n,m) bool: both rows are present (and not the same row); positive; candidate.

    Args:
      owners: the texts of all keys; None = keys of a positive's text are not looked for.
      exclude_self, in_batch: as in `infonce`.
    """
    ids, key_ids = queries.ids, keys.ids
    both = (ids.own != -1)[:, None] & (key_ids.own != -1)
    if exclude_self:
        # By their numbers in the global batch, because a device has all queries but only its own keys.
        both &= queries.row[:, None] != keys.row
    # Rows of -2 ("never a positive") would equal each other, hence the test for >= 0.
    positive = both & (ids.own[:, None] == key_ids.own) & (ids.own >= 0)[:, None]
    if not in_batch:
        return both, positive, positive
    # False negatives leave the sum. Multiplying their logits by 0, as PreAlign's released code does, would keep each of
    # them as a candidate.
    shared = shared_ids(ids, key_ids)
    if owners is not None:
        shared |= _shares_text_with_positive(owners, ids.own)
    return both, positive, both & (positive | ~shared)
