"""BERT (mBERT, LaBSE) and XLM-R: one network under two sets of names."""

from __future__ import annotations

import functools
from typing import Any

from xalign_jax.errors import UserError
from xalign_jax.interop.mapping import Architecture, Entry, Redundant, Shifted, Transposed, counts_up
from xalign_jax.interop.settings import MOST_LAYERS, Settings
from xalign_jax.models.bert import Bert
from xalign_jax.models.encoder import EncoderShape
from xalign_jax.models.xlm_roberta import XLMRoberta

_POOLER = "pooler.dense.weight"


def _shape(settings: Settings) -> dict[str, Any]:
    """The fields that both configurations have."""
    # `only` refuses variants that our network does not compute.
    settings.only("position_embedding_type", "absolute")
    settings.only("is_decoder", False)
    settings.only("add_cross_attention", False)
    settings.only("tie_word_embeddings", True)
    return {
        "layers": settings.whole("num_hidden_layers", most=MOST_LAYERS),
        "width": settings.whole("hidden_size"),
        "heads": settings.whole("num_attention_heads"),
        "mlp_width": settings.whole("intermediate_size"),
        "types": settings.whole("type_vocab_size", 2),
        "norm_eps": settings.number("layer_norm_eps", 1e-12),
        "activation": settings.text("hidden_act", "gelu"),
    }


def _read_bert(settings: Settings, names: frozenset[str]) -> Bert:
    # Only the tensors tell whether a model was saved with its pooler.
    pooler = any(name.endswith(_POOLER) for name in names)
    return Bert(**_shape(settings), max_length=settings.whole("max_position_embeddings", 512), pooler=pooler)


def _read_xlm_roberta(settings: Settings, names: frozenset[str]) -> XLMRoberta:
    # A null pad_token_id is no id at all, but a missing one is 1.
    first = _first_position(settings.whole("pad_token_id", None if "pad_token_id" in settings.values else 1, least=0))
    rows = settings.whole("max_position_embeddings", 512)
    if rows <= first:
        raise UserError(f"{settings.file}: max_position_embeddings = {rows} leaves no position behind pad_token_id")
    return XLMRoberta(**_shape(settings), max_length=rows - first)


def _first_position(pad: int | None) -> int:
    """The row of their position table that position 0 reads, which comes after the row of the padding's id."""
    if pad is None:
        raise UserError("XLM-R counts positions from the id of padding: the vocabulary needs a pad token")
    return pad + 1


def _write(kind: str, c: EncoderShape, rows: int, specials: dict[str, int | None]) -> dict[str, Any]:
    """config.json of either kind."""
    # Their table counts the rows that positions never read.
    first = _first_position(specials["pad"]) if kind == "xlm-roberta" else 0
    return {
        "architectures": [{"bert": "Bert", "xlm-roberta": "XLMRoberta"}[kind] + "ForMaskedLM"],
        "model_type": kind,
        "vocab_size": rows,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "hidden_act": c.activation,
        "max_position_embeddings": c.max_length + first,
        "type_vocab_size": c.types,
        "layer_norm_eps": c.norm_eps,
        "tie_word_embeddings": True,
    }


def _norm(ours: str, theirs: str, head: bool = False) -> list[Entry]:
    """The two tensors of a layer norm."""
    return [Entry(f"{ours}/scale", f"{theirs}.weight", head=head), Entry(f"{ours}/bias", f"{theirs}.bias", head=head)]


def _dense(ours: str, theirs: str, head: bool = False) -> list[Entry]:
    """The two tensors of a dense layer."""
    return [
        Entry(f"{ours}/weight", f"{theirs}.weight", Transposed(), head),
        Entry(f"{ours}/bias", f"{theirs}.bias", head=head),
    ]


def _body(prefix: str, shift: int) -> list[Entry]:
    """Everything but the head: embeddings and layers, whose names differ in the prefix alone."""
    embeddings, layer = f"{prefix}embeddings.", prefix + "encoder.layer.{}."
    entries = [
        # Three tables are added up and then normalised.
        Entry("embedding", embeddings + "word_embeddings.weight"),
        Entry("positions", embeddings + "position_embeddings.weight", Shifted(shift)),
        Entry("types", embeddings + "token_type_embeddings.weight"),
        *_norm("embedding_norm", embeddings + "LayerNorm"),
        # Each block has two norms after its two residual sums, and a dense layer up and down.
        *_norm("layers/attention_norm", layer + "attention.output.LayerNorm"),
        *_norm("layers/mlp_norm", layer + "output.LayerNorm"),
        *_dense("layers/up", layer + "intermediate.dense"),
        *_dense("layers/down", layer + "output.dense"),
        # The output projection reads (heads, head size), two axes of inputs.
        Entry("layers/attention/output", layer + "attention.output.dense.weight", Transposed(inputs=2)),
        Entry("layers/attention/output_bias", layer + "attention.output.dense.bias"),
    ]
    for name in ("query", "key", "value"):
        # torch.nn.Linear keeps all heads in one axis of outputs; ours has heads and head size apart.
        entries.append(Entry(f"layers/attention/{name}", f"{layer}attention.self.{name}.weight", Transposed()))
        entries.append(Entry(f"layers/attention/{name}_bias", f"{layer}attention.self.{name}.bias"))
    return entries


def _bert_table(c: Bert, pad: int | None) -> list[Entry]:
    # The head's matrix over the vocabulary is the word embedding; only the bias is a tensor of its own.
    return [
        *_body("bert.", 0),
        *(_dense("pooler", "bert.pooler.dense") if c.pooler else []),
        # The masked-LM head, which a checkpoint may lack: a dense layer, a norm, and a bias over the vocabulary.
        *_dense("head", "cls.predictions.transform.dense", head=True),
        *_norm("head_norm", "cls.predictions.transform.LayerNorm", head=True),
        Entry("head_bias", "cls.predictions.bias", head=True),
    ]


def _xlm_roberta_table(c: XLMRoberta, pad: int | None) -> list[Entry]:
    return [
        *_body("roberta.", _first_position(pad) - c.first_position),
        # The same head under XLM-R's names.
        *_dense("head", "lm_head.dense", head=True),
        *_norm("head_norm", "lm_head.layer_norm", head=True),
        Entry("head_bias", "lm_head.bias", head=True),
    ]


BERT = Architecture(
    config=Bert,
    model_types=("bert",),
    read=_read_bert,
    write=functools.partial(_write, "bert"),
    table=_bert_table,
    prefix="bert.",
    embedding="bert.embeddings.word_embeddings.weight",
    auto="AutoModelForMaskedLM",
    redundant=(
        # Buffers, and copies that old checkpoints hold. The sentence-order head is no part of our model.
        Redundant(r"position_ids$", holds=counts_up),
        Redundant(r"^cls\.predictions\.decoder\.weight$", copy_of="bert.embeddings.word_embeddings.weight"),
        Redundant(r"^cls\.predictions\.decoder\.bias$", copy_of="cls.predictions.bias"),
        Redundant(r"^cls\.seq_relationship\."),
    ),
    # Checkpoints converted from TensorFlow call the parameters of norms gamma and beta.
    renamed=((".gamma", ".weight"), (".beta", ".bias")),
)
XLM_ROBERTA = Architecture(
    config=XLMRoberta,
    model_types=("xlm-roberta",),
    read=_read_xlm_roberta,
    write=functools.partial(_write, "xlm-roberta"),
    table=_xlm_roberta_table,
    prefix="roberta.",
    embedding="roberta.embeddings.word_embeddings.weight",
    auto="AutoModelForMaskedLM",
    redundant=(
        Redundant(r"position_ids$", holds=counts_up),
        Redundant(r"^lm_head\.decoder\.weight$", copy_of="roberta.embeddings.word_embeddings.weight"),
        Redundant(r"^lm_head\.decoder\.bias$", copy_of="lm_head.bias"),
        # XLM-R is pretrained without its pooler.
        Redundant(r"pooler\.dense\."),
    ),
)
