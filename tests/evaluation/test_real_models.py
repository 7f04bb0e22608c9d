"""The lines of README.md on a real encoder, and a real decoder beside transformers.

`XALIGN_MODELS` names the folder that holds `e5-small/` and `smollm2-135m/`; by default it is ../shared/models.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

import xalign_jax as xa

MODELS = Path(os.environ.get("XALIGN_MODELS") or Path(__file__).parents[3] / "shared" / "models")

README = Path(__file__).parents[2] / "README.md"


def folder(name):
    if not (MODELS / name).is_dir():
        pytest.skip(f"no {MODELS / name}: make it by ../shared/models/make_models.py and bind XALIGN_MODELS")
    return MODELS / name


def test_the_lines_of_the_readme_run_as_they_are_printed(monkeypatch):
    monkeypatch.chdir(folder("e5-small").parent)
    (printed,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(printed, names)
    assert names["links"] == ((0, 0), (1, 1), (2, 2))
    english, german = names["english"], names["german"]
    other = names["model"].encode(["The price of oil fell by two per cent."], level=8)[0]
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    assert english.shape == (384,) and cosine(english, german) > cosine(english, other) + 0.05


@pytest.mark.slow  # a minute, and gigabytes of memory
def test_a_real_decoder_scores_and_continues_as_in_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path = folder("smollm2-135m")
    texts = ["The capital of France is", "Once upon a time, in a far away"]
    model, network = xa.load(path), transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    for text, score, made in zip(texts, model.score(texts), model.generate(texts, 20), strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = network(ids).logits[0, :-1].double()
        expected = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0].numpy()
        np.testing.assert_allclose(score.tokens, expected, atol=1e-4)
        new = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        assert made == tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
