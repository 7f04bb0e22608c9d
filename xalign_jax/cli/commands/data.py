"""`xalign data`: prepare, preview or count a recipe's text."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xalign_jax.cli.arguments import Commands, add_command, add_gin, show
from xalign_jax.cli.exits import DONE
from xalign_jax.cli.loading import load_recipe

if TYPE_CHECKING:
    from xalign_jax.recipe import Recipe


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "data", run, "Prepare, preview or count a recipe's text.")
    add_gin(parser)
    parser.add_argument("action", choices=("prepare", "preview", "stats"), help="what to do with the text")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Prepare the text in any case, then show words, the first batches or counts."""
    from xalign_jax.data import preview
    from xalign_jax.training import checks, leaks, stages

    recipe, runtime = load_recipe(options, bindings)
    # The recipe is checked, and its text prepared, for all three actions.
    checks.check(recipe)
    stages.prepare_data(recipe)
    # Statistics open the data themselves, one part after another.
    if options.action == "stats":
        _stats(recipe)
        return DONE
    corpus = stages.load_data(recipe)
    if options.action == "prepare":
        show(preview.words(corpus))
        leaks.check(recipe, corpus, runtime.leaks)
        return DONE
    # The first batch of each stream, as training would read it.
    for stage in stages.plan(recipe, corpus):
        for name, feed in stage.feeds.items():
            batch = feed.batch(feed.first_step, slice(0, feed.count))
            print(preview.preview(name, batch, feed.feed.languages, corpus))
    return DONE


def _stats(recipe: Recipe) -> None:
    """Show each count before the step that may fail for lack of it: words before the dictionary, words before facts."""
    from xalign_jax.data import corpus, preview
    from xalign_jax.data.cleaning import stored
    from xalign_jax.training import stages

    # Texts, then dictionary, then facts, each opened on top of the one before.
    data = corpus.open_texts(recipe.vocabulary, stages.mixtures(recipe), cleaning=recipe.cleaning)
    show([*preview.texts(data), *preview.fields(data), *preview.borders(data)])
    show(stored.duplicates(data.tokenizer, data.stores))
    if recipe.lexicon is not None:
        data = data.with_lexicon(recipe.lexicon)
        show([*preview.words(data), *preview.coverage(data)])
    if recipe.facts is not None and corpus.tells_facts(stages.mixtures(recipe)):
        data = data.with_facts(recipe.facts)
        show(preview.facts(data))
    # Building the feeds packs and mixes, which has counts of its own.
    planned = stages.plan(recipe, data)
    show(preview.packing({name: feed.feed for stage in planned for name, feed in stage.feeds.items()}))
    for stage in planned:
        # The first and the last step, and three steps between them.
        steps = sorted({stage.first_step + (stage.stage.steps - 1) * quarter // 4 for quarter in range(5)})
        show([line for name, feed in stage.feeds.items() for line in preview.rates(name, feed, steps)])
    show(stages.lowered(planned))
