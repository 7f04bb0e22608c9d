"""A model directory in another place: which files of its run are gone, and what the directory carries in their stead.

A directory carries the vocabulary and the words of the dictionary. It does not carry text: that may be large, and it may
not be passed on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from xalign_jax.data.corpus import Corpus, tells_facts
from xalign_jax.data.lexicon.lexicon import LexiconTable
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe, Stage, located, resolve
from xalign_jax.records.files import read_environment
from xalign_jax.runtime.restore import newest_params
from xalign_jax.runtime.storage import as_local
from xalign_jax.training import stages

# An absolute path on this machine, alone or in the name of a task ("tsv:en=/a.tsv,de=/b.tsv"). URLs mean the same
# everywhere.
_PATH = re.compile(r"(?<![^=:,])/(?!/)[^,]*")


class Named(NamedTuple):
    """A path that a recipe names, the gin binding that holds it, and the value of the binding with "PATH" in it."""

    path: str
    binding: str
    value: str


def moved(then: object, now: object) -> bool:
    """Whether two absolute spellings name the same kind of files, and each file that differs is gone from its old place."""
    if not isinstance(then, str) or not isinstance(now, str) or _PATH.sub("", then) != _PATH.sub("", now):
        return False
    pairs = list(zip(_PATH.findall(then), _PATH.findall(now), strict=True))
    return bool(pairs) and all(old == new or not Path(old).exists() for old, new in pairs)


def here(recipe: Recipe, model_dir: Path | epath.Path, probes: bool) -> Recipe:
    """The recipe with which the data of a run is opened here.

    A vocabulary or a dictionary whose file is gone is replaced by what the directory carries: `complete` adds the words.
    So is a vocabulary that was trained on text which lies elsewhere now. Another version of SentencePiece might not train
    the same one again.

    Args:
      probes: the files of the recipe's probes are needed too.

    Raises:
      UserError: a text is gone. The message names it and the binding that says where it is now.
    """
    # Before its first checkpoint a run holds nothing that other text could contradict.
    if newest_params(model_dir) is None:
        return recipe
    if lost := lost_texts(recipe, probes):
        path, binding, value = lost[0]
        others = dict.fromkeys(one.binding for one in lost if one.binding != binding)
        more = f", and likewise {', '.join(f'--gin.{other}' for other in others)}" if others else ""
        raise UserError(
            f"{path}: no such file, and {model_dir} does not hold this text; say where it is now: "
            f"--gin.{binding}='{value}'{more}"
        )
    vocabulary, lexicon, facts = recipe.vocabulary, recipe.lexicon, recipe.facts
    gone = vocabulary.path is not None and _gone(resolve(vocabulary.path))
    if gone or (vocabulary.trained and _tasks(located(recipe)) != _recorded_tasks(model_dir)):
        vocabulary = dataclasses.replace(vocabulary, path=str(model_dir / "vocabulary"))
    if _lost_dictionary(recipe, model_dir):
        lexicon, facts = None, None
    return dataclasses.replace(recipe, vocabulary=vocabulary, lexicon=lexicon, facts=facts)


def complete(recipe: Recipe, corpus: Corpus, model_dir: Path | epath.Path) -> Corpus:
    """The corpus of `here`, with the words and the facts of the directory where the recipe's own files are gone."""
    if recipe.lexicon is None or corpus.lexicon is not None:
        return corpus
    return _with_words(recipe, corpus, model_dir)


def words_alone(recipe: Recipe, tokenizer: Tokenizer, model_dir: Path) -> Corpus:
    """A corpus without texts, with the words and the facts of the directory.

    Raises:
      UserError: the words are missing or damaged.
    """
    return _with_words(recipe, Corpus(tokenizer, {}, None, None), model_dir)


def _with_words(recipe: Recipe, corpus: Corpus, model_dir: Path | epath.Path) -> Corpus:
    with as_local(model_dir / "lexicon") as folder:
        table = LexiconTable.load(folder, corpus.tokenizer, recipe.lexicon.languages if recipe.lexicon else ())
    corpus = dataclasses.replace(corpus, lexicon=table)
    tells = recipe.facts is not None and tells_facts(stages.mixtures(recipe))
    return corpus.with_facts(recipe.facts) if recipe.facts is not None and tells else corpus


def _tasks(recipe: Recipe) -> set[str]:
    return {task for mixture in stages.mixtures(recipe) for task in mixture.tasks}


def _recorded_tasks(model_dir: Path | epath.Path) -> set[str]:
    """The tasks that the run of a directory read, with absolute paths."""
    known = read_environment(model_dir).get("located", {}).get("stages", ())
    mixtures = [stream["mixture"] for stage in known for stream in stage["streams"] if stream["mixture"]]
    return {task for mixture in mixtures for task in mixture["tasks"]}


def _lost_dictionary(recipe: Recipe, model_dir: Path | epath.Path) -> bool:
    """Whether a file of the dictionary is gone and the directory has its words."""
    gone = recipe.lexicon is not None and any(_gone(resolve(path)) for path, _, _ in recipe.lexicon.files)
    return gone and (model_dir / "lexicon" / "lexicon.tsv").exists()


def lost_texts(recipe: Recipe, probes: bool = False) -> list[Named]:
    """The texts that the recipe names and that are gone, once for each binding that names them."""
    streams = [(f"{one.name}/Mixture.tasks", one.mixture) for one in stages.streams(recipe)]
    named = [one for label, mixture in streams if mixture is not None for one in _named(label, mixture, "tasks")]
    if probes:
        named += [one for stage in recipe.stages for one in _of_probes(stage)]
    return [one for one in named if _gone(one.path)]


def _of_probes(stage: Stage) -> Iterator[Named]:
    for probe in stage.probes:
        if dataclasses.is_dataclass(probe):
            for field in dataclasses.fields(probe):
                if "located" in field.metadata:
                    yield from _named(f"{stage.name}/{type(probe).__name__}.{field.name}", probe, field.name)


def _named(binding: str, config: Any, name: str) -> Iterator[Named]:
    """The paths in a field that holds some."""
    field = next(one for one in dataclasses.fields(config) if one.name == name)
    value = field.metadata["located"](getattr(config, name))
    for path in dict.fromkeys(_paths(value)):
        yield Named(path, binding, repr(value).replace(path, "PATH").replace("'", '"'))


def _paths(value: Any) -> Iterator[str]:
    """The paths in strings that stand anywhere in a value."""
    if isinstance(value, str):
        yield from _PATH.findall(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _paths(item)


def _gone(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and not Path(path).exists()
