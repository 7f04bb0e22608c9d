"""Random models of transformers with our parameters beside them, and sentences run in both.

The mapping of weights is written out by hand here, so that it is not the one of `interop` that proves itself right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import build

V = 40
LENGTHS = (5, 9, 14)  # rising: transformers' dynamic scaling keeps the longest length it saw
TOTAL = 32


class Rows(NamedTuple):
    """The sentences of `LENGTHS` packed into one row, padded on the right, padded on the left.

    Attributes:
      tokens, positions, segment_ids, types: (7,TOTAL) int32.
      places: for each sentence, the row and the first column of each of its three copies.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    types: np.ndarray
    places: list[list[tuple[int, int]]]


def sentences(seed: int = 0) -> list[np.ndarray]:
    """Token ids other than 0 and 1, because one of these may be padding for transformers."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, V, n).astype(np.int32) for n in LENGTHS]


def rows() -> Rows:
    """Positions as transformers computes them from a mask: padding has position 0, or the last position."""
    n, starts = len(LENGTHS), np.cumsum((0, *LENGTHS))
    places = [[(0, starts[i]), (1 + i, 0), (1 + n + i, TOTAL - LENGTHS[i])] for i in range(n)]
    tokens, positions, segments, types = np.zeros((4, 1 + 2 * n, TOTAL), np.int32)
    for i, sentence in enumerate(sentences()):
        for copy, (row, first) in enumerate(places[i]):
            here = row, slice(first, first + LENGTHS[i])
            tokens[here], positions[here] = sentence, np.arange(LENGTHS[i])
            segments[here], types[here] = (i + 1 if copy == 0 else 1), np.arange(LENGTHS[i]) >= 3
    right = slice(1, 1 + n)
    positions[right] = np.cumsum(segments[right], axis=1) - 1
    return Rows(tokens, positions, segments, types, places)


def randomise(torch: Any, network: Any, seed: int = 0) -> Any:
    """Random weights, none of which is 0 or 1, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
    return network.eval()


def assert_equal_to_sentences_alone(
    torch: Any, network: Any, config: Any, params: Any, *, types: bool = False, atol: float = 1e-5
) -> None:
    """All levels and logits of packed, right- and left-padded sentences equal those of `network` on each alone."""
    model = build(config, V)
    levels = tuple(range(config.layers + 1))
    shapes = model.shapes
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    batch = rows()

    @jax.jit
    def run(p, tokens, positions, segment_ids, kinds):
        states = model.bind(p).hidden(Inputs(tokens, positions, segment_ids, types=kinds), levels=levels)
        logits = model.bind(p).head_input(states[config.layers]) @ model.bind(p).head_weight().T
        bias = model.bind(p).head_bias()
        return [*(states[level] for level in levels), logits if bias is None else logits + bias]

    found = run(params, *batch[:3], batch.types if types else None)
    for i, sentence in enumerate(sentences()):
        inputs = {"input_ids": sentence[None]}
        if types:
            inputs["token_type_ids"] = (np.arange(len(sentence)) >= 3)[None]
        with torch.no_grad():
            other = network(
                **{name: torch.tensor(value).long() for name, value in inputs.items()}, output_hidden_states=True
            )
        expected = [*other.hidden_states, other.logits]
        for level, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            for row, first in batch.places[i]:
                np.testing.assert_allclose(
                    ours[row, first : first + len(sentence)],
                    theirs[0].numpy(),
                    atol=atol * max(1.0, theirs.abs().max().item()),
                    err_msg=f"sentence {i} in row {row}, level {level} (the last one: logits)",
                )


class Weights:
    """A network's tensors as numpy arrays, stacked over layers."""

    def __init__(self, network: Any, layers: int):
        self.tensors = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
        self.layers = layers

    def __contains__(self, name: str) -> bool:
        return name.format(0) in self.tensors

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensors of all layers, stacked: (L, ...). The pattern has {} for the layer."""
        if "{}" not in name:
            return self.tensors[name]
        return np.stack([self.tensors[name.format(i)] for i in range(self.layers)])

    def dense(self, name: str) -> dict[str, np.ndarray]:
        return {"weight": self[f"{name}.weight"].swapaxes(-1, -2), "bias": self[f"{name}.bias"]}

    def norm(self, name: str) -> dict[str, np.ndarray]:
        found = {"scale": self[f"{name}.weight"]}
        return found | ({"bias": self[f"{name}.bias"]} if f"{name}.bias" in self else {})

    def attention(self, names: dict[str, str], head_dim: int) -> dict[str, Any]:
        """Attention's separate matrices (out,in) under our names: query, key, value, output."""
        found: dict[str, Any] = {}
        for ours, name in names.items():
            weight = self[f"{name}.weight"].swapaxes(-1, -2)
            heads = (-1, head_dim, weight.shape[-1]) if ours == "output" else (weight.shape[1], -1, head_dim)
            found[ours] = weight.reshape(self.layers, *heads)
            if f"{name}.bias" in self:
                found[f"{ours}_bias"] = self[f"{name}.bias"]
        return found


def llama_params(network: Any, config: Any) -> dict[str, Any]:
    """Our parameters from LlamaForCausalLM and similar classes."""
    w = Weights(network, config.layers)
    at = "model.layers.{}"
    names = {name: f"{at}.self_attn.{name[0]}_proj" for name in ("query", "key", "value", "output")}
    attention = w.attention(names, config.head_size)
    if config.qk_norm:
        attention |= {"query_norm": w.norm(f"{at}.self_attn.q_norm"), "key_norm": w.norm(f"{at}.self_attn.k_norm")}
    mlp = {name: w[f"{at}.mlp.{name}_proj.weight"].swapaxes(1, 2) for name in ("gate", "up", "down")}
    if config.mlp_bias:
        mlp |= {f"{name}_bias": w[f"{at}.mlp.{name}_proj.bias"] for name in ("gate", "up", "down")}
    found = {
        "embedding": w["model.embed_tokens.weight"],
        "layers": {
            "attention_norm": w.norm(f"{at}.input_layernorm"),
            "attention": attention,
            "mlp_norm": w.norm(f"{at}.post_attention_layernorm"),
            "mlp": mlp,
        },
        "final_norm": w.norm("model.norm"),
    }
    return found if config.tied else found | {"head": w["lm_head.weight"]}


def gpt_neox_params(network: Any, config: Any) -> dict[str, Any]:
    """Our parameters from GPTNeoXForCausalLM, where queries, keys and values are one matrix, head by head."""
    w = Weights(network, config.layers)
    at, names = "gpt_neox.layers.{}", ("query", "key", "value")
    attention = w.attention({"output": f"{at}.attention.dense"}, config.head_size)
    fused = w[f"{at}.attention.query_key_value.weight"]
    fused = fused.reshape(config.layers, config.heads, 3, config.head_size, config.width)
    attention |= {name: fused[:, :, i].transpose(0, 3, 1, 2) for i, name in enumerate(names)}
    if config.attention_bias:
        bias = w[f"{at}.attention.query_key_value.bias"]
        bias = bias.reshape(config.layers, config.heads, 3, config.head_size)
        attention |= {f"{name}_bias": bias[:, :, i].reshape(config.layers, -1) for i, name in enumerate(names)}
    found = {
        "embedding": w["gpt_neox.embed_in.weight"],
        "layers": {
            "attention_norm": w.norm(f"{at}.input_layernorm"),
            "attention": attention,
            "mlp_norm": w.norm(f"{at}.post_attention_layernorm"),
            "up": w.dense(f"{at}.mlp.dense_h_to_4h"),
            "down": w.dense(f"{at}.mlp.dense_4h_to_h"),
        },
        "final_norm": w.norm("gpt_neox.final_layer_norm"),
    }
    return found if config.tied else found | {"head": w["lm_head.weight"]}


def encoder_params(network: Any, config: Any, base: str, head: tuple[str, str, str]) -> dict[str, Any]:
    """Of BertForMaskedLM and XLMRobertaForMaskedLM.

    Args:
      base: name of the model inside, "bert" or "roberta".
      head: names of the head's dense layer, of its norm and of its bias.
    """
    w = Weights(network, config.layers)
    at, embeddings = base + ".encoder.layer.{}", f"{base}.embeddings"
    names = {name: f"{at}.attention.self.{name}" for name in ("query", "key", "value")}
    names["output"] = f"{at}.attention.output.dense"
    return {
        "embedding": w[f"{embeddings}.word_embeddings.weight"],
        "positions": w[f"{embeddings}.position_embeddings.weight"],
        "types": w[f"{embeddings}.token_type_embeddings.weight"],
        "embedding_norm": w.norm(f"{embeddings}.LayerNorm"),
        "layers": {
            "attention": w.attention(names, config.head_size),
            "attention_norm": w.norm(f"{at}.attention.output.LayerNorm"),
            "up": w.dense(f"{at}.intermediate.dense"),
            "down": w.dense(f"{at}.output.dense"),
            "mlp_norm": w.norm(f"{at}.output.LayerNorm"),
        },
        "head": w.dense(head[0]),
        "head_norm": w.norm(head[1]),
        "head_bias": w[head[2]],
    }
