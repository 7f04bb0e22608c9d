"""Attention on TPU by Pallas' splash kernel: scores stay in the chip's vector memory, in the backward pass too."""

from __future__ import annotations

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    FullMask,
    LocalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)

from xalign_jax.models.sharded_lookup import divide_rows, rows_divide

BLOCKS = (512, 256, 128)  # queries by keys at a time; a TPU's registers are 128 wide


def fits(query: jax.Array, key: jax.Array) -> bool:
    """Whether the kernel takes (B,heads,T,head_dim) queries and (B,kv_heads,T,head_dim) keys on the mesh in context."""
    return query.shape[2] % BLOCKS[-1] == 0 and rows_divide(query.shape[0], key.shape[1])


def attend_fused(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    causal: bool,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k) v within segments (B,T): (B,heads,T,head_dim), keys and values (B,kv_heads,T,head_dim); scaled queries.

    Args:
      causal: a query sees no later key; with `window`, itself and the window - 1 keys before it.
      interpret: run the kernel's program on any machine, for tests.
    """
    kernel = functools.partial(_kernel, causal=causal, window=window, interpret=interpret)
    return divide_rows(kernel, query, key, value, segment_ids)


def _kernel(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    causal: bool,
    window: int | None,
    interpret: bool,
) -> jax.Array:
    """A device's rows and heads of `attend_fused`."""
    heads, T = query.shape[1:3]
    block = next(size for size in BLOCKS if T % size == 0)
    before = None if window is None else window - 1
    mask = LocalMask((T, T), (before, 0), 0) if causal else FullMask((T, T))
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    kernel = make_splash_mha(
        MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    with jax.named_scope(f"keys_{keys_read(T, block, causal, window)}"):  # by which `scale.products` knows its FLOPs
        return jax.vmap(kernel)(query, key, value, SegmentIds(segment_ids, segment_ids))


def keys_read(length: int, block: int, causal: bool, window: int | None) -> int:
    """Keys that the kernel multiplies a query with, on average: those of every block of which any query sees a key."""
    if not causal:
        return length
    starts = range(0, length, block)
    first = [0 if window is None else max(0, start - window + 1) // block * block for start in starts]
    return sum(start + block - low for start, low in zip(starts, first, strict=True)) // len(starts)
