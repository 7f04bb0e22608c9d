"""An exported model as a sentence encoder: the files that sentence-transformers needs in its folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from xalign_jax.errors import UserError
from xalign_jax.interfaces import ModelConfig, Tree
from xalign_jax.models.model import Params

POOLINGS = ("mean", "first", "pooler")


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
    """How token states become a sentence vector.

    Attributes:
      pooling: "mean" over the tokens that are not special, "first" token, or BERT's "pooler". An encoder gives the same
        vectors as the probes. A decoder reads bos before the text, as in training; probes have it read the text alone.
      level: blocks to keep; None = all.
      normalize: vectors of length 1.
    """

    pooling: str
    level: int | None = None
    normalize: bool = False

    def shortened(self, config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
        """The model cut to its first `level` blocks.

        Raises:
          UserError: the model has no such level or no pooler. Or it is a decoder: its lower levels lack the final norm,
            and its first token has read nothing.
        """
        if self.pooling == "first" and config.causal:
            raise UserError("--sentence_encoder=first: a decoder's first token has read nothing of the text; take mean")
        if self.pooling == "pooler" and "pooler" not in params:
            raise UserError("--sentence_encoder=pooler: this model has none")
        if self.level is None or self.level == config.layers:
            return config, params
        if config.causal:
            raise UserError(
                f"--level={self.level}: transformers would add the final norm; a decoder has its last level only"
            )
        if not 1 <= self.level < config.layers:
            raise UserError(f"--level={self.level}: 1 to {config.layers}")
        # Blocks are stacked along axis 0.
        layers = {"layers": _first(params["layers"], self.level)}
        return dataclasses.replace(config, layers=self.level), params | layers  # type: ignore[type-var]


def _first(tree: Tree, count: int) -> Tree:
    """The first `count` of the stacked blocks, in every array of a tree."""
    return {k: _first(v, count) if isinstance(v, dict) else v[:count] for k, v in tree.items()}


def write_sentence_encoder(
    output: Path, encoder: SentenceEncoder, width: int, max_length: int, special: np.ndarray, params: Params
) -> None:
    """Add modules.json and the modules' folders to an exported model.

    A mean leaves out special tokens by giving their ids a weight of 0 (the module WordWeights).

    Args:
      width: of the states.   max_length: longest sequence.
      special: (V,) bool, ids that the mean leaves out.   params: of the model, for its pooler.
    """
    # Modules run in the order of the list, each with a folder for its settings. The model itself is at the root.
    modules = [("Transformer", "")]
    _json(output / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    if encoder.pooling == "mean":
        modules.append(("WordWeights", "1_WordWeights"))
        _word_weights(output / "1_WordWeights", special)
    # Mean and first token are modes of one module. A pooler starts from the first token.
    folder = f"{len(modules)}_Pooling"
    modules.append(("Pooling", folder))
    mean = encoder.pooling == "mean"
    modes = {"pooling_mode_cls_token": not mean, "pooling_mode_mean_tokens": mean, "pooling_mode_max_tokens": False}
    _json(output / folder / "config.json", {"word_embedding_dimension": width, **modes, "include_prompt": True})
    if encoder.pooling == "pooler":
        folder = f"{len(modules)}_Dense"
        modules.append(("Dense", folder))
        _dense(output / folder, params["pooler"], width)
    # Normalising has no settings, but the module needs a folder.
    if encoder.normalize:
        folder = f"{len(modules)}_Normalize"
        modules.append(("Normalize", folder))
        (output / folder).mkdir()
    # modules.json names the class and the folder of each.
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(modules)
    ]
    _json(output / "modules.json", listed)
    _json(output / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})


def _word_weights(folder: Path, special: np.ndarray) -> None:
    # Names are never looked up: only their place in the list counts.
    ids = [str(i) for i in range(len(special))]
    # The module reads a dictionary of exceptions, and the table of weights as its parameters.
    weights = {str(i): 0.0 for i in np.flatnonzero(special)}
    _json(folder / "config.json", {"vocab": ids, "word_weights": weights, "unknown_word_weight": 1.0})
    # (V, 1), an embedding whose only number is the weight.
    table = np.where(special, 0.0, 1.0).astype(np.float32)[:, None]
    save_file({"emb_layer.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})


def _dense(folder: Path, pooler: Tree, width: int) -> None:
    """BERT's pooler: a dense layer with tanh over the first token's state."""
    activation = "torch.nn.modules.activation.Tanh"
    _json(
        folder / "config.json",
        {"in_features": width, "out_features": width, "bias": True, "activation_function": activation},
    )
    # torch.nn.Linear keeps (out, in), ours is (in, out).
    weights = {
        "linear.weight": np.ascontiguousarray(np.asarray(pooler["weight"]).T),
        "linear.bias": np.asarray(pooler["bias"]),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _json(file: Path, values: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
