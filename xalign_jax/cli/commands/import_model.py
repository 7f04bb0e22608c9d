"""`xalign import`: make a model directory from a Hugging Face model."""

from __future__ import annotations

import argparse

from xalign_jax.cli.arguments import FLOATS, Commands, add_command, add_folder
from xalign_jax.cli.exits import DONE


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "import", run, "Make a model directory from a Hugging Face model.")
    add_folder(parser, "--model_dir", "the folder to make")
    add_folder(parser, "--source", "has config.json and safetensors")
    module = "a Python module of yours that registers an architecture; repeatable"
    parser.add_argument("--module", action="append", default=[], metavar="NAME", help=module)
    dtype = "dtype of the parameters; default float32"
    parser.add_argument("--dtype", default="float32", choices=FLOATS, help=dtype)
    parser.add_argument("--overwrite", action="store_true", help="replace an imported model")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Import the model, and say how a recipe continues from it."""
    from xalign_jax import gin_files
    from xalign_jax.interop.importing import import_model
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.sharding import make_mesh

    storage.check_writable("--model_dir", options.model_dir)
    for module in options.module:
        gin_files.import_module(module, f"--module={module}")
    import_model(options.source, options.model_dir, make_mesh((1, -1, 1)), options.dtype, options.overwrite)
    print(f"{options.model_dir}: a recipe that includes {options.model_dir}/model.gin continues from it")
    return DONE
