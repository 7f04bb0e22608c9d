"""XLM-R: a post-norm encoder with learned positions and a tied masked-LM head (Conneau et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import gin

from xalign_jax.models.encoder import EncoderShape


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XLMRoberta(EncoderShape):
    """Shape of an XLM-R encoder. Its head is the embedding table, with a bias, after a dense layer and a norm.

    Attributes:
      mlp_width: hidden width of the MLP.
      max_length: longest sequence accepted; the position table has max_length + 2 rows.
      types: token types, such as languages (XLM); 1 = none are told apart (XLM-R).
      init_std: standard deviation of the normal initialisation of every matrix and table.
      activation: of the MLP: a name in `layers.ACTIVATIONS`; the head's is GELU.
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

    # Position p reads row p + 2 of the published tables (row 1 was the padding's); kept so that they can be read.
    first_position: ClassVar[int] = 2
