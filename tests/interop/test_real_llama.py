"""A real pretrained Llama is continued with LoRA and exported; transformers computes equal logits from the merged weights.

`XALIGN_MODELS` names the folder that holds `smollm2-135m/`, a Hugging Face checkpoint of SmolLM2-135M.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from commands import xalign
from safetensors.numpy import load_file

MODEL = Path(os.environ.get("XALIGN_MODELS", ".")) / "smollm2-135m"
ADAPTED = ("q_proj.weight", "v_proj.weight")


def run(folder, *arguments):
    done = xalign(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow  # minutes, and gigabytes of memory
@pytest.mark.skipif(not MODEL.is_dir(), reason=f"no {MODEL}: bind XALIGN_MODELS to a folder that holds smollm2-135m")
def test_a_real_llama_continues_with_lora_and_comes_out_merged(tmp_path):
    for language, line in (
        ("en", "Click the Insert tab and choose Table."),
        ("sl", "Kliknite zavihek in izberite tabelo."),
    ):
        lines = [f"{n}\t{line} {n}\n" for n in range(300)]
        (tmp_path / f"{language}.tsv").write_text("".join(lines), encoding="utf-8")
    run(tmp_path, "import", f"--source={MODEL}", "--model_dir=base")
    small = ["--gin.STEPS=2", "--gin.lora_lm/Stream.batch_size=2", "--gin.lora/WindowFeed.length=32"]
    small += ["--gin.lora/Perplexity.length=32", "--gin.lora/Perplexity.windows=2", "--gin.lora/Perplexity.batch=2"]
    files = ["--gin_file=base/model.gin", "--gin_file=recipes/continue_lora.gin"]
    tasks = '--gin.TASKS=("tsv:en=en.tsv,sl=sl.tsv",)'
    run(tmp_path, "train", *files, "--model_dir=run", tasks, *small)
    said = run(tmp_path, "export", "--model_dir=run", "--output=hf")
    assert "verified" in said.stdout + said.stderr
    before, after = load_file(MODEL / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    for name, weight in after.items():
        # Only the adapted matrices moved, by at most the rank of the update.
        moved = weight - before[name]
        assert (np.abs(moved).max() > 0) == name.endswith(ADAPTED), name
        if name.endswith(ADAPTED):
            assert np.linalg.matrix_rank(moved, tol=1e-3 * np.linalg.norm(moved)) <= 8
