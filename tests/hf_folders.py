"""Hugging Face folders of tiny random models with a byte vocabulary, for tests of loading."""

from __future__ import annotations

import pytest

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.interop.importing import import_model
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers
from xalign_jax.runtime.sharding import make_mesh

COMMON = {
    "vocab_size": 384,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 1,
}
KINDS = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 1, "max_position_embeddings": 96, "head_dim": 8}),
    "windows": (
        "Qwen2ForCausalLM",
        {
            "num_key_value_heads": 1,
            "sliding_window": 5,
            "use_sliding_window": True,
            "max_window_layers": 1,
            "max_position_embeddings": 96,
        },
    ),
    "neox": ("GPTNeoXForCausalLM", {"max_position_embeddings": 96, "rotary_pct": 0.5}),
    "dynamic": (
        "LlamaForCausalLM",
        {
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0},
        },
    ),
    "xlm-r": ("XLMRobertaForMaskedLM", {"max_position_embeddings": 66}),
}


def write(kind: str, folder, **changes):
    """A folder of one of `KINDS`, with other settings if need be; returns transformers' model."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    name, settings = KINDS[kind]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    network = cls(cls.config_class(**(COMMON | settings | changes))).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    longest = settings["max_position_embeddings"] - 2 * (kind == "xlm-r")
    words = Tokenizer(Bytes(), Vocabulary("bytes"))
    write_tokenizers(words, folder, causal=kind != "xlm-r", max_length=longest, languages=["en"])
    return network


def write_encoder_of_two_blocks(folder, run):
    """An XLM-R of 2 blocks and width 16 as a Hugging Face folder, and the same as a model directory `run`."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = COMMON | {"num_hidden_layers": 2, "max_position_embeddings": 66}
    transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**settings)).save_pretrained(folder)
    write_tokenizers(Tokenizer(Bytes(), Vocabulary("bytes")), folder, causal=False, max_length=64, languages=["en"])
    import_model(folder, run, make_mesh((1, -1, 1)))
