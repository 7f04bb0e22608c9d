"""XLM-R: a post-norm encoder with learned positions and a tied masked-LM head (Conneau et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import nnx

from xalign_jax.errors import UserError
from xalign_jax.models.attention import Context, SelfAttention, mutual_context
from xalign_jax.models.layers import Dense, LayerNorm, Maker

# Position p reads row p + 2 of the published tables (row 1 was the padding's); kept so that they can be read.
FIRST_POSITION = 2


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XLMRoberta:
    """Shape of an XLM-R encoder. Its head is the embedding table, with a bias, after a dense layer and a norm.

    Attributes:
      mlp_width: hidden width of the GELU layer.
      max_length: longest sequence accepted; the position table has max_length + 2 rows.
      types: token types, such as languages (XLM); 1 = none are told apart (XLM-R).
      init_std: standard deviation of the normal initialisation of every matrix and table.
    """

    layers: int = gin.REQUIRED
    width: int = gin.REQUIRED
    heads: int = gin.REQUIRED
    mlp_width: int = gin.REQUIRED
    max_length: int = 512
    types: int = 1
    norm_eps: float = 1e-5
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"XLMRoberta.heads = {self.heads} must divide XLMRoberta.width = {self.width}")
        if self.types < 1:
            raise UserError(f"XLMRoberta.types = {self.types}: at least 1, which is none told apart")

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def causal(self) -> bool:
        """Positions see those before and after them."""
        return False

    @property
    def tied(self) -> bool:
        """The output head is the embedding table."""
        return True

    def network(self, vocabulary_size: int, dtype: Any, rngs: nnx.Rngs) -> XLMRobertaNetwork:
        """The parameters and the pieces of the forward pass."""
        return XLMRobertaNetwork(self, vocabulary_size, dtype, rngs)


class XLMRobertaBlock(nnx.Module):
    """norm(x + attention(x)), then norm(x + MLP(x))."""

    def __init__(self, config: XLMRoberta, dtype: Any, make: Maker):
        c = config
        self.attention = SelfAttention(c.width, c.heads, c.heads, c.head_size, dtype, make, biases=True)
        self.attention_norm = LayerNorm(c.width, c.norm_eps, dtype, make)
        self.up = Dense((c.width, c.mlp_width), ("embed", "mlp"), dtype, make)
        self.down = Dense((c.mlp_width, c.width), ("mlp", "embed"), dtype, make)
        self.mlp_norm = LayerNorm(c.width, c.norm_eps, dtype, make)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = self.attention_norm(x + self.attention(x, context))
        return self.mlp_norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))


class XLMRobertaNetwork(nnx.Module):
    """Embeddings, stacked blocks and masked-LM head; `models.functional` runs them."""

    def __init__(self, config: XLMRoberta, vocabulary_size: int, dtype: Any, rngs: nnx.Rngs):
        make, width = Maker(rngs, config.init_std), config.width
        self.embedding = make.normal((vocabulary_size, width), ("vocab", "embed"))
        self.positions = make.normal((config.max_length + FIRST_POSITION, width), (None, "embed"))
        self.types = make.normal((config.types, width), (None, "embed"))
        self.embedding_norm = LayerNorm(width, config.norm_eps, dtype, make)
        self.layers = XLMRobertaBlock(config, dtype, dataclasses.replace(make, stack=config.layers))
        self.head = Dense((width, width), ("embed", None), dtype, make)
        self.head_norm = LayerNorm(width, config.norm_eps, dtype, make)
        self.head_bias = make.zeros((vocabulary_size,), ("vocab",))

    def embed(self, rows: jax.Array, positions: jax.Array, types: jax.Array | None) -> jax.Array:
        """Level 0: (B,T) table rows, positions and types -> (B,T,width). A type that the table lacks gives NaN."""
        table = self.types[...]
        of_type = table[0] if types is None else table.at[types].get(mode="fill", fill_value=jnp.nan)
        return self.embedding_norm(
            self.embedding[...][rows] + self.positions[...][positions + FIRST_POSITION] + of_type
        )

    def context(self, positions: jax.Array, segment_ids: jax.Array) -> Context:
        """What all blocks share."""
        return mutual_context(segment_ids)

    def final_norm(self, x: jax.Array) -> jax.Array:
        """Nothing: blocks end in a norm."""
        return x

    def head_input(self, h: jax.Array) -> jax.Array:
        """(..., width) states of level L -> (..., width)."""
        return self.head_norm(jax.nn.gelu(self.head(h), approximate=False))

    def head_table(self) -> tuple[jax.Array, jax.Array | None]:
        """(V,width) float32 rows of the output head and its bias (V,)."""
        return self.embedding[...], self.head_bias[...]
