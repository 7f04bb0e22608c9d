"""`xalign_jax.load`: vectors, states, scores and continuations equal those of transformers, in any order and batch."""

from __future__ import annotations

import shutil
import subprocess
import sys

import hf_folders
import jax
import numpy as np
import pytest

import xalign_jax as xa
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want, bucket
from xalign_jax.interfaces import Inputs
from xalign_jax.interop import importing, opening
from xalign_jax.runtime.sharding import make_mesh

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["the cat sleeps", "a", "die Katze schläft auf dem Sofa", "猫が 好き。", "and the dog"]
DECODERS = ["llama", "windows", "neox"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{kind: (folder, network of transformers, loaded model)}, made on demand."""
    found = {}

    def get(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp("models") / kind
            network = hf_folders.write(kind, folder)
            found[kind] = folder, network, xa.load(folder)
        return found[kind]

    return get


def theirs(folder, network, text):
    """(ids, states of all levels, logits) of transformers for one text."""
    ids = transformers.PreTrainedTokenizerFast.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = network(input_ids=ids, output_hidden_states=True)
    return ids[0].numpy(), [level[0].numpy() for level in out.hidden_states], out.logits[0]


@pytest.mark.parametrize("kind", ["llama", "xlm-r"])
def test_states_and_vectors_are_those_of_transformers(models, kind):
    folder, network, model = models(kind)
    found = model.hidden(TEXTS, range(4))
    vectors = {p: model.encode(TEXTS, 2, p) for p in ("mean", "weighted", "first", "last")}
    everything = model.encode(TEXTS, 2, specials=True)
    for i, text in enumerate(TEXTS):
        ids, levels, _ = theirs(folder, network, text)
        tokens = found[i].tokens
        assert (tokens.ids == ids).all()
        for level, expected in enumerate(levels):
            np.testing.assert_allclose(found[i].states[level], expected, atol=1e-5 * max(1, np.abs(expected).max()))
        h, t = levels[2], np.arange(1, len(ids) + 1)[:, None]
        by_pooling = {
            "mean": h[tokens.own].mean(0),
            "weighted": (t * h).sum(0) / t.sum(),
            "first": h[0],
            "last": h[-1],
        }
        for pooling, expected in by_pooling.items():
            np.testing.assert_allclose(vectors[pooling][i], expected, atol=1e-5 * np.abs(h).max(), err_msg=pooling)
        np.testing.assert_allclose(everything[i], h.mean(0), atol=1e-5 * np.abs(h).max())


def test_the_state_of_a_prompts_mask_token_is_that_of_transformers(models):
    _, network, model = models("xlm-r")
    vectors = model.encode(TEXTS, 2, "mask", prefix="it says ", suffix="means [MASK] now")
    tokenizer = model.tokenizer
    for vector, text in zip(vectors, TEXTS, strict=True):
        parts = [tokenizer.encode_documents([part])[0] for part in ("it says", text, "means", " now")]
        ids = np.concatenate([[tokenizer.bos], *parts[:3], [tokenizer.mask], parts[3], [tokenizer.eos]])
        with torch.no_grad():
            states = network(input_ids=torch.tensor(ids[None]), output_hidden_states=True).hidden_states[2][0].numpy()
        np.testing.assert_allclose(vector, states[np.flatnonzero(ids == tokenizer.mask)[0]], atol=1e-5)
    # Without a mask, prompts count in means as words of the text do.
    means = model.encode(["cat", "it says cat"], 2, prefix="it says ")
    longer = model.encode(["it says cat"], 2)
    np.testing.assert_allclose(means[0], longer[0], atol=1e-5)
    assert np.abs(means[1] - longer[0]).max() > 1e-3


def test_spans_and_words_cover_the_text(models):
    (found,) = models("llama")[2].hidden(["Die  Katze schläft, 猫."], 0)
    tokens = found.tokens
    assert not tokens.own[0] and tokens.own[1:].all()  # bos
    # Bytes of one character share its span; spaces belong to the word behind them.
    assert "".join(dict.fromkeys(p for p in tokens.pieces if p in "äö,猫.")) == "ä,猫."
    words = {w: "" for w in range(4)}
    for at in {tuple(span): w for span, w in zip(tokens.spans, tokens.between_spaces(), strict=True) if w >= 0}.items():
        words[at[1]] += tokens.text[slice(*at[0])]
    assert list(words.values()) == ["Die", "Katze", "schläft,", "猫."]
    assert tokens.words[0] == -1 and (np.diff(tokens.words[1:]) >= 0).all() and tokens.words.max() > 3


def test_batches_change_nothing_and_keep_the_order(models, monkeypatch):
    model = models("xlm-r")[2]
    texts = [f"{'word ' * (n % 9)}number {n}" for n in range(70)]
    together = model.encode(texts, 3)
    monkeypatch.setattr("xalign_jax.evaluation.activations.TOKENS_AT_ONCE", 64)
    np.testing.assert_allclose(model.encode(texts[::-1], 3)[::-1], together, atol=1e-5)
    np.testing.assert_allclose(model.encode([texts[5]], 3)[0], together[5], atol=1e-5)
    assert model.encode([], 3).shape == (0, 16)


def test_one_pass_captures_levels_and_neurons_in_parts(models):
    model = models("llama")[2]
    want = Want((0, 2), ("mean", "last"), sites=("mlp",), tokens=True)
    parts = list(model.capture(TEXTS, want))
    assert sorted(np.concatenate([part.numbers for part in parts])) == list(range(len(TEXTS)))
    for part in parts:
        assert set(part.pooled["mean"]) == {0, 2, ("mlp", 2)}
        for number, row in zip(part.numbers, range(len(part.numbers)), strict=True):
            np.testing.assert_allclose(part.pooled["last"][2][row], part.tokens[row][2][-1], atol=1e-6)
            assert part.tokens[row]["mlp", 2].shape == (len(TEXTS[number].encode()) + 2, 20)
    assert [bucket(n) for n in (1, 16, 17, 33, 49, 65, 97, 129, 200)] == [16, 16, 32, 48, 64, 96, 128, 192, 256]


@pytest.mark.parametrize("kind", DECODERS)
def test_scores_are_those_of_transformers(models, kind):
    folder, network, model = models(kind)
    scores, perplexities = model.score(TEXTS), model.perplexity(TEXTS)
    for text, score, perplexity in zip(TEXTS, scores, perplexities, strict=True):
        ids, _, logits = theirs(folder, network, text)
        expected = torch.log_softmax(logits.double(), -1)[:-1].numpy()[np.arange(len(ids) - 1), ids[1:]]
        assert (score.ids == ids[1:]).all()
        np.testing.assert_allclose(score.tokens, expected, atol=1e-4)
        np.testing.assert_allclose([score.total, np.log(perplexity)], [expected.sum(), -expected.mean()], rtol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_continuations_are_those_of_transformers_and_of_no_cache(models, kind):
    folder, network, model = models(kind)
    made = model.generate(TEXTS, 12)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for text, continuation in zip(TEXTS, made, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        out = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        new = out[0, ids.shape[1] :].numpy()
        assert continuation == model.tokenizer.decode(new[: list(new).index(1)] if 1 in new else new)
    # Without a cache: in one pass over the last row, each new token is the most probable one after those before it.
    tokens = out.numpy().astype(np.int32)
    inputs = Inputs(tokens, np.arange(tokens.shape[1], dtype=np.int32)[None], np.ones_like(tokens))
    states = model.model.hidden(inputs, levels=(3,))[3][0]
    chosen = np.argmax(model.model.head_input(states) @ model.model.head_weight().T, axis=1)
    assert (chosen[ids.shape[1] - 1 : -1] == new).all()


def test_draws_depend_on_seed_and_number_alone(models):
    model = models("llama")[2]
    one = model.generate(TEXTS, 12, temperature=1.0, top_p=0.9, seed=1)
    assert one == model.generate(TEXTS, 12, temperature=1.0, top_p=0.9, seed=1)
    assert one != model.generate(TEXTS, 12, temperature=1.0, top_p=0.9, seed=2)
    assert one[:1] == model.generate(TEXTS[:1], 12, temperature=1.0, top_p=0.9, seed=1)
    # Only the most probable token is left: greedy.
    assert model.generate(TEXTS, 12, temperature=1.0, top_p=1e-6) == model.generate(TEXTS, 12)


def test_an_import_and_its_export_give_the_same_vectors(models, tmp_path, monkeypatch):
    folder, _, model = models("xlm-r")
    importing.import_model(folder, tmp_path / "run", make_mesh((1, -1, 1)))
    imported = xa.load(tmp_path / "run")
    assert (imported.encode(TEXTS, 2) == model.encode(TEXTS, 2)).all()
    # A large parameter is written layer by layer into the devices' memory instead.
    monkeypatch.setattr(importing, "STACKED_ON_HOST", 0)
    again = xa.load(folder).model.params
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, model.model.params))


def test_bfloat16_is_close(models):
    folder, _, model = models("xlm-r")
    half = xa.load(folder, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.params)} == {"bfloat16"}
    np.testing.assert_allclose(half.encode(TEXTS), model.encode(TEXTS), atol=0.3)


def test_bad_input_gives_one_line(models, tmp_path, capsys, monkeypatch):
    folder, _, model = models("llama")
    _, _, encoder = models("xlm-r")
    for said, call in {
        "level 4: the model has levels 0 .* to 3": lambda: model.encode(TEXTS, 4),
        "level 1.0: the model has": lambda: model.encode(TEXTS, 1.0),
        "level -1": lambda: model.hidden(TEXTS, -1),
        "pooling 'max': one of mean, weighted": lambda: model.encode(TEXTS, pooling="max"),
        "site 'head': one of attention, mlp": lambda: model.hidden(TEXTS, 1, sites=("head",)),
        r"text 1 \(counted from 0\) has no token": lambda: encoder.encode(["a", ""]),
        "a text has 0 mask tokens.* once in the prefix or the suffix": lambda: encoder.encode(TEXTS, 1, "mask"),
        "a text has 2 mask tokens": lambda: encoder.encode(TEXTS, 1, "mask", prefix="[MASK]", suffix="[MASK]"),
        "encode: prefix, suffix and specials have 1.. tokens": lambda: encoder.encode(TEXTS, prefix="long " * 25),
        r"write \[text\]": lambda: model.encode("a text"),
        r"texts\[1\] is a int": lambda: model.encode(["a", 3]),
        "has 126 tokens, but the model reads 95": lambda: model.score(["a", "long " * 25]),
        "longer together than the model's 96": lambda: model.generate(["long " * 10], 64),
        "a bidirectional model gives no probability": lambda: encoder.perplexity(TEXTS),
        "the model is bidirectional": lambda: encoder.generate(TEXTS, 4),
        "dynamic rotary scaling": lambda: models("dynamic")[2].generate(["the cat"], 16),
        "top_p = 2.0": lambda: model.generate(TEXTS, temperature=1.0, top_p=2.0),
        "no effect on greedy": lambda: model.generate(TEXTS, top_p=0.5),
        "max_new_tokens = 0": lambda: model.generate(TEXTS, 0),
        "no such folder": lambda: xa.load(tmp_path / "none"),
        "neither a model directory": lambda: xa.load(tmp_path),
        "has no steps": lambda: xa.load(folder, step=3),
        "dtype = 'int8'": lambda: xa.load(folder, dtype="int8"),
    }.items():
        with pytest.raises(UserError, match=said) as raised:
            call()
        assert "\n" not in str(raised.value)
    # Vectors of long texts are of their beginning, and one line tells how many.
    capsys.readouterr()
    long = "long " * 25
    assert np.allclose(model.encode([*TEXTS, long])[-1], model.encode([long[:94]])[0], atol=1e-5)
    assert "1 of 6 texts are longer than the 95 tokens" in capsys.readouterr().err
    # A folder without its tokenizer, a model that does not fit, and parameters that are not finite.
    shutil.copytree(folder, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(UserError, match="no tokenizer there"):
        xa.load(tmp_path / "mute")
    with monkeypatch.context() as patch:
        patch.setattr(opening, "free_memory", lambda: ("memory", 1000))
        with pytest.raises(UserError, match=r"of float32 parameters, but 0\.0 GB of memory are free"):
            xa.load(folder)
    broken = jax.tree.map(lambda array: array, encoder.model.params)
    broken["embedding"] = broken["embedding"].at[:, 0].set(np.nan)
    monkeypatch.setattr(encoder, "model", encoder.model.bind(broken))
    with pytest.raises(UserError, match="level 3 is not finite for text"):
        encoder.encode(TEXTS)


def test_the_package_imports_nothing_until_it_loads():
    code = (
        "import sys, xalign_jax as xa; xa.load; xa.train; print(sum(m in sys.modules for m in ('jax', 'numpy', 'gin')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        xa.lod  # noqa: B018
