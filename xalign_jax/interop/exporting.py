"""A model directory becomes a folder that transformers loads without any of our code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index, clone_name
from xalign_jax.errors import UserError
from xalign_jax.interfaces import ModelConfig
from xalign_jax.interop.architectures import table
from xalign_jax.interop.averaging import Average
from xalign_jax.interop.folders import whole
from xalign_jax.interop.importing import flat
from xalign_jax.interop.licences import languages as texts_of
from xalign_jax.interop.licences import used
from xalign_jax.interop.mapping import Entry
from xalign_jax.interop.model_card import LOCAL, Published, model_card
from xalign_jax.interop.sentence_encoder import SentenceEncoder, write_sentence_encoder
from xalign_jax.interop.tokenizers.check import difference, texts_around_unusual
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers
from xalign_jax.interop.weights import DTYPES, Tensor, write
from xalign_jax.models.model import Model, Params, build
from xalign_jax.records.files import read_environment, read_results, read_shown
from xalign_jax.runtime.restore import restore_model, restore_state


class Exported(NamedTuple):
    """What was written, for `verify`: the model as it computes here, its tokenizer, and the class that loads it."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    auto: str


def export_model(
    model_dir: Path,
    output: Path,
    mesh: Mesh,
    step: int | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    params: str = "model",
    encoder: SentenceEncoder | None = None,
    published: Published = LOCAL,
    average: Average | None = None,
) -> Exported:
    """Write config.json, safetensors shards, tokenizers and a model card.

    The root tokenizer is the one of language 1, and every clone has `tokenizer_<language>/`. Rows that tied clones
    share are written once for each. Files appear under `output` only when all are complete.

    Args:
      step: the checkpoint; None = the newest.
      dtype: "float32", "bfloat16" or "float16".
      params: "model", or "momentum:<stream>" for the momentum encoder of a contrast.
      encoder: make the folder one of sentence-transformers as well.
      published: licence and place of the model, for its card.
      average: what the model is averaged with; its card then has no results, which are those of the model itself.

    Raises:
      UserError: there is no such checkpoint, `output` holds an export, or transformers has no such model.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype}: one of {', '.join(DTYPES)}")
    # Cheap refusals come before expensive work: settings, then tokenizers, then weights.
    with whole(output, "--output", overwrite) as building:
        environment = _environment(model_dir)
        # The recipe in environment.json names the model. Its gin file need not be read.
        trained = config = table.config_from_json(environment["recipe"]["model"])
        stream = _momentum_stream(params, environment["recipe"])
        tokenizer = Tokenizer.load(model_dir / "vocabulary")
        languages = [clone_name(_base_language(environment), k) for k in range(tokenizer.clones + 1)]
        write_tokenizers(tokenizer, building, causal=config.causal, max_length=config.max_length, languages=languages)
        _refuse_unequal(building, tokenizer, model_dir)
        model = build(config, tokenizer.size, row_map=tokenizer.row_map)
        # Parameters are restored for the model as it was trained, and cut afterwards.
        if average is not None:
            average.check(model, tokenizer)
        at, values = _parameters(model_dir, step, model, mesh, stream)
        if average is not None:
            values = average.of(values, model, mesh)
        if encoder is not None:
            config, values = encoder.shortened(config, values)
            model = build(config, tokenizer.size, row_map=tokenizer.row_map)
        name = _write_model(building, config, values, tokenizer, dtype)
        if encoder is not None:
            write_sentence_encoder(building, encoder, config.width, config.max_length, tokenizer.special, values)
        # Results are those of the model as it was trained: not of a momentum encoder, an average, or fewer blocks.
        as_trained = (params, config, average) == ("model", trained, None)
        card = model_card(
            name=environment["recipe_name"],
            config_text=_text(model_dir / "config.gin"),
            results_rows=[row for row in read_results(model_dir) if row["step"] == at and as_trained],
            probes=read_shown(model_dir),
            languages=languages,
            architecture=name,
            clones=tokenizer.clones > 0,
            data=used(environment),
            texts=texts_of(environment),
            published=published,
        )
        (building / "README.md").write_text(card, encoding="utf-8")
    return Exported(model, values, tokenizer, table.of_config(config).auto)


def _refuse_unequal(folder: Path, tokenizer: Tokenizer, model_dir: Path) -> None:
    """Refuse a vocabulary whose unusual pieces no fast tokenizer reads as the run does, before any weights are read."""
    found = difference(folder, tokenizer, texts_around_unusual(tokenizer))
    if found:
        raise UserError(f"{model_dir}/vocabulary cannot be exported: {found}")


def _base_language(environment: dict[str, Any]) -> str:
    """Language 1: the lexicon's first, else the first of the texts. The language of an imported model is unknown."""
    # As JSON, and None without a dictionary.
    lexicon = environment["recipe"].get("lexicon")
    texts = [language for splits in environment.get("texts", {}).values() for language in splits.get("train", {})]
    return (
        clone_index(lexicon["languages"][0])[0] if lexicon and lexicon.get("languages") else sorted(texts or ["en"])[0]
    )


def _write_model(folder: Path, config: ModelConfig, params: Params, tokenizer: Tokenizer, dtype: str) -> str:
    """Write configuration and weights; returns the name of transformers' class."""
    # The table says names and shapes of the tensors, and writes the settings.
    architecture = table.of_config(config)
    # Ids of specials go where each library looks for them: config.json, and for decoders also the generation settings.
    specials = {name: getattr(tokenizer, name) for name in ("pad", "bos", "eos", "mask")}
    settings = architecture.write(config, tokenizer.size, specials)
    ids = {f"{name}_token_id": specials[name] for name in ("pad", "bos", "eos")}
    _json(folder / "config.json", {**settings, **ids, "dtype": dtype, "torch_dtype": dtype})
    if config.causal:
        _json(folder / "generation_config.json", {name: i for name, i in ids.items() if i is not None})
    write(folder, _tensors(architecture.table(config, specials["pad"]), params, tokenizer.row_map), dtype)
    return settings["architectures"][0]


def _momentum_stream(params: str, recipe: dict[str, Any]) -> str | None:
    """The stream whose momentum encoder is exported; None for the model itself.

    Raises:
      UserError: the recipe has no such stream, or the stream has no momentum encoder.
    """
    if params == "model":
        return None
    # The recipe as JSON: stages, their streams, and each stream's objective.
    streams = [stream for stage in recipe.get("stages", ()) for stream in stage["streams"]]
    there = {f"momentum:{stream['name']}" for stream in streams if stream["objective"].get("momentum")}
    if params not in there:
        raise UserError(f"--params={params}: this run has {', '.join(['model', *sorted(there)])}")
    return params.removeprefix("momentum:")


def _parameters(model_dir: Path, step: int | None, model: Model, mesh: Mesh, stream: str | None) -> tuple[int, Params]:
    """(step, parameters) to export."""
    if stream is None:
        return restore_model(model_dir, step, model, mesh)
    found: tuple[int, Params] = (-1, None)
    # Where a branch is missing, Orbax raises TypeError, or it gives the shapes back that were asked for.
    with contextlib.suppress(TypeError):
        found = restore_state(model_dir, step, model, mesh, stream, "encoder")
    if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found[1])) or found[1] is None:
        raise UserError(
            f"--params=momentum:{stream}: the checkpoint has no such encoder; choose a --step of the stream's stage"
        )
    return found


def _environment(model_dir: Path) -> dict[str, Any]:
    """environment.json of a model directory, with everything that an export reads of it."""
    file = model_dir / "environment.json"
    if not file.is_file():
        raise UserError(f"--model_dir={model_dir}: no environment.json there; is it a model directory?")
    environment = read_environment(model_dir, ("recipe_name", "recipe"))
    model = environment["recipe"].get("model")
    if not isinstance(model, dict) or not isinstance(model.get("class"), str):
        raise UserError(f"{file}: not what a run or an import writes there (recipe.model.class)")
    return environment


def _text(file: Path) -> str:
    """The contents of a text file, "" if there is none."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _tensors(entries: list[Entry], params: Params, row_map: np.ndarray | None) -> list[Tensor]:
    """Their tensors in the order of the table. Each is made when it is written, so that few are in memory at once."""
    found = flat(params)
    # Name of a tensor -> the arrays of ours that lie in it. One name with "{}" stands for a tensor of every layer.
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.theirs, []).append(entry)
    layers = max((found[e.ours].shape[0] for e in entries if "{}" in e.theirs), default=0)
    tensors = []
    for name, members in by_name.items():
        for layer in range(layers) if "{}" in name else [None]:
            # The shape of ours, of one layer where arrays are stacked.
            shape = found[members[0].ours].shape[0 if layer is None else 1 :]
            tensors.append(
                Tensor(name.format(layer), members[0].view.theirs(shape), _maker(members, found, layer, row_map))
            )
    return tensors


def _maker(
    members: list[Entry], found: dict[str, jax.Array], layer: int | None, row_map: np.ndarray | None
) -> Callable[[], np.ndarray]:
    """A function that makes one tensor: it fetches our arrays and lets the view put them together."""

    def one(path: str) -> np.ndarray:
        array = np.asarray(found[path] if layer is None else found[path][layer])
        # Tables by token have one row for each row of the model. Tied clones read the same row under several ids.
        by_token = row_map is not None and path in ("embedding", "head", "head_bias")
        return array[row_map] if by_token else array

    return lambda: members[0].view.write([one(member.ours) for member in members])
