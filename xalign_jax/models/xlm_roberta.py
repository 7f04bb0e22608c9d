"""XLM-R: a post-norm encoder with learned positions and a tied masked-LM head (Conneau et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import gin

from xalign_jax.models.encoder import EncoderShape


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XLMRoberta(EncoderShape):
    """Shape of an XLM-R encoder. Its head is a dense layer and a norm, then the embedding table and a bias.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, attention heads of a block.
      mlp_width: hidden width of the MLP.
      max_length: longest sequence accepted; the position table has max_length + 2 rows.
      types: token types that are told apart, such as languages (XLM); 1 = none are (XLM-R).
      norm_eps: epsilon of the LayerNorms.
      init_std: standard deviation of the normal initialisation of every matrix and table.
      activation: of the MLP, a name in `layers.ACTIVATIONS`; the head's activation is always GELU.
    """

    layers: int = gin.REQUIRED
    width: int = gin.REQUIRED
    heads: int = gin.REQUIRED
    mlp_width: int = gin.REQUIRED
    max_length: int = 512
    types: int = 1
    norm_eps: float = 1e-5
    init_std: float = 0.02
    activation: str = "gelu"

    # Position p reads row p + 2, because row 1 of the published tables belongs to padding. This way published
    # checkpoints can be read as they are, and rows 0 and 1 are never used.
    first_position: ClassVar[int] = 2
