"""A Hugging Face checkpoint becomes a model directory that a recipe continues from."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from xalign_jax.data.tokens.pieces import SPECIALS
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError, install, one_line
from xalign_jax.interfaces import ModelConfig, Tree
from xalign_jax.interop.architectures import table
from xalign_jax.interop.folders import whole
from xalign_jax.interop.mapping import Architecture, Entry
from xalign_jax.interop.settings import Settings, bare
from xalign_jax.interop.weights import DTYPES, Tensors, cast
from xalign_jax.models.model import Model, Params, build
from xalign_jax.recipe import as_json
from xalign_jax.runtime import sharding
from xalign_jax.runtime.compilation import jit_once
from xalign_jax.runtime.logs import write_atomically

# The files of a fast tokenizer, and files from which transformers can make one.
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_SLOW = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json")
STACKED_ON_HOST = 2**24  # numbers of a parameter of all layers, 64 MiB of float32
SECONDS_BEFORE_A_BAR = 5.0  # most models are read sooner


def import_model(source: Path, model_dir: Path, mesh: Mesh, dtype: str = "float32", overwrite: bool = False) -> None:
    """Write `model_dir` from a directory with config.json and safetensors.

    It gets step 0 of `checkpoints/`, `vocabulary/`, `environment.json`, and `model.gin`. That file binds Recipe.model,
    Recipe.vocabulary and Recipe.init_from for a recipe to include. Tensors go into the sharded parameters one by one,
    so that the host holds one tensor in addition to them. Files appear under `model_dir` only when all are complete.

    Args:
      dtype: of the parameters; training wants float32.

    Raises:
      UserError: the message names what is missing in the source, unknown, cut short or not implemented.
    """
    # Imported here, because `xalign_jax.load` of a Hugging Face folder needs no Orbax, which takes half a second.
    from xalign_jax.runtime.checkpoints import Checkpoints

    with whole(model_dir, "--model_dir", overwrite) as building:
        # Headers first: whatever does not fit is found before any tensor is read.
        found = read_source(source)
        tokenizer = _tokenizer(source, building, found.settings, found.rows, model_dir.absolute() / "vocabulary")
        if found.missing:
            print(f"{source}: no masked-LM head there; fresh: {', '.join(found.missing)}")
        params = read_parameters(found, mesh, dtype)
        # The checkpoint of a run at step 0, without heads and without an optimiser's state.
        config = found.model.config
        about = {"stage": "import", "recipe": {"model": as_json(config)}}
        checkpoints = Checkpoints(building / "checkpoints")
        checkpoints.save(0, {"model": params, "heads": {}}, {}, about)
        checkpoints.close()
        _describe(building, source, config, tokenizer, dtype, model_dir.absolute())


Plan = dict[
    str, list[tuple[Entry, str]]
]  # our path -> (entry, their name) by layer; one pair where there are no layers


class Found(NamedTuple):
    """The information of config.json and of the headers of safetensors files."""

    settings: Settings
    tensors: Tensors
    model: Model
    rows: int
    plan: Plan

    @property
    def missing(self) -> list[str]:
        """Paths of our parameters that the checkpoint lacks: those of a masked-LM head."""
        return [path for path in flat(self.model.shapes) if path not in self.plan]


def read_source(source: Path) -> Found:
    """Everything about a checkpoint but its numbers and its tokenizer.

    Raises:
      UserError: the message names what is missing, unknown, cut short or not implemented.
    """
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; if it is on the Hub: hf download {source} --local-dir DIR")
    # Names of tensors help to read settings: only they tell whether a model has a pooler, for example.
    settings = Settings.read(source / "config.json")
    tensors = Tensors(source, table.of_model_type(settings.text("model_type"), settings.file).renamed)
    # Settings become our configuration; a setting that nobody knows is refused.
    architecture, config = table.read_config(settings, frozenset(tensors.shapes))
    rows, pad = settings.whole("vocab_size"), settings.whole("pad_token_id", None, least=0)
    embedding = _embedding(architecture, tensors)
    if embedding is not None and tensors.shapes[embedding] != (rows, config.width):
        raise _other_shape(tensors, embedding, (rows, config.width))
    config = _with_own_head(architecture, config, tensors)
    model = build(config, rows)
    return Found(settings, tensors, model, rows, _plan(architecture, config, pad, model, tensors))


def _with_own_head(architecture: Architecture, config: ModelConfig, tensors: Tensors) -> ModelConfig:
    """The configuration; untied if the checkpoint has an output head that differs from the embedding."""
    # Only where the architecture can tie its head, and the checkpoint has one.
    head = architecture.head and _present(architecture.head, architecture.prefix, tensors)
    embedding = _embedding(architecture, tensors)
    if not config.tied or not head or embedding is None:
        return config
    if tensors.equal(head, embedding):
        tensors.leave_out(head)
        print(f"{tensors.source}: left out: {head}, which equals {embedding}")
        return config
    print(f"{tensors.source}: {head} differs from {embedding}: a head of its own, although config.json ties them")
    return dataclasses.replace(config, tied=False)  # type: ignore[type-var]


def _embedding(architecture: Architecture, tensors: Tensors) -> str | None:
    """The name of the embedding's tensor in the checkpoint, None if it has none."""
    return _present(architecture.embedding, architecture.prefix, tensors)


def _other_shape(tensors: Tensors, name: str, wanted: tuple[int, ...]) -> UserError:
    """The error for a tensor whose shape does not follow from config.json."""
    return UserError(f"{tensors.source}: {name} has shape {tensors.shapes[name]}, config.json wants {wanted}")


def _plan(architecture: Architecture, config: ModelConfig, pad: int | None, model: Model, tensors: Tensors) -> Plan:
    """Which tensors make which parameter. Every tensor must have its shape, and be used or known to be redundant."""
    entries = _without_missing_head(architecture.table(config, pad), architecture, tensors)
    shapes = flat(model.shapes)
    plan: Plan = {}
    missing, used = [], set()
    for entry in entries:
        # A name of each layer. Where the checkpoint lacks some, all are looked for, so that the message can count them.
        names = [entry.theirs.format(i) for i in range(config.layers)] if "{}" in entry.theirs else [entry.theirs]
        found = [_present(name, architecture.prefix, tensors) for name in names]
        missing += [name for name, there in zip(names, found, strict=True) if there is None]
        plan[entry.ours] = [(entry, there) for there in found if there is not None]
        used |= {there for there in found if there is not None}
        # The shape of one layer, from which the view tells the shape of the tensor.
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
    """The table, without its masked-LM head if the checkpoint has no tensor of that head."""
    if any(entry.head and _present(entry.theirs, architecture.prefix, tensors) for entry in entries):
        return entries
    return [entry for entry in entries if not entry.head]


def _present(name: str, prefix: str, tensors: Tensors) -> str | None:
    """The name under which the checkpoint has a tensor, with or without the prefix; None if it lacks the tensor."""
    candidates = (name, name.removeprefix(prefix))
    return next((candidate for candidate in candidates if candidate in tensors.shapes), None)


def _leave_out(names: list[str], architecture: Architecture, config: ModelConfig, tensors: Tensors) -> None:
    """Refuse tensors that make no parameter, unless a rule says why they are redundant and their contents agree."""
    for name in names:
        # The first rule whose pattern fits the name.
        known = next((rule for rule in architecture.redundant if re.search(rule.pattern, name)), None)
        if known is None:
            raise UserError(
                f"{tensors.source}: {len(names)} tensors belong to no {type(config).__name__}, such as {bare(name)}"
            )
        copied = known.copy_of and _present(known.copy_of, architecture.prefix, tensors)
        if known.copy_of and not (copied and tensors.equal(name, copied)):
            raise UserError(
                f"{tensors.source}: {bare(name)} is not equal to {known.copy_of}, "
                "as transformers ties them; not implemented"
            )
        if known.holds and not known.holds(config, tensors.read(name)):
            raise UserError(f"{tensors.source}: {bare(name)} holds other numbers than follow from config.json")
    if names:
        # One line for all layers of a tensor.
        kinds = sorted({re.sub(r"[.][0-9]+[.]", ".*.", name) for name in names})
        print(f"{tensors.source}: left out: {', '.join(map(bare, kinds))}")


def flat(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by their paths, such as "layers/attention/query"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def read_parameters(found: Found, mesh: Mesh, dtype: str) -> Params:
    """The parameters of a checkpoint, sharded over the mesh. A masked-LM head that it lacks is drawn afresh."""
    plan, model, tensors = found.plan, found.model, found.tensors
    shapes = flat(model.shapes)
    # Everything by path from here on: shapes, places, and the plan.
    where = flat(sharding.parameter_shardings(model.logical_axes(), model.shapes, mesh))
    leaves: dict[str, jax.Array] = {}
    if fresh := {path: where[path] for path in found.missing}:

        def draw() -> dict[str, jax.Array]:
            # XLA leaves out the computation of the parameters that are not asked for.
            drawn = flat(model.init(jax.random.key(0)))
            return {path: drawn[path].astype(DTYPES[dtype]) for path in fresh}

        # Drawn where they will lie.
        leaves |= jit_once(draw, out_shardings=fresh)()
    for path in tqdm(plan, desc="import", unit="parameter", delay=SECONDS_BEFORE_A_BAR):
        leaves[path] = _parameter(plan[path], shapes[path].shape, where[path], tensors, dtype)
    return jax.tree.unflatten(jax.tree.structure(model.shapes), [leaves[path] for path in shapes])


def _parameter(
    parts: list[tuple[Entry, str]], shape: tuple[int, ...], where: NamedSharding, tensors: Tensors, dtype: str
) -> jax.Array:
    """One parameter. Each tensor is read once, cut into this host's shards, and written into their memory."""
    entry, name = parts[0]
    if "{}" not in entry.theirs:
        # Without layers there is one tensor, and each device takes its slice of it.
        whole = cast(name, entry.view.read(tensors.read(name), shape), dtype)
        return jax.make_array_from_callback(shape, where, whole.__getitem__)
    layers = (cast(name, entry.view.read(tensors.read(name), shape[1:]), dtype) for entry, name in parts)
    if math.prod(shape) <= STACKED_ON_HOST:
        # A small stack is put together in this host's memory, which needs no compiled program.
        whole = np.stack(list(layers))
        return jax.make_array_from_callback(shape, where, whole.__getitem__)
    # Blocks are stacked along axis 0, which is not sharded here: a layer lies on the mesh like the stack without that
    # axis.
    one = NamedSharding(where.mesh, PartitionSpec(*where.spec[1:]))
    # The stack is filled layer by layer, in place.
    stack = jnp.zeros(shape, DTYPES[dtype], device=where)
    for layer, array in enumerate(layers):
        placed = jax.make_array_from_callback(array.shape, one, array.__getitem__)
        # Without waiting, the host would read tensors faster than the device takes them.
        stack = _write_layer(stack, placed, layer, where).block_until_ready()
    return stack


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _write_layer(stack: jax.Array, array: jax.Array, layer: int, where: NamedSharding) -> jax.Array:
    """`stack` with `array` in place of one layer, in the same memory."""
    return jax.lax.with_sharding_constraint(jax.lax.dynamic_update_index_in_dim(stack, array, layer, 0), where)


def _tokenizer(source: Path, building: Path, settings: Settings, rows: int, path: Path) -> Tokenizer:
    """The source's tokenizer in `building/vocabulary`, whose final place is `path`; bare ids if the source has none."""
    folder = building / "vocabulary"
    folder.mkdir()
    found = fast_tokenizer(source, folder)
    if found == source:
        for name in _TOKENIZER:
            if (source / name).is_file():
                shutil.copy(source / name, folder / name)
    if found:
        vocabulary = Vocabulary("huggingface", str(folder), rows=rows)
    else:
        print(f"{source}: no tokenizer there; token ids only")
        stated = {name: settings.get(f"{name}_token_id", None) for name in SPECIALS}
        # A model may have several ids that end a text; the first one is as good as any.
        specials = {name: ids[0] if isinstance(ids, list) else ids for name, ids in stated.items()}
        (folder / "ids.json").write_text(json.dumps({"size": rows, "specials": specials}) + "\n")
        vocabulary = Vocabulary("ids", str(folder), rows=rows)
    # It is read from the folder being built, and records the folder's final path.
    tokenizer = Tokenizer.of(vocabulary).with_clones(dataclasses.replace(vocabulary, path=str(path)))
    tokenizer.save(folder)
    return tokenizer


def fast_tokenizer(source: Path, folder: Path) -> Path | None:
    """The folder that has the source's tokenizer.json; None if the source has no tokenizer.

    It is the source itself, or `folder`, into which transformers converts a tokenizer of another kind.
    """
    if (source / _TOKENIZER[0]).is_file():
        return source
    slow = [name for name in _SLOW if (source / name).is_file()]
    if not slow:
        return None
    _convert(source, folder, slow[0])
    return folder


def _convert(source: Path, folder: Path, file: str) -> None:
    """Let transformers convert a tokenizer without tokenizer.json."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(f"{source}: {file} without tokenizer.json; transformers converts it: {install('hf')}") from None
    try:
        # False, not the default: with the default, transformers asks the user whether to run code of the folder.
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:  # transformers raises exceptions of many kinds
        raise UserError(f"{source}: transformers cannot convert {file} ({one_line(error)})") from None
    tokenizer.save_pretrained(folder)
    if not (folder / _TOKENIZER[0]).is_file():
        raise UserError(f"{source}: transformers has no fast tokenizer for {file}")


def _describe(
    building: Path, source: Path, config: ModelConfig, tokenizer: Tokenizer, dtype: str, model_dir: Path
) -> None:
    """Write environment.json and model.gin into the folder that will be `model_dir`."""
    environment = {**described(source, config, tokenizer), "dtype": dtype}
    write_atomically(building / "environment.json", json.dumps(environment, indent=1) + "\n")
    # A recipe that includes the file must know the model's class, which may be the user's own.
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


def described(source: Path, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The records of a run that other commands read (environment.json): here without a seed, texts or stages."""
    return {
        "recipe_name": f"import of {source.name}",
        "source": str(source.absolute()),
        "vocabulary_fingerprint": tokenizer.fingerprint,
        "versions": {"xalign_jax": importlib.metadata.version("xalign_jax"), "jax": jax.__version__},
        "recipe": {"model": as_json(config)},
    }


def _bindings(name: str, config: Any) -> list[str]:
    """The gin lines that bind a dataclass and the dataclasses within it."""
    cls = type(config).__name__
    lines = [f"{name} = @{cls}()"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            lines += _bindings(f"{cls}.{field.name}", value)
        else:
            lines.append(f"{cls}.{field.name} = {value!r}")
    return lines
