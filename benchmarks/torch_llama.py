"""The weights of a Llama of ours as tensors with the names of Hugging Face."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch

from xalign_jax.models.llama import Llama


def llama_tensors(shape: Llama, start: Any) -> dict[str, torch.Tensor]:
    """The tensors of a LlamaModel, without the head.

    Args:
      start: the parameters of a model of this shape, on the host.
    """
    # Ours are (in, ...) and stacked over blocks, theirs (out, in) and separate.
    weights = {"embed_tokens.weight": start["embedding"], "norm.weight": start["final_norm"]["scale"]}
    for i in range(shape.layers):
        block = jax.tree.map(lambda a, i=i: np.asarray(a[i]), start["layers"])
        for name in ("query", "key", "value"):
            weights[f"layers.{i}.self_attn.{name[0]}_proj.weight"] = block["attention"][name].reshape(shape.width, -1).T
        weights[f"layers.{i}.self_attn.o_proj.weight"] = block["attention"]["output"].reshape(-1, shape.width).T
        weights |= {f"layers.{i}.mlp.{name}_proj.weight": block["mlp"][name].T for name in ("gate", "up", "down")}
        weights[f"layers.{i}.input_layernorm.weight"] = block["attention_norm"]["scale"]
        weights[f"layers.{i}.post_attention_layernorm.weight"] = block["mlp_norm"]["scale"]
    return {name: torch.tensor(np.asarray(array)) for name, array in weights.items()}
