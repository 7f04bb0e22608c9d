"""The average of a model with the model that it began as.

A model that learns something new forgets a part of what it knew. The average of its parameters with those of its start
often keeps both (Wortsman et al. 2022, arXiv 2109.01903, section 3):

    theta = (1 - share) theta_trained + share theta_start
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.models.model import Model, Params
from xalign_jax.records.files import check_shape
from xalign_jax.runtime.restore import restore_model


class Average(NamedTuple):
    """What a model is averaged with.

    Attributes:
      model_dir: of the other model, such as the import that training began with.
      share: of the other model's parameters, between 0 and 1.
    """

    model_dir: Path
    share: float = 0.5

    def check(self, model: Model, tokenizer: Tokenizer) -> None:
        """Raise UserError if the other directory holds no model of this shape and vocabulary, or the share is none."""
        if not 0 <= self.share <= 1:
            raise UserError(f"--share={self.share}: from 0 to 1")
        check_shape(label := f"--average_with={self.model_dir}", self.model_dir, model.config)
        if Tokenizer.load(self.model_dir / "vocabulary").fingerprint != tokenizer.fingerprint:
            raise UserError(f"{label}: its vocabulary is another one")

    def of(self, params: Params, model: Model, mesh: Mesh) -> Params:
        """The averaged parameters, in the dtype of `params`."""
        other = restore_model(self.model_dir, None, model, mesh)[1]
        return jax.tree.map(
            lambda own, start: ((1 - self.share) * own + self.share * start).astype(own.dtype), params, other
        )
