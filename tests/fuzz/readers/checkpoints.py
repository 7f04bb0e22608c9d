"""Checkpoints of Hugging Face: config.json, and whole folders with safetensors."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.harness import Reader
from xalign_jax.interop.architectures.table import read_config
from xalign_jax.interop.importing import flat, read_source
from xalign_jax.interop.settings import Settings
from xalign_jax.models.model import build

SIZES = {"llama": (2, 16), "gpt_neox": (1, 16), "bert": (2, 8), "xlm-roberta": (1, 8)}  # layers, width
ROPE = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0}
ROPE |= {"original_max_position_embeddings": 16}
ROWS = 24


def _configs() -> list[dict[str, bytes]]:
    found = []
    for kind, (layers, width) in SIZES.items():
        config: dict[str, Any] = {
            "architectures": ["Any"],
            "model_type": kind,
            "vocab_size": ROWS,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "max_position_embeddings": 34,
            "pad_token_id": 1,
            "hidden_act": "silu" if kind == "llama" else "gelu",
            "_name_or_path": "x",
        }
        if kind == "llama":
            config |= {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_parameters": ROPE, "head_dim": 8}
            config |= {"tie_word_embeddings": True, "attention_bias": True, "eos_token_id": [2, 3]}
        elif kind == "gpt_neox":
            config |= {"rotary_pct": 0.5, "rotary_emb_base": 10000, "use_parallel_residual": True}
            config |= {"rope_scaling": {"type": "linear", "factor": 2.0}}
        else:
            config |= {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
        found.append(config)
    qwen = found[0] | {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    found += [qwen | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}]
    return [{"config.json": json.dumps(config).encode()} for config in found]


def _folders() -> list[dict[str, bytes]]:
    """The first configurations with random tensors, in one file and in two shards with an index; buffers as of old."""
    from safetensors.numpy import save

    found = []
    for files in _configs()[:4]:
        config = json.loads(files["config.json"])
        random = np.random.default_rng(0)
        tensors = {
            name: random.normal(size=shape).astype(np.float32) for name, shape in _needed(files["config.json"]).items()
        }
        if config["model_type"] == "llama":
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        elif config["model_type"] == "bert":
            tensors["bert.embeddings.position_ids"] = np.arange(34)[None]
        names = sorted(tensors)
        parts = {
            f"model-{i}.safetensors": {name: tensors[name] for name in some}
            for i, some in enumerate((names[::2], names[1::2]))
        }
        index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
        shards = {file: save(some) for file, some in parts.items()}
        ids = {name: files[name] for name in files}
        found.append(ids | {"model.safetensors": save(tensors)})
        found.append(ids | shards | {"model.safetensors.index.json": json.dumps(index).encode()})
    return found


def _needed(config: bytes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a configuration."""
    settings = Settings(Path("config.json"), json.loads(config))
    architecture, ours = read_config(settings, frozenset())
    shapes = flat(build(ours, ROWS).shapes)
    found = {}
    for entry in architecture.table(ours, settings.get("pad_token_id")):
        layered = "{}" in entry.theirs
        for layer in range(ours.layers if layered else 1):
            found[entry.theirs.format(layer)] = entry.view.theirs(shapes[entry.ours].shape[int(layered) :])
    return found


def _read_config(folder: Path) -> Any:
    return read_config(Settings.read(folder / "config.json"), frozenset())[1]


def _check_config(config: Any, folder: Path) -> None:
    """What was read is a model of that many layers, of whole numbers."""
    values = json.loads((folder / "config.json").read_bytes())
    assert (config.layers, config.width) == (values["num_hidden_layers"], values["hidden_size"])
    assert type(config.max_length) is int and config.max_length > 0


def _read_folder(folder: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return read_source(folder)


READERS = [
    Reader("config_json", _configs, _read_config, _check_config),
    Reader("hub_folder", _folders, _read_folder),
]
