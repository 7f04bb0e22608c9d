"""`xalign export`: write a model for transformers, and check it."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xalign_jax.api import import_modules, start_jax
from xalign_jax.cli.arguments import FLOATS, Commands, add_command, add_folder, add_model, named, path
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from xalign_jax.data.tokens.tokenizer import Tokenizer
    from xalign_jax.interop.verify import Missing


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "export", run, "Write a model for transformers, and check it.")
    add_model(parser)
    add_folder(parser, "--output", "where the model's files go")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    parser.add_argument("--dtype", default="float32", choices=FLOATS, help="dtype of the files; default float32")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported model")
    parser.add_argument("--params", default="model", help='"model", or "momentum:<stream>" for a momentum encoder')
    about = "a model directory of the same shape, such as the run's start: export the average of both"
    parser.add_argument("--average_with", type=path, metavar="DIR", help=about)
    about = "of --average_with in the average; default 0.5"
    parser.add_argument("--share", type=float, default=0.5, metavar="NUMBER", help=about)
    parser.add_argument("--sentence_encoder", choices=("mean", "first", "pooler"), help="for sentence-transformers")
    parser.add_argument("--level", type=int, metavar="N", help="the sentence encoder's block; default: the last")
    about = 'of the model, for its card, such as "apache-2.0"; default: unknown'
    parser.add_argument("--licence", "--license", type=named, metavar="NAME", help=about)
    about = "upload the files there (extra: hub); the repository is private"
    parser.add_argument("--push_to_hub", type=named, metavar="USER/NAME", help=about)
    parser.add_argument("--public", action="store_true", help="with --push_to_hub: make a public repository")
    parser.add_argument("--normalize", action="store_true", help="sentence vectors of unit length")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Export the model, then compare the files with it."""
    from xalign_jax.interop import hub
    from xalign_jax.interop.averaging import Average
    from xalign_jax.interop.exporting import export_model
    from xalign_jax.interop.importing import import_model
    from xalign_jax.interop.model_card import LOCAL, Published
    from xalign_jax.interop.opening import is_model_directory
    from xalign_jax.interop.sentence_encoder import SentenceEncoder
    from xalign_jax.interop.verify import verify
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.sharding import make_mesh

    storage.check_writable("--output", options.output)
    if options.push_to_hub:
        hub.check(options.push_to_hub, options.overwrite)
    elif options.public:
        raise UserError("--public needs --push_to_hub=USER/NAME")
    # Full precision, since the exported files are compared with what is computed here.
    start_jax("highest")
    mesh = make_mesh((1, -1, 1))
    import_modules(options.model)
    # Options of a sentence encoder mean nothing without one.
    encoder = None
    if options.sentence_encoder:
        encoder = SentenceEncoder(options.sentence_encoder, options.level, options.normalize)
    with tempfile.TemporaryDirectory() as place:
        model_dir = options.model
        if not is_model_directory(options.model):
            # A Hugging Face folder comes out as an import of it would.
            model_dir = Path(place) / options.model.name
            import_model(options.model, model_dir, mesh)
        exported = export_model(
            model_dir,
            options.output,
            mesh,
            options.step,
            options.dtype,
            options.overwrite,
            options.params,
            encoder,
            Published(options.licence or LOCAL.licence, options.push_to_hub or LOCAL.place),
            Average(options.average_with, options.share) if options.average_with else None,
        )
        print(f"{options.output}: written")
        print(verify(options.output, exported, _validation_texts(model_dir, exported.tokenizer), options.dtype))
    # Only what was verified is uploaded.
    if options.push_to_hub:
        print(f"{options.push_to_hub}: uploaded, {hub.push(options.output, options.push_to_hub, options.public)}")
    return DONE


def _validation_texts(model_dir: Path, tokenizer: Tokenizer) -> list[np.ndarray] | Missing:
    """Token ids of three validation texts in each language of the run, or why there are none. Prepares no text."""
    from xalign_jax import config
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.store.store import Texts, open_stores, open_tokenizer
    from xalign_jax.interop.verify import Missing
    from xalign_jax.recipe import Recipe
    from xalign_jax.training import stages

    # The texts only make the check stronger: whatever hinders opening them is named and not raised.
    if not (model_dir / "config.gin").is_file():
        return Missing("an imported model has none")
    found = []
    try:
        (recipe,) = config.load([str(model_dir / "config.gin")], [], (Recipe,))
        mixtures = stages.mixtures(recipe)
        tasks = list(dict.fromkeys(task for mixture in mixtures for task in mixture.tasks))
        prepared = Texts(recipe.vocabulary, tasks, cleaning=recipe.cleaning)
        stores = {task: open_stores(prepared, task) for task in tasks}
        # Stores that were prepared again since training hold other token ids.
        if open_tokenizer(prepared).base_fingerprint != tokenizer.base_fingerprint:
            return Missing("prepared with another vocabulary since")
        for mixture in mixtures:
            # The first three documents of each language, in its clone's spelling.
            for member in Corpus(tokenizer, stores, None, None).members(mixture, "validation"):
                tokens, offsets = member.tokens[0], member.offsets[0]
                texts = [tokens[a:b] for a, b in itertools.pairwise(offsets[:4])]
                found += [tokenizer.clone(text, member.k) for text in texts]
    except UserError as error:
        return Missing(str(error))
    return found or Missing("the run has none")
