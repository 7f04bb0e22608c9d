"""Word translation by the models of the question `loop`: all models of a pair of languages are asked the same words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from study.experiments import LOOP_DICTIONARIES
from xalign_jax.api import load
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.lexicon.model1 import bare
from xalign_jax.data.text.readers import source_reader
from xalign_jax.evaluation.measures.lexicon_induction import lexicon_induction
from xalign_jax.recipe import Recipe

LEAST = 5  # times that a word occurs in the training text
LEVELS = (0, 2)


def measured(directory: Path, recipe: Recipe) -> dict[str, float]:
    """{"gold/LEVEL": share of FreeDict's words whose nearest word is a listed translation}; {} without a FreeDict.

    Words are asked, and searched among, that occur `LEAST` times in the training text of their language. The nearest
    one is found by CSLS on mean states, with each language's mean vector subtracted.
    """
    if recipe.lexicon is None:
        return {}
    source, target = recipe.lexicon.languages[:2]
    gold = LOOP_DICTIONARIES.get(target, {}).get("freedict")
    if gold is None:
        return {}
    words = frequent_words(recipe.stages[-1].streams[0].mixture.tasks[0])
    entries = read_dictionary(gold, (source, target)).entries
    pairs = [(bare(entry.words[0][1]), bare(word)) for entry in entries for index, word in entry.words if index]
    model, found = load(directory), {}
    for level in LEVELS:
        vectors = [model.encode(words[language], level=level) for language in (source, target)]
        centred = [of_language - of_language.mean(0) for of_language in vectors]
        result = lexicon_induction(centred[0], centred[1], words[source], words[target], pairs, at=(1,))
        found[f"gold/{level}"] = result.precision[1]
    return found


def frequent_words(task: str) -> dict[str, list[str]]:
    """Language -> its frequent words in a task's training text: sorted, without case and punctuation at their ends."""
    reader = source_reader(task)
    counts: dict[str, Counter[str]] = {}
    for example in reader.read("train") if reader else ():
        counts.setdefault(example.document.language, Counter()).update(map(bare, example.document.text.split()))
    return {
        language: sorted(word for word, times in found.items() if times >= LEAST and any(map(str.isalpha, word)))
        for language, found in counts.items()
    }
