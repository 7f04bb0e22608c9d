"""Parameters of other model directories that objectives keep in their state, such as a teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
from etils import epath

from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import ModelConfig, Objective, Tree
from xalign_jax.models.model import Model
from xalign_jax.recipe import Stream
from xalign_jax.records.files import check_shape
from xalign_jax.runtime import storage
from xalign_jax.runtime.restore import restore_model


class Directory(NamedTuple):
    """A model directory that an objective names: the gin binding, the name in the objective's state, the place."""

    binding: str
    name: str
    place: epath.Path

    @property
    def label(self) -> str:
        """The binding with its value, for messages."""
        return f"{self.binding} = {str(self.place)!r}"


def of(objective: Objective) -> Iterator[Directory]:
    """The directories that an objective names."""
    for name, place in objective.directories().items():
        binding = f"{type(objective).__name__}.{name}"
        yield Directory(binding, name, storage.directory(binding, place))


def check_model(stream: Stream, config: ModelConfig) -> None:
    """Raise UserError if a directory of a stream's objective holds no model of this shape. No parameters are read."""
    for found in of(stream.objective):
        check_shape(found.label, found.place, config)


def check_vocabulary(stream: Stream, tokenizer: Tokenizer) -> None:
    """Raise UserError if a directory of a stream's objective has another vocabulary."""
    for found in of(stream.objective):
        if Tokenizer.load(found.place / "vocabulary").fingerprint != tokenizer.fingerprint:
            raise UserError(f"{found.label}: its vocabulary is another one than this run's")


def filled(stream: Stream, model: Model, own: Tree, where: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """An objective's state with the parameters of its directories, where the state's layout `where` wants them."""
    read = {found.name: restore_model(found.place, None, model, mesh)[1] for found in of(stream.objective)}
    return own | {name: jax.device_put(params, where[name]) for name, params in read.items()}
