"""`xalign vectors`: static vectors of words, from the states that a model has for them in a text."""

from __future__ import annotations

import argparse

from xalign_jax.cli.arguments import Commands, add_command, add_folder, files_by_language, named, positive
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "vectors", run, "Write static vectors of words, from a model's states.")
    add_folder(parser, "--model", "a Hugging Face folder or a model directory")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    texts = 'a text for each language, such as {"en": "en.txt", "de": "de.txt"}'
    parser.add_argument("--texts", type=named, required=True, metavar="JSON", help=texts)
    parser.add_argument("--level", type=int, metavar="N", help="whose states are averaged; default: two thirds up")
    about = "leave out words that are read less often; default 5"
    parser.add_argument("--least_count", type=positive, default=5, metavar="N", help=about)
    parser.add_argument("--most", type=positive, default=100_000, metavar="N", help="words kept; default 100000")
    add_folder(parser, "--output", "where LANGUAGE.vec go, in word2vec's text form, the most frequent word first")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Read each text, and write its words."""
    if bindings:
        raise UserError(f"--gin.{bindings[0]}: xalign vectors reads no gin files")
    files = files_by_language("--texts", options.texts)
    from xalign_jax.runtime import storage

    storage.check_writable("--output", options.output)
    from xalign_jax.api import load, start_jax
    from xalign_jax.data.lexicon.vectors import write_vectors
    from xalign_jax.data.text.lines import read_lines
    from xalign_jax.evaluation.aligning.neural import default_level
    from xalign_jax.evaluation.static_vectors import static_vectors

    texts = {path: [line for _, line in read_lines(path) if line.strip()] for _, path in files}
    start_jax("highest")
    model = load(options.model, options.step)
    level = default_level(model.model) if options.level is None else options.level
    options.output.mkdir(parents=True, exist_ok=True)
    for language, path in files:
        found = static_vectors(model, texts[path], level, options.least_count, options.most, path)
        output = options.output / f"{language}.vec"
        write_vectors(output, found.words, found.vectors)
        print(f"{output}: {len(found.words):,} words of level {level}, from {int(found.counts.sum()):,} occurrences")
    return DONE
