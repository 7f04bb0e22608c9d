"""BERT: a post-norm encoder with learned positions and a tied masked-LM head (Devlin et al. 2019); mBERT, LaBSE."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import gin

from xalign_jax.models.encoder import EncoderShape


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Bert(EncoderShape):
    """Shape of a BERT encoder. Its head is a dense layer and a norm, then the embedding table and a bias.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, attention heads of a block.
      mlp_width: hidden width of the MLP.
      max_length: longest sequence accepted, and rows of the position table.
      types: token types that are told apart, such as the two sentences of a pair; 1 = none are.
      norm_eps: epsilon of the LayerNorms.
      activation: of the MLP and the head, a name in `layers.ACTIVATIONS`.
      pooler: a dense layer with tanh over the first token's states, which is LaBSE's sentence embedding.
      init_std: standard deviation of the normal initialisation of every matrix and table.
    """

    layers: int = gin.REQUIRED
    width: int = gin.REQUIRED
    heads: int = gin.REQUIRED
    mlp_width: int = gin.REQUIRED
    max_length: int = 512
    types: int = 2
    norm_eps: float = 1e-12
    activation: str = "gelu"
    pooler: bool = False
    init_std: float = 0.02

    # Position p reads row p of the table.
    # XLM-R's table begins with two rows for other purposes; BERT's does not.
    first_position: ClassVar[int] = 0

    @property
    def head_activation(self) -> str:
        """The activation between the head's dense layer and its norm: the same as in the MLP."""
        return self.activation
