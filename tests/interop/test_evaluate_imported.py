"""`xalign evaluate` on an imported model: probes of files run, and probes that need a run are refused."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from commands import xalign

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.interop.importing import import_model
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers
from xalign_jax.runtime.sharding import make_mesh

SETTINGS = dict(
    vocab_size=384,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=66,
    pad_token_id=0,
    bos_token_id=3,
    eos_token_id=1,
)
FILES = "--gin.SENTENCES={'en': 'en.txt', 'de': 'de.txt'}"


def probes(*names: str) -> str:
    return f"--gin.PROBES=[{', '.join(f'@{name}()' for name in names)}]"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported encoder and two files of 20 parallel lines."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("imported")
    transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**SETTINGS)).save_pretrained(folder / "hf")
    words = Tokenizer(Bytes(), Vocabulary("bytes"))
    write_tokenizers(words, folder / "hf", causal=False, max_length=64, languages=["en"])
    import_model(folder / "hf", folder / "first", make_mesh((1, -1, 1)))
    shutil.move(folder / "first", folder / "run")  # a model directory may be handed on
    chance = random.Random(0)
    for language in ("en", "de"):
        lines = ["".join(chance.choices("abcdefgh ", k=12)).strip() + "x" for _ in range(20)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_probes_that_read_files_measure_it_and_a_report_is_written(place):
    done = xalign(
        "evaluate",
        "--model_dir=run",
        "--gin_file=probes/alignment.gin",
        FILES,
        probes("HiddenCosine", "SentenceRetrieval"),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((place / "run" / "results.json").read_text())
    assert {(row["stage"], row["step"]) for row in rows} == {("import", 0)}
    assert {row["probe"] for row in rows} == {"cosine", "sentence_retrieval"}
    assert {row["n"] for row in rows} == {20}
    assert "## Sentence retrieval, en->de" in (place / "run" / "report.md").read_text()
    assert xalign("compare", "run", "--output=report", cwd=place).returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([probes("HiddenCosine")], "probes that read files"),
        ([probes("WordRetrieval")], "WordRetrieval: no dictionary"),
        ([FILES, probes("SentenceRetrieval"), "--gin.Recipe.seed=3"], "Recipe.seed is 0 there, 3 here"),
    ],
)
def test_what_it_lacks_is_named_in_one_line(place, options, said):
    done = xalign("evaluate", "--model_dir=run", "--gin_file=probes/alignment.gin", *options, cwd=place)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xalign") and said in last and "Traceback" not in done.stderr
