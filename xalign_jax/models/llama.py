"""Llama: a decoder with RMSNorm, rotary positions, SwiGLU and grouped key/value heads (Touvron et al. 2023).

Its options also describe Mistral (a window), Qwen2 (biases of queries, keys and values) and Qwen3 (norms of queries and
keys).
"""

from __future__ import annotations

import dataclasses
import functools

import gin
import jax
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax.errors import UserError
from xalign_jax.models.attention import Context, SelfAttention
from xalign_jax.models.decoder import Decoder
from xalign_jax.models.layers import Maker, RMSNorm, Sites, SwiGLU
from xalign_jax.models.rotary import RopeScaling
from xalign_jax.recipe import at_least_one, freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Llama:
    """Shape of a Llama decoder.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, query heads of a block.
      kv_heads: key/value heads of a block; each serves heads / kv_heads query heads.
      mlp_width: hidden width of the SwiGLU (three matrices of width x mlp_width).
      head_dim: width of one head; None = width / heads.
      rope_theta: base of the rotary frequencies.
      norm_eps: epsilon of the RMSNorms.
      tied: the output head is the embedding table.
      max_length: longest sequence accepted.
      init_std: standard deviation of the normal initialisation of every matrix.
      table_std: the same for the rows of embedding and head; None = init_std.
      qkv_bias, output_bias, mlp_bias: whether these matrices have biases.
      qk_norm: normalise each head's queries and keys.
      rope_scaling: extends the context beyond the original training length; None = off.
      window: a token sees itself and the window - 1 tokens before it; None = all before it.
      full_attention_layers: layers, counted from 0, that ignore the window.
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
    table_std: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    full_attention_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "layers", "width", "heads", "kv_heads", "mlp_width", "head_dim", "max_length", "window")
        within(self, "(0, inf)", "rope_theta", "norm_eps")
        within(self, "[0, inf)", "init_std", "table_std")
        name = type(self).__name__
        # Each key/value head serves the same number of query heads.
        if self.heads % self.kv_heads:
            raise UserError(f"{name}.kv_heads = {self.kv_heads} must divide {name}.heads = {self.heads}")
        if self.head_dim is None and self.width % self.heads:
            raise UserError(
                f"{name}.heads = {self.heads} must divide {name}.width = {self.width}, or set {name}.head_dim"
            )
        # Positions turn pairs of dimensions.
        if self.head_size % 2:
            raise UserError(f"{name}.head_dim = {self.head_size} must be even for rotary positions")
        if not {*self.full_attention_layers} <= {*range(self.layers)}:
            raise UserError(
                f"{name}.full_attention_layers = {self.full_attention_layers}: layers 0 to {self.layers - 1} exist"
            )

    @property
    def head_size(self) -> int:
        """Width of one head."""
        # Some models have heads that together are wider or narrower than the states (Qwen3).
        return self.head_dim or self.width // self.heads

    @property
    def causal(self) -> bool:
        """Positions see earlier positions only."""
        return True

    @property
    def types(self) -> int:
        """Token types are not told apart."""
        return 1

    def keys_seen(self, length: int) -> float:
        """Keys that a token of a row of `length` tokens sees, on average, in all layers together."""
        # A causal token sees half of the row on average. With a window of r tokens, the first r tokens see r / 2 on
        # average and the others r, which gives r (1 - r / (2 length)).
        full, reach = len({*self.full_attention_layers}), min(self.window or length, length)
        return full * length / 2 + (self.layers - full) * reach * (1 - reach / length / 2)

    def block(self, dtype: DTypeLike, make: Maker) -> nnx.Module:
        """A block. A model of the same shape with other blocks derives from this class and overrides it."""
        return LlamaBlock(self, dtype, make)

    def network(self, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> Decoder:
        """The parameters and the pieces of the forward pass."""
        return Decoder(
            self,
            vocabulary_size,
            dtype,
            rngs,
            block=functools.partial(self.block, dtype),
            norm=functools.partial(RMSNorm, self.width, self.norm_eps),
            dims=self.head_size,
            window=self.window,
            full_layers=self.full_attention_layers,
        )


class LlamaBlock(nnx.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)): (B,T,width) -> (B,T,width)."""

    def __init__(self, config: Llama, dtype: DTypeLike, make: Maker):
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_eps, make)
        # Norms of queries and keys (Qwen3) have the epsilon of the block's norms.
        self.attention = SelfAttention(
            c.width,
            c.heads,
            c.kv_heads,
            c.head_size,
            dtype,
            make,
            qkv_bias=c.qkv_bias,
            output_bias=c.output_bias,
            qk_norm_eps=c.norm_eps if c.qk_norm else None,
        )
        self.mlp_norm = RMSNorm(c.width, c.norm_eps, make)
        self.mlp = SwiGLU(c.width, c.mlp_width, dtype, make, c.mlp_bias)

    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, Sites]:
        # Pre-norm: the residual stream x itself is never normalised inside the blocks.
        attended = self.attention(self.attention_norm(x), context)
        x = x + attended
        # (B,T,width) -> (B,T,mlp_width) -> (B,T,width).
        neurons = self.mlp.neurons(self.mlp_norm(x))
        return x + self.mlp(neurons), Sites(attended, neurons)
