"""GPT-NeoX: a decoder with LayerNorms, biases and partly rotated heads (Black et al. 2022); Pythia's architecture."""

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
from xalign_jax.models.layers import ACTIVATIONS, Dense, LayerNorm, Maker, Sites, check_activation
from xalign_jax.models.rotary import RopeScaling
from xalign_jax.recipe import at_least_one, freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GPTNeoX:
    """Shape of a GPT-NeoX decoder.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, attention heads of a block.
      mlp_width: hidden width of the MLP.
      rotary_fraction: share of each head's dimensions that positions rotate; the first ones.
      rope_theta: base of the rotary frequencies.
      rope_scaling: extends the context beyond the original training length; None = off.
      parallel_residual: attention and MLP of a block read the same states; False = the MLP reads the states after
        attention was added.
      attention_bias: whether the products of attention have biases.
      activation: of the MLP, a name in `layers.ACTIVATIONS`.
      norm_eps: epsilon of the LayerNorms.
      tied: the output head is the embedding table.
      max_length: longest sequence accepted.
      init_std: standard deviation of the normal initialisation of every matrix.
      table_std: the same for the rows of embedding and head; None = init_std.
    """

    layers: int = gin.REQUIRED
    width: int = gin.REQUIRED
    heads: int = gin.REQUIRED
    mlp_width: int = gin.REQUIRED
    rotary_fraction: float = 0.25
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    parallel_residual: bool = True
    attention_bias: bool = True
    activation: str = "gelu"
    norm_eps: float = 1e-5
    tied: bool = False
    max_length: int = 2048
    init_std: float = 0.02
    table_std: float | None = None

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "layers", "width", "heads", "mlp_width", "max_length")
        within(self, "[0, 1]", "rotary_fraction")
        within(self, "(0, inf)", "rope_theta", "norm_eps")
        within(self, "[0, inf)", "init_std", "table_std")
        if self.width % self.heads:
            raise UserError(f"GPTNeoX.heads = {self.heads} must divide GPTNeoX.width = {self.width}")
        # Positions turn pairs of dimensions.
        if self.rotary_dims % 2 or not 0 <= self.rotary_dims <= self.head_size:
            raise UserError(
                f"GPTNeoX.rotary_fraction = {self.rotary_fraction} of heads of {self.head_size}: "
                f"{self.rotary_dims} dimensions; must be an even number of them"
            )
        check_activation(self)

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def rotary_dims(self) -> int:
        """Rotated dimensions of one head."""
        # Rounded down, as the Hugging Face code does.
        return int(self.head_size * self.rotary_fraction)

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
        # A causal token sees half of the row on average.
        return self.layers * length / 2

    def network(self, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> Decoder:
        """The parameters and the pieces of the forward pass."""
        return Decoder(
            self,
            vocabulary_size,
            dtype,
            rngs,
            block=functools.partial(GPTNeoXBlock, self, dtype),
            norm=functools.partial(LayerNorm, self.width, self.norm_eps, dtype),
            dims=self.rotary_dims,
        )


class GPTNeoXBlock(nnx.Module):
    """x + attention(norm(x)) + MLP(norm(x)), or one after the other: (B,T,width) -> (B,T,width)."""

    def __init__(self, config: GPTNeoX, dtype: DTypeLike, make: Maker):
        c = self.config = config
        # All heads have their own keys and values.
        biases = {"qkv_bias": c.attention_bias, "output_bias": c.attention_bias}
        self.attention_norm = LayerNorm(c.width, c.norm_eps, dtype, make)
        self.attention = SelfAttention(c.width, c.heads, c.heads, c.head_size, dtype, make, **biases)
        self.mlp_norm = LayerNorm(c.width, c.norm_eps, dtype, make)
        self.up = Dense((c.width, c.mlp_width), ("embed", "mlp"), dtype, make)
        self.down = Dense((c.mlp_width, c.width), ("mlp_rows", "embed"), dtype, make)

    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, Sites]:
        # In the parallel form, attention and MLP do not wait for each other. They have separate norms.
        attended = self.attention(self.attention_norm(x), context)
        after = x + attended
        # Parallel: x + attention(norm(x)) + MLP(norm(x)). Otherwise the MLP reads x + attention(norm(x)).
        read = x if self.config.parallel_residual else after
        # (B,T,width) -> (B,T,mlp_width) -> (B,T,width).
        with jax.named_scope("mlp"):
            neurons = ACTIVATIONS[self.config.activation](self.up(self.mlp_norm(read)))
            added = self.down(neurons)
        return after + added, Sites(attended, neurons)
