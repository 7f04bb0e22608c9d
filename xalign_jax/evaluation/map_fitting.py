"""Fits maps of languages to a model: parallel lines or a dictionary in, `LanguageMaps` and scores out.

Shapes: K languages, N_l texts of language l, P pairs, D the model's width.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.fitting import INTO_PIVOT, Method, fit_maps
from xalign_jax.alignment.maps import WORD_MAP, level_name
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.encode import fetch, text_hashes
from xalign_jax.evaluation.inputs.parallel_text import by_key
from xalign_jax.evaluation.language_maps import Fit, LanguageMaps, identified
from xalign_jax.evaluation.loaded import LoadedModel
from xalign_jax.evaluation.measures.lexicon_induction import lexicon_induction
from xalign_jax.evaluation.measures.retrieval import retrieval

SCORED = 5000  # the most pairs whose training score is computed


class Translations(NamedTuple):
    """Texts that translate each other.

    Attributes:
      texts: of each language, the pivot first.
      pairs: (P,2) rows that translate each other, for two vocabularies; None = row i of all languages does.
      source: the file they come from, for messages.
    """

    texts: dict[str, list[str]]
    pairs: np.ndarray | None
    source: str

    @property
    def size(self) -> int:
        """P."""
        return len(next(iter(self.texts.values()))) if self.pairs is None else len(self.pairs)


class Scores(NamedTuple):
    """Accuracy of finding a translation among the texts of the fit, as it is, centred and mapped, each in [0, 1].

    Attributes:
      n: texts that were asked.
    """

    language: str
    n: int
    plain: float
    centred: float
    mapped: float


@dataclasses.dataclass(frozen=True)
class Where:
    """The vectors that are fitted. `activations.Want` describes the pooling.

    Attributes:
      space: of maps into the pivot's space: "pivot" keeps the pivot's mean, "centred" drops it.
    """

    level: int
    pooling: str = "mean"
    space: str = "pivot"


def read_parallel(files: Sequence[tuple[str, str]]) -> Translations:
    """The sentences that all files share, in the order of the first. TSV files are joined by id, others by line.

    Raises:
      UserError: a file is missing or not parallel, or no sentence is in all of them.
    """
    texts = by_key(files)
    first, *others = texts.values()
    keys = [key for key in first if all(key in other for other in others)]
    named = " and ".join(path for _, path in files)
    if not keys:
        raise UserError(f"{named}: no sentence is in all files")
    if left := len(first) - len(keys):
        print(f"{named}: {left} of {len(first)} sentences are not in all files; left out", file=sys.stderr)
    return Translations({name: [side[key] for key in keys] for name, side in texts.items()}, None, named)


def read_words(path: str, languages: tuple[str, str]) -> Translations:
    """The words of a dictionary file (`data.lexicon.files`), in order of first appearance, and their pairs."""
    rows: tuple[dict[str, int], dict[str, int]] = {}, {}
    pairs = []
    for entry in read_dictionary(path, languages).entries:
        sides: tuple[list[int], list[int]] = [], []
        for language, word in entry.words:
            sides[language].append(rows[language].setdefault(word, len(rows[language])))
        pairs += [(source, target) for source in sides[0] for target in sides[1]]
    if not pairs:
        raise UserError(f"{path}: no pair of words there")
    return Translations(dict(zip(languages, map(list, rows), strict=True)), np.array(pairs), path)


def trained_weight(model: LoadedModel, level: int) -> np.ndarray:
    """W (D,D) float64 that the objective LinearWords trained at a level, of the heads that were read with the model.

    Raises:
      UserError: no such map is there.
    """
    maps, name = model.model.heads.get(WORD_MAP, {}), level_name(level)
    if name not in maps:
        known = ", ".join(maps) or "none"
        raise UserError(
            f"{model.path}: no map of level {level} was trained there (maps there: {known}); "
            "recipes/linear_words.gin trains one"
        )
    return np.asarray(fetch(maps[name]), np.float64)


def fit_to(model: LoadedModel, data: Translations, method: Method, where: Where) -> tuple[LanguageMaps, list[Scores]]:
    """Maps of the languages at a level of the model, and scores on the same texts.

    Raises:
      UserError: a level or a pooling that does not exist, or too few pairs for the method (`fit_maps`).
    """
    Want((where.level,), (where.pooling,)).check(model.model)
    vectors = {name: model.encode(texts, where.level, where.pooling) for name, texts in data.texts.items()}
    maps = fit_vectors(model, vectors, data, method, where)
    return maps, [_scores(maps, vectors, data, name) for name in maps.languages[1:]]


def fit_vectors(
    model: LoadedModel, vectors: Mapping[str, np.ndarray], data: Translations, method: Method, where: Where
) -> LanguageMaps:
    """`fit_to` for vectors (N_l,D) of the texts that are known already."""
    checked.choice("maps", "space", where.space, ("pivot", "centred"))
    network = model.model
    fit = Fit(
        level=where.level,
        layers=network.num_layers,
        model=identified(network),
        method=method.name,
        pooling=where.pooling,
        n=data.size,
        space=where.space if method.name in INTO_PIVOT else "own",
    )
    means = {
        name: np.asarray(side if data.pairs is None else side[data.pairs[:, k]], np.float64).mean(0)
        for k, (name, side) in enumerate(vectors.items())
    }
    pivot = next(iter(data.texts.values()))
    return LanguageMaps(fit_maps(vectors, method, data.pairs), means, fit, text_hashes(pivot))


def _scores(maps: LanguageMaps, vectors: Mapping[str, np.ndarray], data: Translations, language: str) -> Scores:
    """The scores of a language and the pivot, both ways for sentences, from the pivot for words."""
    pivot = maps.languages[0]
    sides = [pivot, language]
    ways = [{name: vectors[name] for name in sides}]
    ways += [{name: one.apply(name, vectors[name]) for name in sides} for one in (maps.centring(), maps)]
    if data.pairs is None:
        first, second = (data.texts[name][:SCORED] for name in sides)
        found = [
            retrieval(way[pivot][:SCORED], way[language][:SCORED], source_texts=first, target_texts=second)
            for way in ways
        ]
        return Scores(language, len(first), *((one.forward + one.backward) / 2 for one in found))
    words, others = (data.texts[name] for name in sides)
    gold = [(words[source], others[target]) for source, target in data.pairs[:SCORED]]
    induced = [lexicon_induction(way[pivot], way[language], words, others, gold, at=(1,)) for way in ways]
    return Scores(language, induced[0].asked, *(one.precision[1] for one in induced))
