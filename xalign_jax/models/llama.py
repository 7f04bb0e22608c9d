"""Llama: a decoder with RMSNorm, rotary positions, SwiGLU and grouped key/value heads (Touvron et al. 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
from flax import nnx

from xalign_jax.errors import UserError
from xalign_jax.models.attention import Context, SelfAttention, causal_context
from xalign_jax.models.layers import Maker, RMSNorm, SwiGLU


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Llama:
    """Shape of a Llama decoder.

    Attributes:
      mlp_width: hidden width of the SwiGLU (three matrices of width x mlp_width).
      head_dim: None = width / heads.
      tied: the output head is the embedding table.
      max_length: longest sequence accepted.
      init_std: standard deviation of the normal initialisation of every matrix.
    """

    layers: int = gin.REQUIRED
    width: int = gin.REQUIRED
    heads: int = gin.REQUIRED
    kv_heads: int = gin.REQUIRED
    mlp_width: int = gin.REQUIRED
    head_dim: int | None = None
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    tied: bool = False
    max_length: int = 2048
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise UserError(f"Llama.kv_heads = {self.kv_heads} must divide Llama.heads = {self.heads}")
        if self.head_dim is None and self.width % self.heads:
            raise UserError(f"Llama.heads = {self.heads} must divide Llama.width = {self.width}, or set Llama.head_dim")
        if self.head_size % 2:
            raise UserError(f"Llama.head_dim = {self.head_size} must be even for rotary positions")

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.width // self.heads

    @property
    def causal(self) -> bool:
        """Positions see earlier positions only."""
        return True

    @property
    def types(self) -> int:
        """Token types are not told apart."""
        return 1

    def network(self, vocabulary_size: int, dtype: Any, rngs: nnx.Rngs) -> LlamaNetwork:
        """The parameters and the pieces of the forward pass."""
        return LlamaNetwork(self, vocabulary_size, dtype, rngs)


class LlamaBlock(nnx.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, config: Llama, dtype: Any, make: Maker):
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_eps, make)
        self.attention = SelfAttention(c.width, c.heads, c.kv_heads, c.head_size, dtype, make)
        self.mlp_norm = RMSNorm(c.width, c.norm_eps, make)
        self.mlp = SwiGLU(c.width, c.mlp_width, dtype, make)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), context)
        return x + self.mlp(self.mlp_norm(x))


class LlamaNetwork(nnx.Module):
    """Embedding, stacked blocks, final norm and head; `models.functional` runs them."""

    def __init__(self, config: Llama, vocabulary_size: int, dtype: Any, rngs: nnx.Rngs):
        make = Maker(rngs, config.init_std)
        table = ((vocabulary_size, config.width), ("vocab", "embed"))
        self.config = config
        self.dtype = dtype
        self.embedding = make.normal(*table)
        self.layers = LlamaBlock(config, dtype, dataclasses.replace(make, stack=config.layers))
        self.final_norm = RMSNorm(config.width, config.norm_eps, make)
        if not config.tied:
            self.head = make.normal(*table)

    def embed(self, rows: jax.Array, positions: jax.Array, types: jax.Array | None) -> jax.Array:
        """Level 0: (B,T) table rows -> (B,T,width)."""
        return self.embedding[...][rows].astype(self.dtype)

    def context(self, positions: jax.Array, segment_ids: jax.Array) -> Context:
        """What all blocks share."""
        return causal_context(positions, segment_ids, self.config.head_size, self.config.rope_theta)

    def head_input(self, h: jax.Array) -> jax.Array:
        """The states of level L themselves."""
        return h

    def head_table(self) -> tuple[jax.Array, jax.Array | None]:
        """(V,width) float32 rows of the output head; no bias."""
        return (self.embedding if self.config.tied else self.head)[...], None
