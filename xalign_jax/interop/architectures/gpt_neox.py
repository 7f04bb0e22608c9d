"""GPT-NeoX, the architecture of Pythia, for example."""

from __future__ import annotations

from typing import Any

import numpy as np

from xalign_jax.interop.architectures.rope import read_longest, read_rope, same_frequencies, write_longest, write_rope
from xalign_jax.interop.mapping import Architecture, Entry, Fused, Redundant, Transposed
from xalign_jax.interop.settings import MOST_LAYERS, Settings
from xalign_jax.models.gpt_neox import GPTNeoX


def _read(settings: Settings, names: frozenset[str]) -> GPTNeoX:
    """Our configuration from config.json."""
    # transformers 4 and 5 name the rotary settings differently; `read_rope` knows both.
    theta, scaling, fraction = read_rope(settings, "rotary_emb_base", "rotary_pct")
    return GPTNeoX(
        layers=settings.whole("num_hidden_layers", most=MOST_LAYERS),
        width=settings.whole("hidden_size"),
        heads=settings.whole("num_attention_heads"),
        mlp_width=settings.whole("intermediate_size"),
        rotary_fraction=0.25 if fraction is None else fraction,
        rope_theta=float(settings.number("rope_theta", theta)),
        rope_scaling=scaling,
        parallel_residual=settings.flag("use_parallel_residual", True),
        attention_bias=settings.flag("attention_bias", True),
        activation=settings.text("hidden_act", "gelu"),
        norm_eps=settings.number("layer_norm_eps", 1e-5),
        tied=settings.flag("tie_word_embeddings", False),
        max_length=read_longest(settings, scaling, 2048),
    )


def _write(c: GPTNeoX, rows: int, specials: dict[str, int | None]) -> dict[str, Any]:
    """config.json of a configuration."""
    rope = write_rope(c.rope_theta, c.rope_scaling)
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": rows,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "hidden_act": c.activation,
        "max_position_embeddings": write_longest(c),
        "layer_norm_eps": c.norm_eps,
        "use_parallel_residual": c.parallel_residual,
        "attention_bias": c.attention_bias,
        "tie_word_embeddings": c.tied,
        "rotary_pct": c.rotary_fraction,
        "rotary_emb_base": rope["rope_theta"],
        "rope_scaling": rope["rope_scaling"],
    }


def _table(c: GPTNeoX, pad: int | None) -> list[Entry]:
    """Our arrays and their tensors."""
    layer = "gpt_neox.layers.{}."
    entries = [
        Entry("embedding", "gpt_neox.embed_in.weight"),
        Entry("final_norm/scale", "gpt_neox.final_layer_norm.weight"),
        Entry("final_norm/bias", "gpt_neox.final_layer_norm.bias"),
        # The output projection reads (heads, head size), two axes of inputs.
        Entry("layers/attention/output", layer + "attention.dense.weight", Transposed(inputs=2)),
    ]
    # A tied model has no head of its own.
    entries += [] if c.tied else [Entry("head", "embed_out.weight")]
    # Two norms per block, with scale and bias.
    for ours, theirs in (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
        entries += [
            Entry(f"layers/{ours}/scale", f"{layer}{theirs}.weight"),
            Entry(f"layers/{ours}/bias", f"{layer}{theirs}.bias"),
        ]
    # Query, key and value lie in one tensor of theirs.
    for part, name in enumerate(("query", "key", "value")):
        fused = Fused(part, c.heads)
        entries.append(Entry(f"layers/attention/{name}", layer + "attention.query_key_value.weight", fused))
        if c.attention_bias:
            entries.append(Entry(f"layers/attention/{name}_bias", layer + "attention.query_key_value.bias", fused))
    if c.attention_bias:
        entries.append(Entry("layers/attention/output_bias", layer + "attention.dense.bias"))
    # The MLP always has biases.
    for ours, theirs in (("up", "mlp.dense_h_to_4h"), ("down", "mlp.dense_4h_to_h")):
        entries += [
            Entry(f"layers/{ours}/weight", f"{layer}{theirs}.weight", Transposed()),
            Entry(f"layers/{ours}/bias", f"{layer}{theirs}.bias"),
        ]
    return entries


def _is_causal_mask(c: GPTNeoX, tensor: np.ndarray) -> bool:
    """Whether a stored buffer is the causal mask: a lower triangle, whatever its leading axes of length 1."""
    seen = (
        tensor.reshape(tensor.shape[-2:]) if tensor.ndim >= 2 and tensor.size == np.prod(tensor.shape[-2:]) else tensor
    )
    return seen.ndim == 2 and np.array_equal(seen != 0, np.tri(*seen.shape, dtype=bool))


ARCHITECTURE = Architecture(
    config=GPTNeoX,
    model_types=("gpt_neox",),
    read=_read,
    write=_write,
    table=_table,
    prefix="gpt_neox.",
    auto="AutoModelForCausalLM",
    embedding="gpt_neox.embed_in.weight",
    head="embed_out.weight",
    redundant=(
        # Buffers that old versions of transformers saved with the parameters.
        Redundant(r"rotary_emb\.inv_freq$", holds=lambda c, tensor: same_frequencies(c.rotary_dims, c, tensor)),
        Redundant(r"attention\.bias$", holds=_is_causal_mask),
        Redundant(r"attention\.masked_bias$", holds=lambda c, tensor: bool((tensor <= -1e4).all())),
    ),
    # Some checkpoints call the head lm_head.
    renamed=(("lm_head.weight", "embed_out.weight"),),
)
