"""The network that all decoders share: embedding, stacked blocks, final norm and head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax.interfaces import ModelConfig
from xalign_jax.models.attention import Context, causal_context
from xalign_jax.models.layers import Maker
from xalign_jax.models.rotary import RopeScaling, tables
from xalign_jax.models.sharded_lookup import lookup


class DecoderShape(ModelConfig, Protocol):
    """A ModelConfig with the other fields of a decoder's dataclass that `Decoder` reads."""

    @property
    def init_std(self) -> float: ...

    @property
    def table_std(self) -> float | None: ...

    @property
    def rope_theta(self) -> float: ...

    @property
    def rope_scaling(self) -> RopeScaling | None: ...


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm and head of `config`; `models.model` runs them.

    Args:
      config: the shape, such as `Llama`.
      dtype: of matrix products and hidden states.
      block, norm: make the module of a block and of the final norm.
      dims: rotated dimensions of each head.
      window: a query sees itself and the window - 1 tokens before it; None = all before it.
      full_layers: layers, counted from 0, that ignore the window.
    """

    def __init__(
        self,
        config: DecoderShape,
        vocabulary_size: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        block: Callable[[Maker], nnx.Module],
        norm: Callable[[Maker], nnx.Module],
        dims: int,
        window: int | None = None,
        full_layers: tuple[int, ...] = (),
    ):
        # Two makers, because the rows of embedding and head may have a spread of their own.
        make = Maker(rngs, config.init_std)
        rows = make if config.table_std is None else dataclasses.replace(make, std=config.table_std)
        table = ((vocabulary_size, config.width), ("vocab", "embed"))
        self.config = config
        self.dtype = dtype
        self.dims = dims
        self.window = window
        self.full_layers = full_layers
        self.embedding = rows.normal(*table)
        # One block whose parameters have a leading axis (layers,..).
        self.layers = block(dataclasses.replace(make, stack=config.layers))
        self.final_norm = norm(make)
        # A tied head reads the embedding, so there is no second table.
        if not config.tied:
            self.head = rows.normal(*table)

    def embed(self, rows: jax.Array, positions: jax.Array, types: jax.Array | None) -> jax.Array:
        """Level 0: table rows (B,T) -> (B,T,width). Positions enter in attention; there are no token types."""
        # The table stays float32; only the rows that are read are cast.
        return lookup(self.embedding[...], rows).astype(self.dtype)

    def context(self, positions: jax.Array, segment_ids: jax.Array) -> Context:
        """What all blocks share: the causal mask and the rotary tables, from positions and segment ids (B,T)."""
        c = self.config
        cos, sin = tables(positions, segment_ids, self.dims, c.rope_theta, c.rope_scaling)
        # (layers,) bool, constants of the program.
        full = np.isin(np.arange(c.layers), self.full_layers) if self.full_layers else None
        # "dynamic" scaling turns all keys of a segment by angles that depend on the segment's length, once it is long.
        scaling, length = c.rope_scaling, segment_ids.shape[1]
        lasting = scaling is None or scaling.kind != "dynamic" or length <= (scaling.original_max_length or 0)
        return causal_context(segment_ids, cos, sin, self.window, full, lasting)

    def head_input(self, h: jax.Array) -> jax.Array:
        """The states of level L themselves."""
        return h

    def head_table(self) -> tuple[jax.Array, jax.Array | None]:
        """(V,width) float32 rows of the output head; no bias."""
        # (V,width): the embedding itself if the head is tied.
        return (self.embedding if self.config.tied else self.head)[...], None
