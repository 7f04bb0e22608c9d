"""What a run starts from is checked before anything is prepared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from training import toy

from xalign_jax.data.lexicon.vectors import write_vectors
from xalign_jax.errors import UserError
from xalign_jax.recipe import Runtime
from xalign_jax.training import train


def test_what_a_run_starts_from_is_looked_for_before_text_is_prepared(tmp_path, monkeypatch):
    (tmp_path / "a" / "vocabulary").mkdir(parents=True)
    files = [str(tmp_path / name) for name in ("en.vec", "de.vec", "wide.vec", "none.vec")]
    for file, width in zip(files, (2, 2, 3), strict=False):
        write_vectors(Path(file), ["a", "b"], np.ones((2, width)))

    def prepare(*_):
        raise UserError("text is prepared now")

    monkeypatch.setattr(train, "prepare", prepare)
    runtime, start = Runtime(mesh=(8, 1, 1)), dataclasses.replace(toy.recipe(3), init_from=str(tmp_path / "a"))

    def refused(said, **changes):
        with pytest.raises(UserError, match=said):
            train.train(dataclasses.replace(start, **changes), runtime, tmp_path / "d", "toy")

    refused(r"Recipe\.init_from = .*: no vocabulary there", init_from=str(tmp_path / "c"))
    refused(r"Recipe\.new_rows = 'some': one of", new_rows="some")
    refused(r'new_rows = "similar" reads Recipe\.row_vectors', new_rows="similar")
    refused(r"none\.vec: no such file", new_rows="similar", row_vectors=files[:2] + files[3:])
    refused(r"Recipe\.row_vectors: .*wide\.vec has vectors of width 3, and .*en\.vec of width 2",
            new_rows="similar", row_vectors=files[:3])  # fmt: skip
    refused(r"Recipe\.row_vectors = '.*en\.vec': expected a list", new_rows="similar", row_vectors=files[0])
    refused("text is prepared now", new_rows="similar", row_vectors=files[:2])
    # A run that goes on has read them.
    monkeypatch.setattr(train.run_directory, "steps_done", lambda model_dir: 1)
    refused("text is prepared now", new_rows="similar", row_vectors=files[3:])
