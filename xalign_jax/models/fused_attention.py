"""Attention on TPU by Pallas' splash kernel, which never writes the scores (B,heads,T,T) to the chip's main memory.

The kernel goes through keys in blocks with an online softmax (Dao et al. 2022, FlashAttention, arXiv 2205.14135). Its
backward pass computes the scores again.
"""

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

# Queries and keys at a time, the largest first that divides the row. A TPU's vector registers are 128 wide.
BLOCKS = (512, 256, 128)


def fits(query: jax.Array, key: jax.Array) -> bool:
    """Whether the kernel takes (B,heads,T,head_dim) queries and (B,kv_heads,T,head_dim) keys on the mesh in context."""
    # The key heads must divide, because a device needs whole groups: a key head with all of its query heads.
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
    """softmax(q k) v within segments: (B,heads,T,head_dim).

    Args:
      query: (B,heads,T,head_dim), already scaled.
      key, value: (B,kv_heads,T,head_dim).
      segment_ids: (B,T) int32.
      causal: a query sees no later key; with `window`, itself and the window - 1 keys before it.
      interpret: run the kernel's program on any machine, slowly, for tests.
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
    """`attend_fused` for the rows and heads of one device."""
    heads, T = query.shape[1:3]
    block = next(size for size in BLOCKS if T % size == 0)
    # The kernel skips blocks that the mask excludes altogether. Segments are compared inside the blocks.
    before = None if window is None else window - 1
    mask = LocalMask((T, T), (before, 0), 0) if causal else FullMask((T, T))
    # The same block size forward and backward; one fused kernel computes all three gradients.
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    # The kernel takes one row of a batch: (heads,T,head_dim). `vmap` adds the axis of rows.
    kernel = make_splash_mha(
        MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    # `scale.products` reads the kernel's FLOPs from this name: a compiled program does not show them.
    with jax.named_scope(f"keys_{keys_read(T, block, causal, window)}"):
        return jax.vmap(kernel)(query, key, value, SegmentIds(segment_ids, segment_ids))


def keys_read(length: int, block: int, causal: bool, window: int | None) -> int:
    """Keys that the kernel multiplies a query with, on average.

    It multiplies whole blocks, even if a query sees only a part of a block.

    Args:
      length: T, the tokens of a row.
      block: queries and keys of a block, a divisor of T.
    """
    if not causal:
        return length
    # Each block of queries reads the blocks from its first visible key to its own end.
    starts = range(0, length, block)
    first = [0 if window is None else max(0, start - window + 1) // block * block for start in starts]
    return sum(start + block - low for start, low in zip(starts, first, strict=True)) // len(starts)
