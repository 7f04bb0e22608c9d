"""A Hugging Face checkpoint becomes a model directory that a recipe continues from."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from xalign_jax.data.tokens.backends import SPECIALS
from xalign_jax.data.tokens.vocabulary import Tokenizer, Vocabulary
from xalign_jax.errors import UserError, install
from xalign_jax.interop.architectures import table
from xalign_jax.interop.folders import whole
from xalign_jax.interop.mapping import Architecture, Entry
from xalign_jax.interop.settings import Settings, bare
from xalign_jax.interop.weights import DTYPES, Tensors, cast
from xalign_jax.models.model import Model, build
from xalign_jax.recipe import as_json
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.compilation import jit_once
from xalign_jax.runtime.logs import write_atomically

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_SLOW = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json")


def import_model(source: Path, model_dir: Path, mesh: Mesh, dtype: str = "float32", overwrite: bool = False) -> None:
    """Write `model_dir` from a directory with config.json and safetensors.

    It gets step 0 of `checkpoints/`, `vocabulary/`, `environment.json`, and `model.gin`, which binds Recipe.model,
    Recipe.vocabulary and Recipe.init_from for a recipe to include. Tensors go into the sharded parameters one by one:
    beside them the host holds one tensor. Files appear under `model_dir` only when all are whole.

    Args:
      dtype: of the parameters; training wants float32.

    Raises:
      UserError: whatever of the source is missing, unknown, cut short or not implemented, by name.
    """
    with whole(model_dir, "--model_dir", overwrite) as building:
        found = read_source(source)
        tokenizer = _tokenizer(source, building, found.settings, found.rows, model_dir.absolute() / "vocabulary")
        params = _read(found.plan, found.model, found.tensors, mesh, dtype)
        config = found.model.config
        about = {"stage": "import", "recipe": {"model": as_json(config)}}
        checkpoints = Checkpoints(building / "checkpoints")
        checkpoints.save(0, {"model": params, "heads": {}}, {}, about)
        checkpoints.close()
        _describe(building, source, config, tokenizer, dtype, model_dir.absolute())


Plan = dict[str, list[tuple[Entry, str]]]  # our path -> (entry, their name) of each layer, one where it has no layers


class Found(NamedTuple):
    """What config.json and the headers of safetensors files say."""

    settings: Settings
    tensors: Tensors
    model: Model
    rows: int
    plan: Plan


def read_source(source: Path) -> Found:
    """Everything of a checkpoint but its numbers and its tokenizer.

    Raises:
      UserError: whatever is missing, unknown, cut short or not implemented, by name.
    """
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; if it is on the Hub: hf download {source} --local-dir DIR")
    settings = Settings.read(source / "config.json")
    tensors = Tensors(source, table.of_model_type(settings.text("model_type"), settings.file).renamed)
    architecture, config = table.read_config(settings, frozenset(tensors.shapes))
    rows, pad = settings.whole("vocab_size"), settings.whole("pad_token_id", None, least=0)
    embedding = _embedding(architecture, tensors)
    if embedding is not None and tensors.shapes[embedding] != (rows, config.width):
        raise _other_shape(tensors, embedding, (rows, config.width))
    config = _with_own_head(architecture, config, tensors)
    model = build(config, rows)
    return Found(settings, tensors, model, rows, _plan(architecture, config, pad, model, tensors))


def _with_own_head(architecture: Architecture, config: Any, tensors: Tensors) -> Any:
    """The configuration; untied where the checkpoint has an output head that is not the embedding."""
    head = architecture.head and _present(architecture.head, architecture.prefix, tensors)
    embedding = _embedding(architecture, tensors)
    if not config.tied or not head or embedding is None:
        return config
    if tensors.equal(head, embedding):
        tensors.leave_out(head)
        print(f"{tensors.source}: left out: {head}, which equals {embedding}")
        return config
    print(f"{tensors.source}: {head} differs from {embedding}: a head of its own, although config.json ties them")
    return dataclasses.replace(config, tied=False)


def _embedding(architecture: Architecture, tensors: Tensors) -> str | None:
    return _present(architecture.embedding, architecture.prefix, tensors)


def _other_shape(tensors: Tensors, name: str, wanted: tuple[int, ...]) -> UserError:
    return UserError(f"{tensors.source}: {name} has shape {tensors.shapes[name]}, config.json wants {wanted}")


def _plan(architecture: Architecture, config: Any, pad: int | None, model: Model, tensors: Tensors) -> Plan:
    """Which tensors make which parameter; every tensor used or known to carry nothing, every shape right."""
    entries = _without_missing_head(architecture.table(config, pad), architecture, tensors)
    shapes = flat(model.shapes)
    plan: Plan = {}
    missing, used = [], set()
    for entry in entries:
        names = [entry.theirs.format(i) for i in range(config.layers)] if "{}" in entry.theirs else [entry.theirs]
        found = [_present(name, architecture.prefix, tensors) for name in names]
        missing += [name for name, there in zip(names, found, strict=True) if there is None]
        plan[entry.ours] = [(entry, there) for there in found if there is not None]
        used |= {there for there in found if there is not None}
        ours = shapes[entry.ours].shape[1 if "{}" in entry.theirs else 0 :]
        for _, name in plan[entry.ours]:
            if tensors.shapes[name] != entry.view.theirs(ours):
                raise _other_shape(tensors, name, entry.view.theirs(ours))
    if missing:
        raise UserError(f"{tensors.source}: {len(missing)} tensors are missing, such as {missing[0]}")
    _leave_out(sorted(tensors.shapes.keys() - used), architecture, config, tensors)
    tensors.check_dtypes(sorted(used))
    return plan


def _without_missing_head(entries: list[Entry], architecture: Architecture, tensors: Tensors) -> list[Entry]:
    """The table; without its masked-LM head where the checkpoint has no tensor of that."""
    if any(entry.head and _present(entry.theirs, architecture.prefix, tensors) for entry in entries):
        return entries
    return [entry for entry in entries if not entry.head]


def _present(name: str, prefix: str, tensors: Tensors) -> str | None:
    candidates = (name, name.removeprefix(prefix))
    return next((candidate for candidate in candidates if candidate in tensors.shapes), None)


def _leave_out(names: list[str], architecture: Architecture, config: Any, tensors: Tensors) -> None:
    """Refuse tensors that no parameter is made of, unless they are known and hold what is known of them."""
    for name in names:
        known = next((rule for rule in architecture.redundant if re.search(rule.pattern, name)), None)
        if known is None:
            raise UserError(
                f"{tensors.source}: {len(names)} tensors belong to no {type(config).__name__}, such as {bare(name)}"
            )
        copied = known.copy_of and _present(known.copy_of, architecture.prefix, tensors)
        if known.copy_of and not (copied and tensors.equal(name, copied)):
            raise UserError(
                f"{tensors.source}: {bare(name)} is not equal to {known.copy_of}, as transformers ties them; not implemented"
            )
        if known.holds and not known.holds(config, tensors.read(name)):
            raise UserError(f"{tensors.source}: {bare(name)} holds other numbers than follow from config.json")
    if names:
        kinds = sorted({re.sub(r"[.][0-9]+[.]", ".*.", name) for name in names})
        print(f"{tensors.source}: left out: {', '.join(map(bare, kinds))}")


def flat(tree: Any) -> dict[str, Any]:
    """Leaves of nested dicts by path, "layers/attention/query"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _read(plan: Plan, model: Model, tensors: Tensors, mesh: Mesh, dtype: str) -> Any:
    """The parameters, sharded over the mesh."""
    shapes = model.shapes
    where = flat(sharding.parameter_shardings(model.logical_axes(), shapes, mesh))
    fresh = [path for path in flat(shapes) if path not in plan]
    if fresh:
        print(f"{tensors.source}: no masked-LM head there; fresh: {', '.join(fresh)}")
    leaves: dict[str, jax.Array] = {}
    for path, shape in tqdm(flat(shapes).items(), desc="import", unit="parameter"):
        if path in plan:
            leaves[path] = _parameter(plan[path], shape.shape, where[path], tensors, dtype)
        else:
            leaves[path] = jit_once(
                lambda path=path: flat(model.init(jax.random.key(0)))[path].astype(DTYPES[dtype]),
                out_shardings=where[path],
            )()
    return jax.tree.unflatten(jax.tree.structure(shapes), [leaves[path] for path in flat(shapes)])


def _parameter(
    parts: list[tuple[Entry, str]], shape: tuple[int, ...], where: NamedSharding, tensors: Tensors, dtype: str
) -> jax.Array:
    """One parameter: each tensor is read once, cut into this host's shards and written into them in place."""
    entry, name = parts[0]
    if "{}" not in entry.theirs:
        whole = cast(name, entry.view.read(tensors.read(name), shape), dtype)
        return jax.make_array_from_callback(shape, where, whole.__getitem__)
    one = NamedSharding(where.mesh, PartitionSpec(*where.spec[1:]))
    stack = jnp.zeros(shape, DTYPES[dtype], device=where)
    for layer, (entry, name) in enumerate(parts):
        array = cast(name, entry.view.read(tensors.read(name), shape[1:]), dtype)
        placed = jax.make_array_from_callback(array.shape, one, array.__getitem__)
        stack = _write_layer(stack, placed, layer, where).block_until_ready()  # else the host runs ahead
    return stack


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _write_layer(stack: jax.Array, array: jax.Array, layer: int, where: NamedSharding) -> jax.Array:
    """`stack` with `array` in place of one layer, in the same memory."""
    return jax.lax.with_sharding_constraint(jax.lax.dynamic_update_index_in_dim(stack, array, layer, 0), where)


def _tokenizer(source: Path, building: Path, settings: Settings, rows: int, path: Path) -> Tokenizer:
    """The source's tokenizer in `building/vocabulary`, which will be `path`, or bare ids where it has none."""
    folder = building / "vocabulary"
    folder.mkdir()
    if (source / _TOKENIZER[0]).is_file():
        for name in _TOKENIZER:
            if (source / name).is_file():
                shutil.copy(source / name, folder / name)
        vocabulary = Vocabulary("huggingface", str(folder), rows=rows)
    elif slow := [name for name in _SLOW if (source / name).is_file()]:
        _convert(source, folder, slow[0])
        vocabulary = Vocabulary("huggingface", str(folder), rows=rows)
    else:
        print(f"{source}: no tokenizer there; token ids only")
        stated = {name: settings.get(f"{name}_token_id", None) for name in SPECIALS}
        specials = {name: ids[0] if isinstance(ids, list) else ids for name, ids in stated.items()}  # any of them ends
        (folder / "ids.json").write_text(json.dumps({"size": rows, "specials": specials}) + "\n")
        vocabulary = Vocabulary("ids", str(folder), rows=rows)
    tokenizer = Tokenizer.of(vocabulary).with_clones(dataclasses.replace(vocabulary, path=str(path)))
    tokenizer.save(folder)
    return tokenizer


def _convert(source: Path, folder: Path, file: str) -> None:
    """A tokenizer without tokenizer.json, converted by transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(f"{source}: {file} without tokenizer.json; transformers converts it: {install('hf')}") from None
    AutoTokenizer.from_pretrained(source, use_fast=True).save_pretrained(folder)
    if not (folder / _TOKENIZER[0]).is_file():
        raise UserError(f"{source}: transformers has no fast tokenizer for {file}")


def _describe(building: Path, source: Path, config: Any, tokenizer: Tokenizer, dtype: str, model_dir: Path) -> None:
    """Write environment.json and model.gin of what will be `model_dir`."""
    environment = {
        "recipe_name": f"import of {source.name}",
        "source": str(source.absolute()),
        "dtype": dtype,
        "vocabulary_fingerprint": tokenizer.fingerprint,
        "versions": {"xalign_jax": importlib.metadata.version("xalign_jax"), "jax": jax.__version__},
        "recipe": {"model": as_json(config)},
    }
    write_atomically(building / "environment.json", json.dumps(environment, indent=1) + "\n")
    module = type(config).__module__
    lines = [
        f"# The model of {source.name}. `include` this in a recipe to continue from it.",
        *([] if module.startswith("xalign_jax.") else [f"import {module}"]),
        *_bindings("Recipe.model", config),
        "Recipe.vocabulary = @Vocabulary()",
        f'Vocabulary.kind = "{tokenizer.vocabulary.kind}"',
        f'Vocabulary.path = "{tokenizer.vocabulary.path}"',
        f"Vocabulary.rows = {tokenizer.vocabulary.rows}",
        f'Recipe.init_from = "{model_dir}"',
    ]
    write_atomically(building / "model.gin", "\n".join(lines) + "\n")


def _bindings(name: str, config: Any) -> list[str]:
    """gin lines that bind a dataclass and the dataclasses in it."""
    cls = type(config).__name__
    lines = [f"{name} = @{cls}()"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            lines += _bindings(f"{cls}.{field.name}", value)
        else:
            lines.append(f"{cls}.{field.name} = {value!r}")
    return lines
