"""Runs the blocks of a network by `jax.lax.scan`, so that compile time hardly grows with their number.

Shapes: B rows of T tokens, hidden states (B,T,width), L blocks, whose parameters are stacked along axis 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from xalign_jax.models.attention import Context
from xalign_jax.models.sharded_lookup import spread


def run_blocks(
    layers: nnx.Module,
    x: jax.Array,
    context: Context,
    levels: tuple[int, ...],
    capture: tuple[str, ...],
    edit: Mapping[int, Callable[[jax.Array], jax.Array]],
    *,
    remat: bool,
    unroll: bool,
) -> dict[Any, jax.Array]:
    """{level: states} and {(site, level): values} of blocks 1 to max(levels), by scans over slices of blocks.

    Args:
      layers: one block with stacked parameters.
      x: level 0.
      capture, edit: as in `Model.hidden`, with levels from 1 on.
      remat: compute each block's activations again in the backward pass.
      unroll: the loops over blocks.

    Returns:
      at least all that is asked for. Level L is before the final norm.
    """
    # The structure of one block, and arrays (L,..) of all blocks' parameters.
    block, stacked = nnx.split(layers)

    def apply(x: jax.Array, layer: tuple[nnx.State, jax.Array | None]) -> tuple[jax.Array, dict[str, jax.Array]]:
        # One block: (B,T,width) -> (B,T,width), with its entry of `Context.full_layers`.
        weights, full = layer
        x, sites = nnx.merge(block, weights)(x, context.of_layer(full))
        return spread(x), {name: getattr(sites, name) for name in capture}

    if remat:
        apply = jax.checkpoint(apply, prevent_cse=unroll)
    # Slices of consecutive blocks, each run by one scan. Most states are never stored: only what is asked for.
    stop = max(levels)
    collected: dict[Any, jax.Array] = {}
    for first, last, collect in _slices({*levels, *(level for level in edit if level < stop)}, edit, stop):
        # Blocks first + 1 to last: (L,..) -> (last - first,..).
        parameters = jax.tree.map(lambda w, a=first, b=last: w[a:b], (stacked, context.full_layers))
        step = functools.partial(_step, apply, collect)
        # `scale.collectives` recognises the loop by this name.
        with jax.named_scope("layers"):
            # `outputs` (last - first,B,T,width) has all levels of the slice, or is None if only the last is wanted.
            x, (outputs, sites) = jax.lax.scan(step, x, parameters, unroll=unroll)
        # Entry 0 of what the scan stacked belongs to block first + 1.
        for level in range(first + 1, last + 1):
            collected |= {(name, level): values[level - first - 1] for name, values in sites.items()}
            if outputs is not None:
                collected[level] = outputs[level - first - 1]
        # A slice ends at each edited level, so the next slice reads the edited states.
        x = edit[last](x) if last in edit else x
        collected[last] = x
    return collected


def _step(
    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    collect: bool,
    x: jax.Array,
    layer: tuple[nnx.State, jax.Array | None],
) -> tuple[jax.Array, tuple[jax.Array | None, dict[str, jax.Array]]]:
    """A step of the scan: the carry x, and the outputs that the scan stacks."""
    x, sites = apply(x, layer)
    return x, (x if collect else None, sites)


def _slices(levels: set[int], edited: Container[int], stop: int) -> Iterator[tuple[int, int, bool]]:
    """Cut blocks 1..stop into slices (first, last, collect), each of which is one scan over blocks first + 1 to last.

    With `collect`, the scan keeps the output of every block, otherwise only the output of the last one. Levels that
    follow each other share a collecting slice. A slice also ends at an edited level. For example, levels {3, 4, 5}
    without edits give (0, 3, False), (3, 5, True).
    """
    first = 0
    while first < stop:
        # Grow the slice while the next block is wanted as well, or while the last one is not wanted either.
        last, collect = first + 1, first + 1 in levels
        while last < stop and last not in edited and (last + 1 in levels if collect else last not in levels):
            last += 1
        yield first, last, collect
        first = last
