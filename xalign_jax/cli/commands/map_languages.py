"""`xalign map`: fit maps between the spaces of languages at a level of a model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from xalign_jax.cli.arguments import Commands, add_command, add_folder, files_by_language, named, two_languages
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.evaluation.map_fitting import Translations

_METHODS = ("centring", "procrustes", "least_squares", "ridge", "trained", "cca", "vecmap", "barycentre")
_POOLINGS = ("mean", "weighted", "first", "last")


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "map", run, "Fit maps between the spaces of languages at a level of a model.")
    add_folder(parser, "--model", "a Hugging Face folder or a model directory")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    texts = 'parallel files by language, such as {"en": "en.txt", "de": "de.txt"}; the first language is the pivot'
    parser.add_argument("--texts", type=named, metavar="JSON", help=texts)
    parser.add_argument("--dictionary", type=named, metavar="FILE", help="a dictionary in place of texts")
    about = "its two languages, such as en,de; the first is the pivot"
    parser.add_argument("--languages", type=named, metavar="NAMES", help=about)
    method = f"{', '.join(_METHODS)}; default procrustes"
    parser.add_argument("--method", default="procrustes", choices=_METHODS, metavar="NAME", help=method)
    parser.add_argument("--level", type=int, metavar="N", help="whose states are mapped; default: two thirds up")
    parser.add_argument("--pooling", default="mean", choices=_POOLINGS, help="how states become vectors; default mean")
    space = "pivot keeps the pivot's mean, so that levels above read states as they know them; centred drops it"
    parser.add_argument("--space", default="pivot", choices=("pivot", "centred"), help=space)
    parser.add_argument("--strength", type=float, default=0.1, metavar="R", help="of ridge; default 0.1")
    parser.add_argument("--dimensions", type=int, metavar="N", help="directions that cca keeps; default: all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of vecmap; default 0")
    add_folder(parser, "--output", "where the maps go")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Read the texts, fit the maps, write them, and say what they are worth."""
    if bindings:
        raise UserError(f"--gin.{bindings[0]}: xalign map reads no gin files")
    from xalign_jax.runtime import storage

    storage.check_writable("--output", options.output)
    data = _translations(options)
    from xalign_jax.alignment.fitting import Method
    from xalign_jax.api import load, start_jax
    from xalign_jax.evaluation.aligning.neural import default_level
    from xalign_jax.evaluation.map_fitting import Where, fit_to, trained_weight

    start_jax("highest")
    model = load(options.model, options.step)
    level = default_level(model.model) if options.level is None else options.level
    weight = trained_weight(model, level) if options.method == "trained" else None
    method = Method(options.method, options.strength, options.dimensions, seed=options.seed, weight=weight)
    maps, scores = fit_to(model, data, method, Where(level, options.pooling, options.space))
    maps.save(options.output)
    pivot, what = maps.languages[0], "lines" if data.pairs is None else "pairs of words"
    print(f"{options.output}: {options.method} at level {level} ({options.pooling}), fitted on {data.size:,} {what}")
    for one in scores:
        print(
            f"{pivot}-{one.language}: {100 * one.plain:.1f} % of {one.n:,} found as it is, {100 * one.centred:.1f} centred, "
            f"{100 * one.mapped:.1f} mapped"
        )
    print(
        "These are the texts of the fit. Score the maps on others: --gin.ParallelText.maps of xalign evaluate",
        file=sys.stderr,
    )
    return DONE


def _translations(options: argparse.Namespace) -> Translations:
    """The texts of the command line. Options are checked before anything heavy is imported."""
    if bool(options.texts) == bool(options.dictionary):
        raise UserError("name one of --texts and --dictionary")
    if options.texts and options.languages:
        raise UserError("--languages: belongs to --dictionary; --texts names its languages itself")
    files = files_by_language("--texts", options.texts) if options.texts else []
    if len(files) == 1:
        raise UserError(f"--texts={options.texts[:60]}: two languages at least")
    languages = two_languages(options.languages or "") if options.dictionary else None
    from xalign_jax.evaluation.map_fitting import read_parallel, read_words

    return read_words(options.dictionary, languages) if languages else read_parallel(files)
