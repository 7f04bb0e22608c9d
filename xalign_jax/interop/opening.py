"""A model directory or a Hugging Face folder becomes a model in memory, with its tokenizer. Nothing is written."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xalign_jax.data.tokens.tokenizer import Frame, Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.interop.architectures import table
from xalign_jax.interop.importing import fast_tokenizer, read_parameters, read_source
from xalign_jax.models.model import Model, build
from xalign_jax.records.files import read_environment


class Opened(NamedTuple):
    """A model that was read.

    Attributes:
      model: with its parameters bound, and the heads that a run's objectives trained.
      frame: the ids that the model reads before and after a text.
      step: of the checkpoint; 0 for a Hugging Face folder.
    """

    model: Model
    tokenizer: Tokenizer
    frame: Frame
    step: int = 0


def is_model_directory(folder: Path) -> bool:
    """True for a directory that a run or an import wrote, False for a Hugging Face folder.

    Raises:
      UserError: the folder does not exist, or is neither.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; if it is on the Hub: hf download {folder} --local-dir DIR")
    # A model directory that is also an exported model is read as a model directory.
    if (folder / "environment.json").is_file() and (folder / "vocabulary").is_dir():
        return True
    if (folder / "config.json").is_file():
        return False
    raise UserError(
        f"{folder}: neither a model directory (environment.json, vocabulary/) nor a Hugging Face folder (config.json)"
    )


def open_model(folder: Path, mesh: Mesh, step: int | None = None, dtype: str = "float32") -> Opened:
    """Read a model directory or a Hugging Face folder.

    Args:
      step: the checkpoint of a model directory; None = the newest.
      dtype: of parameters, matrix products and hidden states, "float32" or "bfloat16".

    Raises:
      UserError: the message names what is missing, unknown or damaged, or that the model is too large for the memory.
    """
    if is_model_directory(folder):
        return _open_directory(folder, mesh, step, dtype)
    if step is not None:
        raise UserError(f"step = {step}: {folder} is a Hugging Face folder, which has no steps")
    return _open_folder(folder, mesh, dtype)


def _open_directory(folder: Path, mesh: Mesh, step: int | None, dtype: str) -> Opened:
    """A model directory's checkpoint, without its recipe."""
    # A Hugging Face folder needs no Orbax, which takes half a second to import.
    from xalign_jax.runtime.restore import restore_heads, restore_model

    environment = read_environment(folder, ("recipe",))
    config = table.config_from_json(environment["recipe"].get("model"))
    tokenizer = Tokenizer.load(folder / "vocabulary")
    _refuse_ids(folder, tokenizer)
    model = _build(config, tokenizer, dtype)
    check_memory(folder, model, "float32")  # checkpoints hold float32
    at, params = restore_model(folder, step, model, mesh)
    heads = restore_heads(folder, at, mesh)
    # An import is read as its source is, a run as its feeds write texts.
    frame = None if (folder / "config.gin").is_file() else tokenizer.frame
    return Opened(_bound(model, params, dtype, heads), tokenizer, frame or tokenizer.framing(config.causal), at)


def _open_folder(folder: Path, mesh: Mesh, dtype: str) -> Opened:
    """A checkpoint of Hugging Face with its tokenizer."""
    # Headers first: whatever does not fit is found before any tensor is read.
    found = read_source(folder)
    check_memory(folder, found.model, dtype)
    with tempfile.TemporaryDirectory() as place:
        path = fast_tokenizer(folder, Path(place))
        if path is None:
            raise UserError(
                f"{folder}: no tokenizer there, so the model can read no text; copy tokenizer.json (and "
                "tokenizer_config.json) of the model into it"
            )
        tokenizer = Tokenizer.of(Vocabulary("huggingface", str(path), rows=found.rows))
    model = _build(found.model.config, tokenizer, dtype)
    params = read_parameters(found, mesh, dtype)
    return Opened(model.bind(params), tokenizer, tokenizer.frame or tokenizer.framing(model.causal))


def _build(config: Any, tokenizer: Tokenizer, dtype: str) -> Model:
    """The model without parameters."""
    options: Mapping[str, Any] = {"row_map": tokenizer.row_map, "special": tokenizer.special, "mask_id": tokenizer.mask}
    return build(config, tokenizer.size, dtype=jnp.dtype(dtype), **options)


def _bound(model: Model, params: Any, dtype: str, heads: Any) -> Model:
    """The model with the parameters in its dtype, and with heads, which stay float32."""
    return model.bind(jax.tree.map(lambda array: array.astype(dtype), params), heads)


def _refuse_ids(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse a model whose vocabulary has no text."""
    if tokenizer.vocabulary.kind == "ids":
        raise UserError(f"{folder}: imported without a tokenizer, so the model can read no text; import it with one")


def check_memory(folder: Path, model: Model, dtype: str) -> None:
    """Refuse a model whose parameters do not fit into the memory that is free. Reads shapes alone.

    Raises:
      UserError: it names both sizes.
    """
    size = sum(math.prod(shape.shape) for shape in jax.tree.leaves(model.shapes)) * jnp.dtype(dtype).itemsize
    where, free = free_memory()
    if free is not None and size > free:
        raise UserError(
            f"{folder}: {size / 1e9:.1f} GB of {dtype} parameters, but {free / 1e9:.1f} GB of {where} are free; "
            'load(..., dtype="bfloat16") needs half as much for a Hugging Face folder, several devices share a model'
        )


def free_memory() -> tuple[str, int | None]:
    """The memory that parameters will lie in, by name, and its free bytes; None where the system does not say."""
    # Accelerators report their own memory; a CPU's is the machine's.
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in one for one in stats):
        return "device memory", sum(one["bytes_limit"] - one.get("bytes_in_use", 0) for one in stats)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return "memory", int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return "memory", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "memory", None
