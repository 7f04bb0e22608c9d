"""The language of the tables: which tensor of theirs is which array of ours, and how one lies in the other.

"Theirs" are tensors as transformers names and shapes them; "ours" are arrays as `models` has them. A view converts in
both directions, one layer at a time: `theirs` gives the shape to expect in a file, `read` imports and `write` exports.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xalign_jax.interfaces import ModelConfig
from xalign_jax.interop.settings import Settings

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plain:
    """The same array."""

    def theirs(self, ours: Shape) -> Shape:
        """The shape of their tensor, from ours."""
        return ours

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        """Our array (of one layer) from their tensor."""
        return tensor

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Their tensor from the arrays of ours that lie in it, in the order of the table."""
        return arrays[0]


@dataclasses.dataclass(frozen=True)
class Transposed(Plain):
    """A weight of torch.nn.Linear, (out, in). Ours has `inputs` leading axes of inputs, then the axes of outputs."""

    inputs: int = 1

    def theirs(self, ours: Shape) -> Shape:
        # Both of our groups of axes are flattened: (in..., out...) -> (out, in).
        return math.prod(ours[self.inputs :]), math.prod(ours[: self.inputs])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        # (out, in) -> (in, out) -> (in..., out...)
        return tensor.T.reshape(ours)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        (array,) = arrays
        # (in..., out...) -> (in, out) -> (out, in)
        return array.reshape(math.prod(array.shape[: self.inputs]), -1).T


@dataclasses.dataclass(frozen=True)
class Fused(Plain):
    """GPT-NeoX's query_key_value: rows by head, then query, key or value, then the head's dimensions.

    Ours are three arrays, (in, heads, head size) for weights and (heads * head size,) for biases. `part` says which.
    """

    part: int = 0
    heads: int = 1

    def theirs(self, ours: Shape) -> Shape:
        # Weights (3 * heads * head size, in), biases (3 * heads * head size,).
        return (3 * ours[0],) if len(ours) == 1 else (3 * ours[1] * ours[2], ours[0])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        # (heads, 3, head size, in or nothing), of which one part: (heads, head size, in or nothing).
        rows = tensor.reshape(self.heads, 3, -1, *tensor.shape[1:])[:, self.part]
        # Weights have the axis of inputs first: (heads, head size, in) -> (in, heads, head size).
        return rows.reshape(ours) if len(ours) == 1 else np.moveaxis(rows, -1, 0)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        # The way back: each part as (heads, head size, in or nothing), stacked to (heads, 3, head size, in or nothing).
        rows = [a.reshape(self.heads, -1) if a.ndim == 1 else np.moveaxis(a, 0, -1) for a in arrays]
        fused = np.stack(rows, axis=1)
        return fused.reshape(-1) if fused.ndim == 3 else fused.reshape(-1, fused.shape[-1])


@dataclasses.dataclass(frozen=True)
class Shifted(Plain):
    """A position table that begins `by` rows later than ours. Rows before the first in use carry nothing."""

    by: int = 0

    def theirs(self, ours: Shape) -> Shape:
        return (ours[0] + self.by, *ours[1:])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        # Drop the rows that no position reads.
        return _shift(tensor, -self.by)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        # Put rows of zeros in their place.
        return _shift(arrays[0], self.by)


def _shift(table: np.ndarray, by: int) -> np.ndarray:
    """(P, D) without its first -by rows, or with `by` rows of zeros before it."""
    if by <= 0:
        return table[-by:]
    return np.concatenate([np.zeros((by, *table.shape[1:]), table.dtype), table])


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours in one tensor of theirs.

    Attributes:
      ours: path of a parameter; under layers/ the arrays of all layers are stacked.
      theirs: a tensor's name, "{}" for the layer. Entries of one name lie in one tensor.
      view: how the array lies in the tensor.
      head: part of the masked-LM head, which encoders may lack.
    """

    ours: str
    theirs: str
    view: Plain = Plain()
    head: bool = False


@dataclasses.dataclass(frozen=True)
class Redundant:
    """Tensors that are not read, because other tensors or config.json determine their contents. That is checked.

    Attributes:
      pattern: regular expression of their names.
      copy_of: the tensor that they must equal.
      holds: (config, tensor) -> whether the tensor holds what follows from the configuration. Without `copy_of` and
        `holds`, the tensors are part of another model, such as a pooler that ours lacks.
    """

    pattern: str
    copy_of: str | None = None
    holds: Callable[[Any, np.ndarray], bool] | None = None


def counts_up(config: ModelConfig, tensor: np.ndarray) -> bool:
    """Whether a table of positions holds 0, 1, 2, and so on, as older versions of transformers saved them."""
    return np.array_equal(tensor.reshape(-1), np.arange(tensor.size))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How transformers keeps one of our models.

    Attributes:
      config: our dataclass.   model_types: values of config.json's model_type that are read as this class.
      read: (settings, names of the tensors) -> config.
      write: (config, rows of the table, special ids) -> config.json without what all architectures share.
      table: (config, id of padding) -> entries.
      prefix: of tensors' names; absent where a model was saved without its head.
      embedding: tensor of the table of tokens.
      head: tensor of the output head, where a setting can tie it to the embedding.
      redundant: tensors that are left out.
      renamed: (old, new) endings of names.
      auto: the class of transformers that loads it.
    """

    config: type
    model_types: tuple[str, ...]
    read: Callable[[Settings, frozenset[str]], Any]
    write: Callable[[Any, int, dict[str, int | None]], dict[str, Any]]
    table: Callable[[Any, int | None], list[Entry]]
    prefix: str
    auto: str
    embedding: str
    head: str | None = None
    redundant: tuple[Redundant, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
