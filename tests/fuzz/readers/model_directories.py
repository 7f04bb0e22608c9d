"""What a model directory holds: records, configuration, checkpoints, a saved vocabulary."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from training import toy

from fuzz.harness import Reader
from xalign_jax import config
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.evaluation.encode import row
from xalign_jax.interfaces import Column
from xalign_jax.interop.architectures.table import config_from_json
from xalign_jax.interop.exporting import _base_language, _environment
from xalign_jax.interop.model_card import model_card
from xalign_jax.recipe import Recipe, Runtime, as_json, identity
from xalign_jax.records.files import read_metrics, read_pictures, read_results, read_shown
from xalign_jax.records.gin_text import as_gin
from xalign_jax.records.pictures import Drawn, Histogram, Links, Picture, Points
from xalign_jax.reports.tables import full_heading, keys_of, read_runs, section, shown_in
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.logs import keep_rows, write_pictures, write_results, write_shown
from xalign_jax.training import inputs, run_directory

RECIPE = toy.recipe()
STEP = 7
ARRAYS = {"embedding": np.arange(24, dtype=np.float32).reshape(4, 6), "norm": np.arange(6, dtype=np.float32)}
MODEL = {"params": {"model": ARRAYS, "heads": {}}, "rest": {"opt_state": {"count": np.array([3], np.int32)}}}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@functools.cache
def _records() -> dict[str, bytes]:
    """The records of a small run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            "recipe_name": "toy",
            "seed": 0,
            "identity": identity(RECIPE),
            "vocabulary_fingerprint": "0123456789abcdef",
            "git": None,
            "texts": {"lines:en=a.txt": {"train": {"en": "00ff"}, "validation": {"en": "ff00"}}},
            "inputs": {"Recipe.lexicon": ["its words", "00ff"]},
            "recipe": as_json(RECIPE) | {"lexicon": {"class": "Lexicon", "languages": ["en", "en_clone"]}},
        }
        (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
        rows = [row("perplexity", "perplexity", 9.5, 10, language=lang) for lang in ("en", "en_clone")]
        rows += [
            row("word_retrieval", "accuracy", 0.5, 10, language="en", level=level, split="heldout")
            for level in (0, "head")
        ]
        write_results(folder, [{"stage": "pretrain", "step": step, "seed": 0, **r} for step in (6, 12) for r in rows])
        columns = {"perplexity": Column("perplexity", headline=True, per_token=True)._asdict()}
        write_shown(folder, {"perplexity": {"title": "Language model", "by_level": False, "columns": columns}})
        pictures: tuple[Picture, ...] = (
            Points("map", "n = 2", [0.5, 1], [2, 3], ["en", "de"], [0, 0]),
            Histogram("cosines", "n = 5", [-1, 0, 1], {"translations": [1, 4]}),
            Links("words", "", ["ein", "Hund"], ["a", "dog"], [(0, 0, 0.5)], [(1, 1, True)]),
        )
        write_pictures(folder, [Drawn("pretrain", 6, "drawing", {"size": 1}, picture) for picture in pictures])
        log = [{"stage": "pretrain", "step": step, "loss": 8 / step, "tokens/a": 64.0} for step in range(1, 9)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        (folder / "config.gin").write_text(as_gin(RECIPE, Runtime()))
        return _files(folder)


def _read_environment(folder: Path) -> Any:
    environment = _environment(folder)
    list(inputs.changes(environment.get("inputs", {}), {"Recipe.lexicon": inputs.Input("its words", "ff00")}))
    return config_from_json(environment["recipe"].get("model")), _base_language(environment), read_runs(folder)


def _read_results(folder: Path) -> Any:
    rows = read_results(folder)
    about = {"config_text": "", "languages": ["en", "en_clone"], "architecture": "LlamaForCausalLM", "clones": True}
    card = model_card(name="toy", results_rows=rows, probes=read_shown(folder), **about)
    runs = read_runs(folder, needs_results=False)
    shown = shown_in(runs)
    return card, [(section(key, shown), full_heading(key, shown)) for key in keys_of(runs, shown)]


def _read_pictures(folder: Path) -> Any:
    return [drawn.plain() for drawn in read_pictures(folder)]


def _read_metrics(folder: Path) -> Any:
    rows = read_metrics(folder)
    keep_rows(folder / "metrics.jsonl", lambda row: row["step"] < 5)
    return rows, read_metrics(folder)


def _check_metrics(found: Any, folder: Path) -> None:
    rows, kept = found
    assert kept == [row for row in rows if row["step"] < 5]


def _read_config(folder: Path) -> Recipe:
    (recipe,) = config.load([str(folder / "config.gin")], [], (Recipe,))
    if run_directory._changes({"recipe": as_json(RECIPE)}, recipe):
        run_directory.differences(RECIPE, recipe)  # what the refusal shows
        return RECIPE
    return recipe


def _check_config(found: Recipe, folder: Path) -> None:
    assert identity(found) == identity(RECIPE)


def _where(tree: Any) -> Any:
    device = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


@functools.cache
def _checkpoint() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = Checkpoints(temporary, keep=1)
        checkpoints.save(
            STEP, jax.device_put(MODEL["params"]), jax.device_put(MODEL["rest"]), {"stage": "a", "recipe": {}}
        )
        checkpoints.close()
        return _files(Path(temporary))


def _read_checkpoint(folder: Path) -> Any:
    return Checkpoints(folder).restore(STEP, _where(MODEL["params"]), _where(MODEL["rest"]))


def _check_checkpoint(found: Any, folder: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, (MODEL["params"], MODEL["rest"]))


def _read_about(folder: Path) -> Any:
    return Checkpoints(folder).about(STEP)


def _check_about(found: Any, folder: Path) -> None:
    assert (found["stage"], found["recipe"], found["step"]) == ("a", {}, STEP)


@functools.cache
def _vocabulary() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as temporary:
        Tokenizer(Bytes(), Vocabulary("bytes", clones=1)).save(temporary)
        toy.ids().save(Path(temporary))
        return _files(Path(temporary))


def _check_vocabulary(found: Tokenizer, folder: Path) -> None:
    assert (found.fingerprint, found.size) == (toy.ids().fingerprint, toy.ids().size)


def _spared(files: dict[str, bytes], *damaged: str) -> tuple[str, ...]:
    return tuple(name for name in files if name not in damaged)


ABOUT = f"{STEP}/about/metadata"
READERS = [
    Reader("environment_json", lambda: [_records()], _read_environment, spared=_spared(_records(), "environment.json")),
    Reader("results_json", lambda: [_records()], _read_results, spared=_spared(_records(), "results.json")),
    Reader("probes_json", lambda: [_records()], _read_results, spared=_spared(_records(), "probes.json")),
    Reader("pictures_json", lambda: [_records()], _read_pictures, spared=_spared(_records(), "pictures.json")),
    Reader("metrics_jsonl", lambda: [_records()], _read_metrics, _check_metrics, _spared(_records(), "metrics.jsonl")),
    Reader("config_gin", lambda: [_records()], _read_config, _check_config, _spared(_records(), "config.gin")),
    Reader("checkpoint", lambda: [_checkpoint()], _read_checkpoint, _check_checkpoint),
    Reader("checkpoint_about", lambda: [_checkpoint()], _read_about, _check_about, _spared(_checkpoint(), ABOUT)),
    Reader("saved_vocabulary", lambda: [_vocabulary()], Tokenizer.load, _check_vocabulary),
]
