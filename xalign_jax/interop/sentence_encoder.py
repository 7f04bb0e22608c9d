"""An exported model as a sentence encoder: the folder of sentence-transformers around it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from xalign_jax.errors import UserError

POOLINGS = ("mean", "first", "pooler")


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
    """How token states become a sentence vector.

    Attributes:
      pooling: "mean" over the tokens that are not special, "first" token, or BERT's "pooler". Of an encoder these are the
        probes' vectors; a decoder reads bos before the text, as in training, where the probes have it read the text alone.
      level: blocks to keep; None = all.
      normalize: to unit length.
    """

    pooling: str
    level: int | None = None
    normalize: bool = False

    def shortened(self, config: Any, params: Any) -> tuple[Any, Any]:
        """The model of `level` blocks.

        Raises:
          UserError: a decoder's lower levels lack its final norm, its first token says nothing; no such level; no pooler.
        """
        if self.pooling == "first" and config.causal:
            raise UserError("--sentence_encoder=first: a decoder's first token has read nothing of the text; take mean")
        if self.pooling == "pooler" and not getattr(config, "pooler", False):
            raise UserError("--sentence_encoder=pooler: this model has none")
        if self.level is None or self.level == config.layers:
            return config, params
        if config.causal:
            raise UserError(
                f"--level={self.level}: transformers would add the final norm; a decoder has its last level only"
            )
        if not 1 <= self.level < config.layers:
            raise UserError(f"--level={self.level}: 1 to {config.layers}")
        layers = {"layers": _first(params["layers"], self.level)}
        return dataclasses.replace(config, layers=self.level), params | layers


def _first(tree: Any, count: int) -> Any:
    return {k: _first(v, count) if isinstance(v, dict) else v[:count] for k, v in tree.items()}


def write_sentence_encoder(
    output: Path, encoder: SentenceEncoder, width: int, max_length: int, special: np.ndarray, params: Any
) -> None:
    """Add modules.json and the modules' folders to an exported model.

    A mean leaves out special tokens by weights of 0 for their ids (the module WordWeights).

    Args:
      width: of the states.   max_length: longest sequence.
      special: (V,) bool, ids that the mean leaves out.   params: of the model, for its pooler.
    """
    modules = [("Transformer", "")]
    _json(output / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    if encoder.pooling == "mean":
        modules.append(("WordWeights", "1_WordWeights"))
        _word_weights(output / "1_WordWeights", special)
    folder = f"{len(modules)}_Pooling"
    modules.append(("Pooling", folder))
    mean = encoder.pooling == "mean"
    modes = {"pooling_mode_cls_token": not mean, "pooling_mode_mean_tokens": mean, "pooling_mode_max_tokens": False}
    _json(output / folder / "config.json", {"word_embedding_dimension": width, **modes, "include_prompt": True})
    if encoder.pooling == "pooler":
        folder = f"{len(modules)}_Dense"
        modules.append(("Dense", folder))
        _dense(output / folder, params["pooler"], width)
    if encoder.normalize:
        folder = f"{len(modules)}_Normalize"
        modules.append(("Normalize", folder))
        (output / folder).mkdir()
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(modules)
    ]
    _json(output / "modules.json", listed)
    _json(output / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})


def _word_weights(folder: Path, special: np.ndarray) -> None:
    ids = [str(i) for i in range(len(special))]  # names that nothing but their place tells apart
    weights = {str(i): 0.0 for i in np.flatnonzero(special)}
    _json(folder / "config.json", {"vocab": ids, "word_weights": weights, "unknown_word_weight": 1.0})
    table = np.where(special, 0.0, 1.0).astype(np.float32)[:, None]
    save_file({"emb_layer.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})


def _dense(folder: Path, pooler: Any, width: int) -> None:
    activation = "torch.nn.modules.activation.Tanh"
    _json(
        folder / "config.json",
        {"in_features": width, "out_features": width, "bias": True, "activation_function": activation},
    )
    weights = {
        "linear.weight": np.ascontiguousarray(np.asarray(pooler["weight"]).T),
        "linear.bias": np.asarray(pooler["bias"]),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _json(file: Path, values: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
