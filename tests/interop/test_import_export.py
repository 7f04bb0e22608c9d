"""Random models of transformers are imported, compute the same, and are exported without change."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import RunError, UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.interop import exporting
from xalign_jax.interop.architectures import table
from xalign_jax.interop.exporting import export_model
from xalign_jax.interop.importing import flat, import_model
from xalign_jax.interop.settings import Settings
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers
from xalign_jax.interop.verify import Missing, verify
from xalign_jax.models.model import build
from xalign_jax.runtime.logs import write_results
from xalign_jax.runtime.restore import restore_model
from xalign_jax.runtime.sharding import make_mesh

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V, LENGTH, ORIGINAL = 43, 24, 16
LLAMA = dict(
    vocab_size=V,
    hidden_size=20,
    num_hidden_layers=3,
    num_attention_heads=5,
    num_key_value_heads=1,
    intermediate_size=12,
    head_dim=8,
    max_position_embeddings=LENGTH,
    pad_token_id=0,
    bos_token_id=3,
    eos_token_id=1,
)
NEOX = dict(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=LENGTH,
    pad_token_id=0,
)
ENCODER = dict(
    vocab_size=V,
    hidden_size=18,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=LENGTH + 2,
)


def rope(kind, **options):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **options}}


ROPES = {
    "linear": rope("linear", factor=3.0),
    "dynamic": rope("dynamic", factor=3.0) | {"max_position_embeddings": ORIGINAL},
    "llama3": rope(
        "llama3", factor=4.0, low_freq_factor=0.1, high_freq_factor=0.9, original_max_position_embeddings=ORIGINAL
    ),
    "yarn": rope("yarn", factor=4.0, beta_fast=2.0, beta_slow=0.05, original_max_position_embeddings=ORIGINAL),
}
MODELS = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama tied, biases": (
        "LlamaForCausalLM",
        LLAMA | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, num_key_value_heads=5),
    ),
    **{f"llama {kind}": ("LlamaForCausalLM", LLAMA | options) for kind, options in ROPES.items()},
    "mistral, window": ("MistralForCausalLM", LLAMA | dict(sliding_window=4)),
    "qwen2": ("Qwen2ForCausalLM", LLAMA | dict(tie_word_embeddings=True)),
    "qwen2, some windows": (
        "Qwen2ForCausalLM",
        LLAMA | dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | dict(attention_bias=True)),
    "neox": ("GPTNeoXForCausalLM", NEOX | dict(rotary_pct=0.5)),
    "neox sequential, yarn": (
        "GPTNeoXForCausalLM",
        NEOX
        | dict(use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new", tie_word_embeddings=True)
        | rope("yarn", factor=2.0, original_max_position_embeddings=8, partial_rotary_factor=0.25),
    ),
    "bert": ("BertForMaskedLM", ENCODER | dict(hidden_act="relu")),
    "xlm-r": ("XLMRobertaForMaskedLM", ENCODER | dict(type_vocab_size=1, layer_norm_eps=1e-5)),
    "xlm-r, pad 0": ("XLMRobertaForMaskedLM", ENCODER | dict(type_vocab_size=2, pad_token_id=0)),
}


def save(name: str, folder, **changes):
    """A saved random model of transformers, in which no parameter has its initial value."""
    kind, settings = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def ours(model_dir, mesh=(1, -1, 1)):
    about = json.loads((model_dir / "environment.json").read_text())["recipe"]["model"]
    model = build(table.config_from_json(about), V)
    return model, restore_model(model_dir, None, model, make_mesh(mesh))[1]


def tokens():
    return [np.random.default_rng(n).integers(4, V, n).astype(np.int32) for n in (3, 11, 20)]


def assert_same_outputs(theirs, model, params):
    last = model.num_layers
    for ids in tokens():
        rows = np.zeros((3, 1, 20), np.int32)
        rows[0, 0, : len(ids)], rows[1, 0, : len(ids)], rows[2, 0, : len(ids)] = ids, np.arange(len(ids)), 1
        h = model.bind(params).hidden(Inputs(*rows), levels=tuple(range(last + 1)))
        logits = model.bind(params).head_input(h[last]) @ model.bind(params).head_weight().T
        bias = model.bind(params).head_bias()
        with torch.no_grad():
            found = theirs(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
        for level, expected in enumerate(found.hidden_states):
            np.testing.assert_allclose(
                h[level][0, : len(ids)], expected[0].numpy(), atol=1e-4, err_msg=f"level {level}"
            )
        np.testing.assert_allclose(
            (logits if bias is None else logits + bias)[0, : len(ids)], found.logits[0].numpy(), atol=1e-4
        )


@pytest.mark.parametrize("name", MODELS)
def test_import_computes_the_same_and_export_gives_the_same_model_back(name, tmp_path):
    theirs = save(name, tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    model, params = ours(tmp_path / "in")
    assert_same_outputs(theirs, model, params)

    exported = export_model(tmp_path / "in", tmp_path / "out", make_mesh((1, -1, 1)))
    found = verify(tmp_path / "out", exported, tokens(), "float32")
    assert found.startswith("verified: no tokenizer; of 3 validation texts and ") and "logits" in found
    import_model(tmp_path / "out", tmp_path / "again", make_mesh((2, 2, 2)))
    again, other = ours(tmp_path / "again")
    assert again.config == model.config
    for path, array in flat(params).items():
        expected = np.asarray(array)
        if path == "positions" and name == "xlm-r, pad 0":
            expected = np.concatenate([0 * expected[:1], expected[1:]])  # nothing reads its first row
        np.testing.assert_array_equal(flat(other)[path], expected, err_msg=path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_round_once(dtype, tmp_path):
    save("llama", tmp_path / "hf")
    mesh = make_mesh((1, -1, 1))
    import_model(tmp_path / "hf", tmp_path / "in", mesh)
    exported = export_model(tmp_path / "in", tmp_path / "out", mesh, dtype=dtype)
    assert "verified" in verify(tmp_path / "out", exported, tokens(), dtype)
    import_model(tmp_path / "out", tmp_path / "again", mesh)
    export_model(tmp_path / "again", tmp_path / "twice", mesh, dtype=dtype)
    for path, array in flat(ours(tmp_path / "again")[1]).items():
        rounded = torch.tensor(np.asarray(flat(ours(tmp_path / "in")[1])[path])).to(getattr(torch, dtype)).float()
        np.testing.assert_array_equal(array, rounded.numpy())
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "twice/model.safetensors").read_bytes()


def test_shards_are_read_and_written(tmp_path, monkeypatch):
    theirs = save("qwen2", tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="4KB")
    single = (tmp_path / "hf" / SINGLE).read_bytes()
    (tmp_path / "hf" / SINGLE).unlink()
    mesh = make_mesh((2, 2, 2))
    import_model(tmp_path / "hf", tmp_path / "in", mesh)
    assert_same_outputs(theirs, *ours(tmp_path / "in"))
    write = exporting.write
    monkeypatch.setattr(exporting, "write", lambda *args: write(*args, shard_bytes=4096))
    exported = export_model(tmp_path / "in", tmp_path / "out", mesh)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    assert "verified" in verify(tmp_path / "out", exported, tokens(), "float32")
    for shard in (tmp_path / "hf").glob("model-*.safetensors"):
        _rewrite(shard, lambda arrays: [array.fill(0) for array in arrays.values()])
    (tmp_path / "hf" / SINGLE).write_bytes(single)  # a later save in one file; transformers reads that one too
    import_model(tmp_path / "hf", tmp_path / "later", mesh)
    assert_same_outputs(theirs, *ours(tmp_path / "later"))


def test_of_several_ends_the_first_is_kept(good, tmp_path):
    shutil.copytree(good, tmp_path / "hf")
    settings = json.loads((good / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(settings | {"eos_token_id": [7, 9]}))
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert Tokenizer.load(tmp_path / "in" / "vocabulary").eos == 7


def test_settings_that_say_nothing_of_the_computation_and_defaults_of_theirs(good, tmp_path):
    """Keys of SmolLM2, of mirrors of Llama, and of models with generation settings in config.json."""
    shutil.copytree(good, tmp_path / "hf")
    _edit(tmp_path / "hf" / "config.json", max_position_embeddings="DELETE", is_llama_config=True, unsloth_fixed=True)
    _edit(tmp_path / "hf" / "config.json", max_length=20, temperature=0.6, rope_interleaved=False, num_beams=1)
    _edit(tmp_path / "hf" / "config.json", _model_name_or_path="x.gguf", _anything={"at": "all"}, pruned_heads={})
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert ours(tmp_path / "in")[0].config.max_length == transformers.LlamaConfig().max_position_embeddings
    _edit(tmp_path / "hf" / "config.json", rope_interleaved=True)
    with pytest.raises(UserError, match="rope_interleaved = True is not implemented"):
        import_model(tmp_path / "hf", tmp_path / "no", make_mesh((1, -1, 1)))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox"])
def test_a_length_that_is_not_given_is_what_transformers_takes(kind, tmp_path):
    architecture = table.of_model_type(kind, tmp_path)
    default = transformers.AutoConfig.for_model(kind)
    values = {k: v for k, v in default.to_dict().items() if k != "max_position_embeddings"}
    found = architecture.read(Settings(tmp_path / "config.json", values | {"hidden_act": "silu"}), frozenset())
    assert found.max_length == default.max_position_embeddings


def _edit(file, **changes):
    values = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (values | changes).items() if v != "DELETE"}))


def _rewrite(file, change):
    from safetensors.numpy import load_file, save_file

    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file, metadata={"format": "pt"})


BAD = {
    "truncated": (lambda d: (d / SINGLE).write_bytes((d / SINGLE).read_bytes()[:-50]), r"model.safetensors: cut short"),
    "no weights": (lambda d: (d / SINGLE).unlink(), r"no model.safetensors and no"),
    "pickles": (lambda d: (d / SINGLE).rename(d / "pytorch_model.bin"), r"convert pytorch_model.bin: python -c"),
    "pointer": (lambda d: (d / SINGLE).write_bytes(POINTER), r"model.safetensors: a pointer of Git LFS"),
    "pointer config": (lambda d: (d / "config.json").write_bytes(POINTER), r"config.json: a pointer of Git LFS"),
    "pointer tokenizer": (
        lambda d: (d / "tokenizer.json").write_bytes(POINTER),
        r"tokenizer.json: a pointer of Git LFS",
    ),
    "cut tokenizer": (
        lambda d: (d / "tokenizer.json").write_text('{"version": "1.0", '),
        r"tokenizer.json: no huggingface vocabulary",
    ),
    "text for a number": (
        lambda d: _edit(d / "config.json", num_hidden_layers="2"),
        r"config.json: num_hidden_layers = '2', but a whole number",
    ),
    "text for a factor": (
        lambda d: _edit(d / "config.json", rope_parameters={"rope_type": "linear", "factor": "2.0"}),
        r"config.json: factor = '2.0' of rotary positions",
    ),
    "a name of the Hub": (lambda d: shutil.rmtree(d), r"hf download .*hf --local-dir DIR"),
    "twice": (
        lambda d: (
            _rewrite(d / SINGLE, lambda a: None),
            shutil.copy(d / SINGLE, d / "model-1.safetensors"),
            (d / SINGLE).rename(d / "model-2.safetensors"),
            (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}})
            ),
        ),
        r"is there twice",
    ),
    "frequencies of another base": (
        lambda d: _rewrite(d / SINGLE, lambda a: a.update({"model.rotary_emb.inv_freq": np.ones(4, np.float32)})),
        r"model.rotary_emb.inv_freq holds other numbers than follow from config.json",
    ),
    "missing shard": (
        lambda d: (
            (d / SINGLE).unlink(),
            (d / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-2.safetensors"}})),
        ),
        r"model-2.safetensors: missing",
    ),
    "missing tensor": (
        lambda d: _rewrite(d / SINGLE, lambda a: a.pop("model.layers.1.mlp.up_proj.weight")),
        r"1 tensors are missing, such as model.layers.1.mlp.up_proj.weight",
    ),
    "extra tensor": (
        lambda d: _rewrite(d / SINGLE, lambda a: a.update(extra=np.zeros(2, np.float32))),
        r"1 tensors belong to no Llama, such as extra",
    ),
    "wrong shape": (
        lambda d: _rewrite(d / SINGLE, lambda a: a.update({"model.norm.weight": np.zeros(21, np.float32)})),
        r"model.norm.weight has shape \(21,\), config.json wants \(20,\)",
    ),
    "integers": (
        lambda d: _rewrite(d / SINGLE, lambda a: a.update({"model.norm.weight": np.zeros(20, np.int8)})),
        r"model.norm.weight is I8; only F32, F16, BF16",
    ),
    "unknown architecture": (lambda d: _edit(d / "config.json", model_type="mamba"), r"model_type = 'mamba'"),
    "unknown option": (lambda d: _edit(d / "config.json", logit_softcapping=30.0), r"logit_softcapping = 30.0"),
    "unknown activation": (lambda d: _edit(d / "config.json", hidden_act="xielu"), r"hidden_act = 'xielu'"),
    "unknown rope": (
        lambda d: _edit(d / "config.json", rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        r"rope_type = 'longrope'",
    ),
    "no width": (lambda d: _edit(d / "config.json", hidden_size="DELETE"), r"config.json: no 'hidden_size'"),
    "no config": (lambda d: (d / "config.json").unlink(), r"config.json: cannot be read"),
}
SINGLE = "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "hf"
    save("llama", folder)
    return folder


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_imported_is_named_and_nothing_is_written(what, good, tmp_path):
    shutil.copytree(good, tmp_path / "hf")
    change, said = BAD[what]
    change(tmp_path / "hf")
    with pytest.raises(UserError, match=said):
        import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert not (tmp_path / "in").exists() and not (tmp_path / ".in.unfinished").exists()


def test_nothing_is_overwritten_without_being_told(good, tmp_path):
    mesh = make_mesh((1, -1, 1))
    import_model(good, tmp_path / "in", mesh)
    with pytest.raises(UserError, match="is not empty; name another folder or add --overwrite"):
        import_model(good, tmp_path / "in", mesh)
    import_model(good, tmp_path / "in", mesh, overwrite=True)
    export_model(tmp_path / "in", tmp_path / "out", mesh)
    with pytest.raises(UserError, match="is not empty; name another folder or add --overwrite"):
        export_model(tmp_path / "in", tmp_path / "out", mesh)
    export_model(tmp_path / "in", tmp_path / "out", mesh, dtype="bfloat16", overwrite=True)
    with pytest.raises(UserError, match="--dtype=int4"):
        export_model(tmp_path / "in", tmp_path / "other", mesh, dtype="int4")
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    export_model(tmp_path / "in", tmp_path / "out", mesh, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"
    import_model(tmp_path / "out", tmp_path / "in", mesh, overwrite=True)
    import_model(good, tmp_path / "again", mesh)
    for path, array in flat(ours(tmp_path / "again")[1]).items():
        np.testing.assert_array_equal(flat(ours(tmp_path / "in")[1])[path], array)


def test_the_card_tells_what_was_measured_on_these_weights_alone(good, tmp_path):
    mesh = make_mesh((1, -1, 1))
    import_model(good, tmp_path / "in", mesh)  # its checkpoint is of step 0
    about = {
        "stage": "import",
        "probe": "perplexity",
        "metric": "perplexity",
        "language": "en",
        "level": None,
        "split": None,
    }
    rows = [about | {"control": None, "n": 5, "step": step, "value": value} for step, value in ((0, 61.25), (9, 17.5))]
    write_results(tmp_path / "in", rows)
    exported = export_model(tmp_path / "in", tmp_path / "out", mesh)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Results at step 0" in card and "61.25" in card and "17.5" not in card
    found = verify(tmp_path / "out", exported, Missing("en.tsv: no such file"), "float32")
    assert found.startswith("verified: no tokenizer; of 5 rows of ids the largest")
    assert found.endswith("; not read: validation texts (en.tsv: no such file)")


def test_a_difference_is_found_and_named(good, tmp_path):
    mesh = make_mesh((1, -1, 1))
    import_model(good, tmp_path / "in", mesh)
    exported = export_model(tmp_path / "in", tmp_path / "out", mesh)
    _rewrite(tmp_path / "out" / SINGLE, lambda a: a["model.layers.1.mlp.up_proj.weight"].__imul__(1.5))
    with pytest.raises(RunError, match="differs first at level 2"):
        verify(tmp_path / "out", exported, tokens(), "float32")
    assert (tmp_path / "out" / SINGLE).exists()


def test_a_tokenizer_that_reads_otherwise_is_found_and_named(good, tmp_path):
    mesh = make_mesh((1, -1, 1))
    import_model(good, tmp_path / "in", mesh)
    exported = export_model(tmp_path / "in", tmp_path / "out", mesh)
    words = Tokenizer(Bytes(), Vocabulary("bytes", clones=1))
    write_tokenizers(words, tmp_path / "out", causal=True, max_length=32, languages=["en", "en_clone"])
    exported = exported._replace(tokenizer=words)
    texts = [words.encode(["a b"])[0]]
    with pytest.raises(IndexError):  # ids of bytes in a model of fewer: the tokenizers were equal
        verify(tmp_path / "out", exported, [t % V for t in texts], "float32")
    _edit(tmp_path / "out" / "tokenizer_en_clone" / "tokenizer.json", normalizer=None)
    with pytest.raises(RunError, match=r"tokenizer_en_clone reads .* as .*, the run as .*; the files were kept"):
        verify(tmp_path / "out", exported, texts, "float32")


def test_a_decoder_that_transformers_lacks_is_refused():
    odd = table.llama.Llama(layers=2, width=8, heads=2, kv_heads=1, mlp_width=8, output_bias=True)
    with pytest.raises(UserError, match="transformers has no model with"):
        table.of_config(odd).write(odd, V, {})
