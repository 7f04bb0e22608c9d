"""The language of the tables: which tensor of theirs is which array of ours, and how the one lies in the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xalign_jax.errors import UserError

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
    """torch.nn.Linear's weight (out, in); ours has `inputs` leading axes of inputs, then those of outputs."""

    inputs: int = 1

    def theirs(self, ours: Shape) -> Shape:
        return math.prod(ours[self.inputs :]), math.prod(ours[: self.inputs])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.T.reshape(ours)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        (array,) = arrays
        return array.reshape(math.prod(array.shape[: self.inputs]), -1).T


@dataclasses.dataclass(frozen=True)
class Fused(Plain):
    """GPT-NeoX's query_key_value: rows by head, then query/key/value, then the head's dimensions."""

    part: int = 0
    heads: int = 1

    def theirs(self, ours: Shape) -> Shape:
        return (3 * ours[0],) if len(ours) == 1 else (3 * ours[1] * ours[2], ours[0])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        rows = tensor.reshape(self.heads, 3, -1, *tensor.shape[1:])[:, self.part]
        return rows.reshape(ours) if len(ours) == 1 else np.moveaxis(rows, -1, 0)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        rows = [a.reshape(self.heads, -1) if a.ndim == 1 else np.moveaxis(a, 0, -1) for a in arrays]
        fused = np.stack(rows, axis=1)
        return fused.reshape(-1) if fused.ndim == 3 else fused.reshape(-1, fused.shape[-1])


@dataclasses.dataclass(frozen=True)
class Shifted(Plain):
    """A position table that begins `by` rows later than ours; rows before the first in use carry nothing."""

    by: int = 0

    def theirs(self, ours: Shape) -> Shape:
        return (ours[0] + self.by, *ours[1:])

    def read(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return _shift(tensor, -self.by)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return _shift(arrays[0], self.by)


def _shift(table: np.ndarray, by: int) -> np.ndarray:
    if by <= 0:
        return table[-by:]
    return np.concatenate([np.zeros((by, *table.shape[1:]), table.dtype), table])


@dataclasses.dataclass(frozen=True)
class Entry:
    """`ours`: path of a parameter; under layers/ the arrays of all layers are stacked. `theirs`: a tensor's name, "{}"
    for the layer. Entries of one name lie in one tensor. `head`: part of the masked-LM head, which encoders may lack."""

    ours: str
    theirs: str
    view: Plain = Plain()
    head: bool = False


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one of our models is kept by transformers.

    Attributes:
      config: our dataclass.   model_types: values of config.json's model_type that are read as it.
      read: (settings, names of the tensors) -> config.
      write: (config, rows of the table, special ids) -> config.json without what all share.
      table: (config, id of padding) -> entries.
      prefix: of tensors' names, absent where a model was saved without its head.
      ignored: regular expressions of tensors that carry nothing of the model.
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
    ignored: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


# What says nothing of the computation, whatever its value.
_HARMLESS = frozenset(
    [
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
        "use_cache",
        "initializer_range",
        "model_type",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "attention_dropout",
        "hidden_dropout",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "embd_pdrop",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "gradient_checkpointing",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "output_past",
        "is_encoder_decoder",
        "directionality",
        "vocab_size",
        "chunk_size_feed_forward",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "_attn_implementation",
        "auto_map",
        "language",
        "prefix",
        "max_window_layers",
        "tokenizer_class",
        "_commit_hash",
        "attn_implementation",
        "generation_config",
        "max_length",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "max_sequence_length",
        "is_llama_config",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
    ]
)
_MISSING = object()


class Settings:
    """A config.json of which every key must be asked for, or be known to say nothing of the computation."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file, self.values, self._asked = file, values, set[str]()

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """A value. Raises UserError if it is missing and has no default."""
        self._asked.add(key)
        value = self.values.get(key, default)
        if value is _MISSING:
            raise UserError(f"{self.file}: no {key!r}")
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a value that is there and not one of these."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise UserError(f"{self.file}: {key} = {value!r} is not implemented; only {_listed(allowed)}")

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for key in sorted(self.values.keys() - self._asked - _HARMLESS):
            if self.values[key] not in (None, False):
                raise UserError(
                    f"{self.file}: {key} = {self.values[key]!r} is not implemented for {self.values['model_type']}"
                )


def _listed(values: Sequence[Any]) -> str:
    return " or ".join(map(repr, values))
