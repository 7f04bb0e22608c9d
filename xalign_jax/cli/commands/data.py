"""`xalign data`: prepare, preview or count a recipe's text, or find out how many pieces its vocabulary needs."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xalign_jax.api import read_recipe
from xalign_jax.cli.arguments import Commands, add_command, add_gin, named, path, show
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.recipe import Recipe, Runtime

ROWS = 4  # rows of each stream that a preview shows
COLOURS = ("auto", "always", "never")


def pipeline_options(text: str) -> list[str]:
    """Options of Apache Beam, which are written as for seqio's `cache_tasks_main`. One with a comma stands in quotes."""
    found = next(csv.reader([text]), [])
    if not found or not all(option.startswith("--") for option in found):
        raise argparse.ArgumentTypeError("expected options such as --runner=DirectRunner,--direct_num_workers=2")
    return found


def sizes(text: str) -> list[int]:
    """Rising numbers with commas between them."""
    found = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(found) < 2 or len(found) != len(text.split(",")) or found != sorted({*found}):
        raise argparse.ArgumentTypeError("expected two or more rising numbers, such as 2000,4000,8000")
    return found


# Option -> (the actions that read it, its settings).
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "--pipeline_options": (
        ("prepare",),
        {
            "type": pipeline_options,
            "metavar": "--NAME=VALUE,...",
            "help": "prepare: on an engine of Apache Beam, with these options, such as --runner=DirectRunner",
        },
    ),
    "--stream": (("preview",), {"type": named, "metavar": "NAME", "help": "preview: only this stream"}),
    "--step": (
        ("preview",),
        {"type": int, "metavar": "N", "help": "preview: this step, from 0 over all stages; else each stage's first"},
    ),
    "--rows": (("preview",), {"type": int, "metavar": "N", "help": f"preview: rows of each stream; else {ROWS}"}),
    "--color": (("preview",), {"choices": COLOURS, "help": "preview: colours; auto = where stdout is a terminal"}),
    "--html": (("preview",), {"type": path, "metavar": "FILE", "help": "preview: write one page, and print no rows"}),
    "--sizes": (("sizes",), {"type": sizes, "metavar": "N,N,...", "help": "sizes: numbers of pieces to try"}),
    "--least_gain": (
        ("sizes",),
        {"type": float, "metavar": "NATS", "help": "sizes: stop at the first size that gains less a line; else 5"},
    ),
    "--output": (
        ("stats",),
        {"type": path, "metavar": "DIR", "help": "stats: write a page with plots, and the numbers"},
    ),
}


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "data", run, "Prepare, preview or count a recipe's text.")
    add_gin(parser)
    parser.add_argument("action", choices=("prepare", "preview", "stats", "sizes"), help="what to do with the text")
    for option, (_, settings) in OPTIONS.items():
        parser.add_argument(option, **settings)


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Prepare the text in any case, then show words, batches, counts or sizes of vocabularies."""
    from xalign_jax.data import statistics
    from xalign_jax.training import checks, leaks, stages

    _check(options)
    recipe, runtime = read_recipe(options.gin_file, bindings)
    # The recipe is checked, and its text prepared, for all actions.
    checks.check(recipe)
    stages.prepare_data(recipe, options.pipeline_options or ())
    # Statistics open the data themselves, one part after another.
    if options.action == "stats":
        _stats(recipe, options, bindings)
    elif options.action == "preview":
        _preview(recipe, runtime, options, bindings)
    elif options.action == "sizes":
        _sizes(recipe, options)
    else:
        corpus = stages.load_data(recipe)
        show(statistics.words(corpus))
        leaks.check(recipe, corpus, runtime.leaks)
    return DONE


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for an option that the action does not read, or that has no meaning. Nothing is read before."""
    from xalign_jax.runtime import storage

    for option, (actions, _) in OPTIONS.items():
        if options.action not in actions and getattr(options, option.removeprefix("--")) is not None:
            raise UserError(
                f"{option}: an option of `xalign data {actions[0]}`; data {options.action} does not read it"
            )
    if options.rows is not None and options.rows < 1:
        raise UserError(f"--rows={options.rows}: a preview shows at least 1 row")
    if options.action == "sizes" and not options.sizes:
        raise UserError("--sizes: name the numbers of pieces to try, such as --sizes=2000,4000,8000")
    if options.html is not None:
        _check_file("--html", options.html)
    if options.output is not None:
        storage.check_writable("--output", options.output)


def _check_file(option: str, file: Path) -> None:
    """Raise UserError if a file cannot be written, before there is any work to lose."""
    from xalign_jax.runtime import storage

    if file.is_dir():
        raise UserError(f"{option}={file}: a folder; name a file in it, such as {file / 'page.html'}")
    storage.check_writable(option, file.parent)


def _preview(recipe: Recipe, runtime: Runtime, options: argparse.Namespace, bindings: list[str]) -> None:
    """Show rows of the streams' batches, as training would read them."""
    import jax
    from tqdm import tqdm

    from xalign_jax.reports import preview_lines, preview_page
    from xalign_jax.training import build, previews, stages

    # Masks need little arithmetic, and the accelerators may be busy with a run.
    jax.config.update("jax_platforms", "cpu")
    corpus = stages.load_data(recipe)
    chosen = previews.choose(stages.plan(recipe, corpus), options.stream, options.step)
    model = build.build_model(recipe, runtime, corpus.tokenizer)
    found = previews.previews(chosen, corpus, model, recipe.seed, options.rows or ROWS)
    if options.html is None:
        paint = preview_lines.coloured if _colours(options.color) else preview_lines.plain
        for preview in found:
            show(preview_lines.lines(preview, paint))
        return
    shown = list(tqdm(found, "streams", len(chosen), disable=len(chosen) * (options.rows or ROWS) < 100))
    text = preview_page.preview_page(_title(options), [_command(options, bindings)], shown)
    _write(options.html.parent, {options.html.name: text.encode()})
    print(f"{options.html}: {len(shown)} streams, {len(text.encode()) / 1e3:,.0f} kB")


def _colours(wanted: str | None) -> bool:
    """Whether to write colours: as asked, else if stdout is a terminal that shows them (https://no-color.org)."""
    if wanted in ("always", "never"):
        return wanted == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _stats(recipe: Recipe, options: argparse.Namespace, bindings: list[str]) -> None:
    """Show each count before the step that may fail for lack of it: words before the dictionary, words before facts."""
    from tqdm import tqdm

    from xalign_jax.data import corpus, statistics
    from xalign_jax.data.cleaning import stored
    from xalign_jax.reports import data_page
    from xalign_jax.training import drawn, stages

    # Texts, then dictionary, then facts, each opened on top of the one before.
    data = corpus.open_texts(recipe.vocabulary, stages.mixtures(recipe), cleaning=recipe.cleaning)
    counts, groups = statistics.counts(data), statistics.parallelism(data)
    show(statistics.texts(data, counts))
    show([*statistics.groups(groups), *statistics.fields(data), *statistics.borders(data)])
    duplicates = stored.duplicates(data.tokenizer, data.stores)
    show(stored.table(duplicates))
    found: dict[str, Any] = {
        "vocabulary": {"pieces": data.tokenizer.base_size, "rows": data.tokenizer.size},
        "texts": [one._asdict() for one in counts],
        "parallelism": groups,
        "duplicates": [one._asdict() for one in duplicates],
    }
    if recipe.lexicon is not None:
        data = data.with_lexicon(recipe.lexicon)
        coverage = statistics.coverage(data)
        show([*statistics.words(data), *statistics.covered(data, coverage)])
        if data.lexicon is not None:
            found["dictionary"] = {"entries": statistics.entries(data.lexicon), "coverage": coverage}
    if recipe.facts is not None and corpus.tells_facts(stages.mixtures(recipe)):
        data = data.with_facts(recipe.facts)
        show(statistics.facts(data))
    # Building the feeds packs and mixes, which has counts of its own.
    planned = stages.plan(recipe, data)
    feeds = {name: feed.feed for stage in planned for name, feed in stage.feeds.items()}
    show(statistics.packing(feeds))
    for stage in planned:
        # The first and the last step, and three steps between them.
        steps = sorted({stage.first_step + (stage.stage.steps - 1) * quarter // 4 for quarter in range(5)})
        show([line for name, feed in stage.feeds.items() for line in drawn.rates(name, feed, steps)])
    show(stages.lowered(planned))
    if options.output is None:
        return
    found["packing"] = {name: dict(feed.report) for name, feed in feeds.items()}
    read = [(stage, name) for stage in planned for name in stage.feeds]
    found["drawn"] = [
        dataclasses.asdict(drawn.drawn(stage, name, data))
        for stage, name in tqdm(read, "streams", delay=2, leave=False)
    ]
    files = data_page.files(f"{_title(options)}: data", _command(options, bindings), found)
    _write(options.output, files)
    print(f"{options.output}: {', '.join(files)}")


def _sizes(recipe: Recipe, options: argparse.Namespace) -> None:
    """Train vocabularies of several sizes on a sample of the text, and show how probable they make it."""
    from xalign_jax.data import vocabulary_sizes
    from xalign_jax.training import stages

    if not recipe.vocabulary.trained:
        raise UserError(
            "xalign data sizes: the recipe's vocabulary is given (Vocabulary.kind, .path), and so is its size"
        )
    corpus = stages.load_data(recipe)
    texts = vocabulary_sizes.sample(corpus.stores, corpus.tokenizer)
    least = vocabulary_sizes.LEAST_GAIN if options.least_gain is None else options.least_gain
    print(f"{len(texts):,} lines of training text")
    found = vocabulary_sizes.tried(texts, recipe.vocabulary, options.sizes, least)
    for line in vocabulary_sizes.lines(found, least):
        print(line, flush=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each completely or not at all. Raises RunError if one cannot be written."""
    from xalign_jax.runtime import storage

    with storage.writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        storage.write_atomically(folder / name, content)


def _title(options: argparse.Namespace) -> str:
    return Path(options.gin_file[-1]).stem


def _command(options: argparse.Namespace, bindings: list[str]) -> str:
    """The options that say which recipe is shown."""
    return " ".join([*(f"--gin_file={file}" for file in options.gin_file), *(f"--gin.{each}" for each in bindings)])
