"""Llama, Mistral, Qwen2 and Qwen3 as one model: they differ in biases, norms of queries and keys, and windows."""

from __future__ import annotations

from typing import Any

from xalign_jax.errors import UserError
from xalign_jax.interop.architectures.rope import read_longest, read_rope, same_frequencies, write_longest, write_rope
from xalign_jax.interop.mapping import Architecture, Entry, Redundant, Transposed
from xalign_jax.interop.settings import MOST_LAYERS, Settings, shown
from xalign_jax.models.llama import Llama

# Model type -> max_position_embeddings if config.json has none.
_LONGEST = {"mistral": 4096 * 32, "qwen2": 32768, "qwen3": 32768}


def _read(settings: Settings, names: frozenset[str]) -> Llama:
    """Our configuration from config.json of any of the four."""
    kind, layers = settings.get("model_type"), settings.whole("num_hidden_layers", most=MOST_LAYERS)
    heads = settings.whole("num_attention_heads")
    # Variants that our network does not compute.
    settings.only("hidden_act", "silu")
    settings.only("pretraining_tp", 1)
    theta, scaling, fraction = read_rope(settings, "rope_theta", "partial_rotary_factor")
    if fraction not in (None, 1.0):
        raise UserError(f"{settings.file}: partial_rotary_factor = {fraction!r} is not implemented for {kind}")
    # Each type has its own biases: Llama and Qwen3 by a setting, Qwen2 on queries, keys and values, Mistral none.
    biases = settings.flag("attention_bias", False) if kind in ("llama", "qwen3") else False
    window, full = _windows(settings, kind, layers)
    return Llama(
        layers=layers,
        width=settings.whole("hidden_size"),
        heads=heads,
        kv_heads=settings.whole("num_key_value_heads", heads),
        mlp_width=settings.whole("intermediate_size"),
        head_dim=settings.whole("head_dim", 128 if kind == "qwen3" else None),
        rope_theta=theta,
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        tied=settings.flag("tie_word_embeddings", False),
        max_length=read_longest(settings, scaling, _LONGEST.get(kind, 2048)),
        qkv_bias=biases or kind == "qwen2",
        output_bias=biases,
        mlp_bias=settings.flag("mlp_bias", False) if kind == "llama" else False,
        qk_norm=kind == "qwen3",
        rope_scaling=scaling,
        window=window,
        full_attention_layers=full,
    )


def _windows(settings: Settings, kind: str, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """(window or None, layers that do not use it)."""
    # A missing window is Mistral's default, and a null is no window.
    assumed = 4096 if kind == "mistral" and "sliding_window" not in settings.values else None
    window = settings.whole("sliding_window", assumed) if kind != "llama" else None
    # Which layers use the window: a list of names, or for Qwen all layers from `max_window_layers` on, or all layers.
    types = settings.get("layer_types", None)
    if kind in ("qwen2", "qwen3") and not settings.flag("use_sliding_window", False):
        window = None
    if types is None and kind in ("qwen2", "qwen3"):
        first = settings.whole("max_window_layers", 28, least=0)
        types = ["sliding_attention" if window and i >= first else "full_attention" for i in range(layers)]
    types = types or ["sliding_attention" if window else "full_attention"] * layers
    if not isinstance(types, list) or len(types) != layers:
        raise UserError(f"{settings.file}: layer_types = {shown(types)}, but a list of {layers} names is expected")
    for name in types:
        if name not in ("sliding_attention", "full_attention"):
            raise UserError(f"{settings.file}: layer_types names {shown(name)}, which is not implemented")
    # No window at all is the same as a window that every layer ignores.
    full = tuple(i for i, name in enumerate(types) if name == "full_attention")
    if window is None or len(full) == layers:
        return None, ()
    return window, full


def _write(c: Llama, rows: int, specials: dict[str, int | None]) -> dict[str, Any]:
    """config.json of a configuration, as the model type that can hold it."""
    # Settings that all four types share, then each type's own.
    kind = _model_type(c)
    values = {
        "architectures": [
            {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"
        ],
        "model_type": kind,
        "vocab_size": rows,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": write_longest(c),
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        **write_rope(c.rope_theta, c.rope_scaling),
    }
    # Each type writes the keys that its reader above asks for.
    if kind in ("llama", "qwen3"):
        values["attention_bias"] = c.qkv_bias
    if kind == "llama":
        values["mlp_bias"] = c.mlp_bias
    if kind == "mistral":
        values["sliding_window"] = c.window
    if kind in ("qwen2", "qwen3"):
        types = [
            "full_attention" if c.window is None or i in c.full_attention_layers else "sliding_attention"
            for i in range(c.layers)
        ]
        values |= {"use_sliding_window": c.window is not None, "sliding_window": c.window, "layer_types": types}
    return values


def _model_type(c: Llama) -> str:
    """The model type of transformers that can hold the configuration. Raises UserError if none can."""
    # Most specific first: norms of queries and keys mean Qwen3, and biases on them without an output bias mean Qwen2.
    if c.qk_norm and c.qkv_bias == c.output_bias and not c.mlp_bias:
        return "qwen3"
    if not c.qk_norm and c.qkv_bias and not c.output_bias and not c.mlp_bias:
        return "qwen2"
    if not c.qk_norm and c.qkv_bias == c.output_bias and c.window is None:
        return "llama"
    if not (c.qk_norm or c.qkv_bias or c.output_bias or c.mlp_bias or c.full_attention_layers):
        return "mistral"
    raise UserError(
        f"transformers has no model with Llama.qkv_bias = {c.qkv_bias}, .output_bias = {c.output_bias}, "
        f".mlp_bias = {c.mlp_bias}, .qk_norm = {c.qk_norm}, .window = {c.window}, "
        f".full_attention_layers = {c.full_attention_layers}"
    )


def _table(c: Llama, pad: int | None) -> list[Entry]:
    """Our arrays and their tensors."""
    layer = "model.layers.{}."
    entries = [
        Entry("embedding", "model.embed_tokens.weight"),
        Entry("final_norm/scale", "model.norm.weight"),
        Entry("layers/attention_norm/scale", layer + "input_layernorm.weight"),
        Entry("layers/mlp_norm/scale", layer + "post_attention_layernorm.weight"),
        # The output projection reads (heads, head size), two axes of inputs.
        Entry("layers/attention/output", layer + "self_attn.o_proj.weight", Transposed(inputs=2)),
    ]
    # A tied model has no head of its own.
    entries += [] if c.tied else [Entry("head", "lm_head.weight")]
    # Linear weights: (heads * head size, width) in theirs, (width, heads, head size) in ours.
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        entries.append(Entry(f"layers/attention/{ours}", f"{layer}self_attn.{theirs}_proj.weight", Transposed()))
        if c.qkv_bias:
            entries.append(Entry(f"layers/attention/{ours}_bias", f"{layer}self_attn.{theirs}_proj.bias"))
    if c.output_bias:
        entries.append(Entry("layers/attention/output_bias", layer + "self_attn.o_proj.bias"))
    if c.qk_norm:
        entries += [
            Entry(f"layers/attention/{ours}_norm/scale", f"{layer}self_attn.{theirs}_norm.weight")
            for ours, theirs in (("query", "q"), ("key", "k"))
        ]
    # A gated MLP of three matrices.
    for name in ("gate", "up", "down"):
        entries.append(Entry(f"layers/mlp/{name}", f"{layer}mlp.{name}_proj.weight", Transposed()))
        if c.mlp_bias:
            entries.append(Entry(f"layers/mlp/{name}_bias", f"{layer}mlp.{name}_proj.bias"))
    return entries


ARCHITECTURE = Architecture(
    config=Llama,
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    read=_read,
    write=_write,
    table=_table,
    prefix="model.",
    auto="AutoModelForCausalLM",
    embedding="model.embed_tokens.weight",
    head="lm_head.weight",
    redundant=(Redundant(r"rotary_emb\.inv_freq$", holds=lambda c, tensor: same_frequencies(c.head_size, c, tensor)),),
)
