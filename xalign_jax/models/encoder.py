"""The network that all encoders share: BERT's, with learned positions, post-norm blocks and a tied masked-LM head.

Devlin et al. 2019 (BERT, arXiv 1810.04805) and Conneau et al. 2020 (XLM-R, arXiv 1911.02116) describe it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax.errors import UserError
from xalign_jax.models.attention import Context, SelfAttention, mutual_context
from xalign_jax.models.layers import ACTIVATIONS, Dense, LayerNorm, Maker, Sites, check_activation
from xalign_jax.models.sharded_lookup import lookup
from xalign_jax.recipe import at_least_one, freeze, within


class EncoderShape:
    """Base of an encoder's dataclass: checks the fields, and derives the other properties of a `ModelConfig`."""

    # The fields of the dataclass.
    layers: int
    width: int
    heads: int
    mlp_width: int
    max_length: int
    types: int
    norm_eps: float
    activation: str
    init_std: float
    first_position: ClassVar[int]  # the row of the position table that position 0 reads

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "layers", "width", "heads", "mlp_width", "max_length", "types")
        within(self, "(0, inf)", "norm_eps")
        within(self, "[0, inf)", "init_std")
        name = type(self).__name__
        # Heads divide the width evenly (head_size).
        if self.width % self.heads:
            raise UserError(f"{name}.heads = {self.heads} must divide {name}.width = {self.width}")
        check_activation(self)

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def causal(self) -> bool:
        """False: positions see those before and after them."""
        return False

    @property
    def tied(self) -> bool:
        """True: the output head is the embedding table."""
        return True

    @property
    def head_activation(self) -> str:
        """The activation between the head's dense layer and its norm, a name in `layers.ACTIVATIONS`."""
        return "gelu"

    @property
    def pooler(self) -> bool:
        """Whether a dense layer with tanh follows the first token's states."""
        return False

    def keys_seen(self, length: int) -> float:
        """Keys that a token of a row of `length` tokens sees, in all layers together: all tokens of an unpacked row."""
        # Nothing is causal, so every token sees the whole row.
        return self.layers * length

    def network(self, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> Encoder:
        """The parameters and the pieces of the forward pass."""
        return Encoder(self, vocabulary_size, dtype, rngs)


class EncoderBlock(nnx.Module):
    """norm(x + attention(x)), then norm(x + MLP(x)): (B,T,width) -> (B,T,width)."""

    def __init__(self, config: EncoderShape, dtype: DTypeLike, make: Maker):
        c = config
        self.activation = c.activation
        # Every product of an encoder has a bias; all heads have their own keys and values.
        biases = {"qkv_bias": True, "output_bias": True}
        self.attention = SelfAttention(c.width, c.heads, c.heads, c.head_size, dtype, make, **biases)
        self.attention_norm = LayerNorm(c.width, c.norm_eps, dtype, make)
        self.up = Dense((c.width, c.mlp_width), ("embed", "mlp"), dtype, make)
        self.down = Dense((c.mlp_width, c.width), ("mlp_rows", "embed"), dtype, make)
        self.mlp_norm = LayerNorm(c.width, c.norm_eps, dtype, make)

    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, Sites]:
        # Post-norm: the norm comes after the sum, so that the residual stream itself is normalised (BERT).
        attended = self.attention(x, context)
        x = self.attention_norm(x + attended)
        # (B,T,width) -> (B,T,mlp_width) -> (B,T,width).
        with jax.named_scope("mlp"):
            neurons = ACTIVATIONS[self.activation](self.up(x))
            x = x + self.down(neurons)
        return self.mlp_norm(x), Sites(attended, neurons)


class Encoder(nnx.Module):
    """Embeddings, stacked blocks, masked-LM head and pooler; `models.model` runs them."""

    def __init__(self, config: EncoderShape, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs):
        make, width = Maker(rngs, config.init_std), config.width
        self.config = config
        self.embedding = make.normal((vocabulary_size, width), ("vocab", "embed"))
        # Small tables, which every device holds whole.
        self.positions = make.normal((config.max_length + config.first_position, width), (None, None))
        self.types = make.normal((config.types, width), (None, None))
        self.embedding_norm = LayerNorm(width, config.norm_eps, dtype, make)
        # One block whose parameters have a leading axis (layers,..).
        self.layers = EncoderBlock(config, dtype, dataclasses.replace(make, stack=config.layers))
        # The head: dense layer, activation and norm, then the rows of the embedding and a bias for each token.
        self.head = Dense((width, width), ("embed", None), dtype, make)
        self.head_norm = LayerNorm(width, config.norm_eps, dtype, make)
        self.head_bias = make.zeros((vocabulary_size,), ("vocab",))
        # A pooler without an objective gets no gradient. It is kept for published checkpoints, such as LaBSE's.
        if config.pooler:
            self.pooler = Dense((width, width), ("embed", None), dtype, make)

    def embed(self, rows: jax.Array, positions: jax.Array, types: jax.Array | None) -> jax.Array:
        """Level 0: table rows, positions and types (B,T) int32 -> (B,T,width)."""
        # A type that the table lacks gives NaN, which stops the run. JAX would read the last row instead.
        table = self.types[...]
        of_type = table[0] if types is None else table.at[types].get(mode="fill", fill_value=jnp.nan)
        # Every segment starts at position 0, so packed segments read the same rows of the table as separate ones.
        of_position = self.positions[...][positions + self.config.first_position]
        # (B,T,width) + (B,T,width) + (B,T,width) or (width,).
        return self.embedding_norm(lookup(self.embedding[...], rows) + of_position + of_type)

    def context(self, positions: jax.Array, segment_ids: jax.Array) -> Context:
        """What all blocks share: the mask, from segment ids (B,T)."""
        return mutual_context(segment_ids)

    def final_norm(self, x: jax.Array) -> jax.Array:
        """x itself, because blocks end in a norm."""
        return x

    @jax.named_scope("head")
    def head_input(self, h: jax.Array) -> jax.Array:
        """States of level L (..., width) -> (..., width), what the rows of the embedding multiply."""
        return self.head_norm(ACTIVATIONS[self.config.head_activation](self.head(h)))

    def head_table(self) -> tuple[jax.Array, jax.Array | None]:
        """The rows (V,width) of the output head and its bias (V,), float32."""
        return self.embedding[...], self.head_bias[...]

    def pooled(self, h: jax.Array) -> jax.Array:
        """States of the first token at level L (..., width) -> sentence embeddings (..., width)."""
        return jnp.tanh(self.pooler(h))
