"""Linear maps between languages: sentence retrieval and lexicon induction with and without them, on held-out text.

python benchmarks/maps.py sentences MODEL NTREX_FOLDER [--languages deu fra ...] [--levels 4 8 12]
python benchmarks/maps.py within MODEL NTREX_FOLDER [--languages deu eus] [--level=4] [--levels 4 8 12]
python benchmarks/maps.py words MODEL FREEDICT_FOLDER [--languages de hi tr] [--levels 4 8]

`sentences` fits on the first lines and scores on the others, at each level apart. `within` maps the states of one level
inside the model and scores the levels above, too. `words` reads files en-XX.tsv. It splits each dictionary by source
word, fits on one half and scores the other; the vocabularies hold the words of both halves. English is the pivot.
Intervals of 95 % come from a bootstrap over sentences or words.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xalign_jax.alignment.fitting import Method
from xalign_jax.api import load, start_jax
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.text.lines import read_lines
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.loaded import LoadedModel
from xalign_jax.evaluation.map_fitting import Translations, Where, fit_vectors
from xalign_jax.evaluation.measures.lexicon_induction import lexicon_induction
from xalign_jax.evaluation.measures.retrieval import retrieval
from xalign_jax.evaluation.measures.statistics import bootstrap_mean

PIVOT = "eng"


def cell(hits: np.ndarray) -> str:
    """A mean in per cent with its interval."""
    found = bootstrap_mean(np.asarray(hits, np.float64), seed=0)
    return f"{100 * np.mean(hits):.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def head(title: str, columns: Sequence[str]) -> None:
    """Print the head of a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)


def line(cells: Sequence[str]) -> None:
    """Print a row of a table, as soon as it is known."""
    print(f"| {' | '.join(cells)} |", flush=True)


def both_ways(sides: Iterable[np.ndarray], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) accuracy of each sentence, the mean of both directions."""
    first, second = sides
    found = retrieval(first, second, source_texts=texts[0], target_texts=texts[1])
    return (np.asarray(found.forward_hits, np.float64) + found.backward_hits) / 2


def read_ntrex(folder: Path, languages: Sequence[str]) -> dict[str, list[str]]:
    """The lines of each language."""
    return {name: [text for _, text in read_lines(str(next(folder.glob(f"{name}.txt*"))))] for name in languages}


def by_level(
    model: LoadedModel, texts: Sequence[str], levels: Sequence[int], language: str | None = None
) -> dict[int, np.ndarray]:
    """{level: (N,D)} mean states in one pass."""
    found = {level: np.zeros((len(texts), model.model.width), np.float32) for level in levels}
    for part in model.capture(texts, Want(tuple(levels)), language):
        for level in levels:
            found[level][part.numbers] = part.pooled["mean"][level]
    return found


def chosen_ridge(
    model: LoadedModel, vectors: Mapping[str, np.ndarray], texts: dict[str, list[str]], where: Where
) -> Method:
    """The ridge that is best on the last fifth of the fitted lines, fitted on the others."""
    cut = len(next(iter(texts.values()))) * 4 // 5
    data = Translations({name: lines[:cut] for name, lines in texts.items()}, None, "")
    first, second = texts

    def score(method: Method) -> float:
        maps = fit_vectors(model, {name: side[:cut] for name, side in vectors.items()}, data, method, where)
        sides = [maps.apply(name, vectors[name][cut:]) for name in (first, second)]
        return float(both_ways(sides, [texts[name][cut:] for name in (first, second)]).mean())

    return max((Method("ridge", strength) for strength in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)), key=score)


def sentences(options: argparse.Namespace) -> None:
    """Retrieval among the lines after those of the fit. Languages are read and printed one by one."""
    model, fitted = load(options.model), options.fitted
    texts = read_ntrex(options.folder, [PIVOT, *options.languages])
    methods = ("centring", "procrustes", "least_squares", "ridge", "cca")
    size = len(texts[PIVOT])
    title = f"{fitted} lines fitted, {size - fitted} scored: accuracy in per cent, mean of both directions"
    head(title, ["language", "level", "as it is", *methods, "strength of ridge"])
    english = by_level(model, texts[PIVOT], options.levels)
    for name in options.languages:
        other = by_level(model, texts[name], options.levels)
        for level in options.levels:
            both = {PIVOT: english[level], name: other[level]}
            seen = {one: side[:fitted] for one, side in both.items()}
            data = Translations({one: texts[one][:fitted] for one in both}, None, "")
            held = [texts[one][fitted:] for one in both]
            where = Where(level, space="centred")
            cells = [cell(both_ways((side[fitted:] for side in both.values()), held))]
            chosen = chosen_ridge(model, seen, data.texts, where)
            for method in methods:
                maps = fit_vectors(model, seen, data, chosen if method == "ridge" else Method(method), where)
                cells.append(cell(both_ways((maps.apply(one, side[fitted:]) for one, side in both.items()), held)))
            line([name, str(level), *cells, f"{chosen.strength:g}"])


def within(options: argparse.Namespace) -> None:
    """Retrieval at several levels of a model whose states are mapped at one level."""
    model, fitted = load(options.model), options.fitted
    names = [PIVOT, *options.languages]
    texts = read_ntrex(options.folder, names)
    seen = Translations({name: lines[:fitted] for name, lines in texts.items()}, None, "")
    held = {name: lines[fitted:] for name, lines in texts.items()}
    vectors = {name: model.encode(lines, options.level) for name, lines in seen.texts.items()}
    plain = {name: by_level(model, lines, options.levels) for name, lines in held.items()}
    found = {"as it is": plain}
    for method in ("centring", "procrustes"):
        for space in ("centred", "pivot"):
            mapped = model.mapped(fit_vectors(model, vectors, seen, Method(method), Where(options.level, space=space)))
            found[f"{method}, {space}"] = {n: by_level(mapped, lines, options.levels, n) for n, lines in held.items()}
    head(
        f"mapped at level {options.level}: {fitted} lines fitted, {len(held[PIVOT])} scored",
        ["language", "level", *found],
    )
    for name in options.languages:
        for level in options.levels:
            sides = [(way[PIVOT][level], way[name][level]) for way in found.values()]
            line([name, str(level), *(cell(both_ways(side, [held[PIVOT], held[name]])) for side in sides)])


def read_split(path: Path, language: str, words: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs (fitted, scored) of single words: every second source word is scored. Equal strings are left out."""
    halves: tuple[list[tuple[str, str]], list[tuple[str, str]]] = [], []
    entries = read_dictionary(str(path), ("en", language), max_words=1).entries
    single = [entry for entry in entries if entry.words[0][1].isalpha() and entry.words[0][1].islower()]
    # Evenly over the alphabet: dictionaries are in its order.
    for number, entry in enumerate(single[:: max(1, len(single) // words)][:words]):
        source, *targets = (word for _, word in entry.words)
        halves[number % 2].extend((source, word) for word in targets if word != source)
    return halves


def induced(
    sides: Sequence[np.ndarray], words: Sequence[Sequence[str]], gold: Sequence[tuple[str, str]]
) -> tuple[str, float]:
    """P@1 by CSLS with its interval, and coverage. `sides` and `words` are (source, target)."""
    found = lexicon_induction(sides[0], sides[1], words[0], words[1], gold, at=(1,))
    return cell(found.hits[1]), found.coverage


def words(options: argparse.Namespace) -> None:
    """Lexicon induction among the words of both halves of a dictionary."""
    model = load(options.model)
    methods = (
        Method("centring"),
        Method("procrustes"),
        Method("ridge", 1.0),
        Method("vecmap"),
    )
    columns = ["pair", "level", "pairs fitted", "words asked", "source words", "target words", "coverage", "as it is"]
    head("P@1 in per cent by CSLS (k = 10) over all target words", [*columns, *(method.name for method in methods)])
    for language in options.languages:
        seen, held = read_split(next(options.folder.glob(f"en-{language}.tsv*")), language, options.words)
        both = [list(dict.fromkeys(side)) for side in zip(*seen, *held, strict=True)]
        place = [{word: row for row, word in enumerate(side)} for side in both]
        pairs = np.array([[place[0][source], place[1][target]] for source, target in seen])
        data = Translations(dict(zip(("en", language), both, strict=True)), pairs, "")
        states = [by_level(model, side, options.levels) for side in both]
        for level in options.levels:
            vectors = {name: side[level] for name, side in zip(data.texts, states, strict=True)}
            found = [induced([*vectors.values()], both, held)]
            for method in methods:
                maps = fit_vectors(model, vectors, data, method, Where(level, space="centred"))
                found.append(induced([maps.apply(name, side) for name, side in vectors.items()], both, held))
            sizes = (len(seen), len({source for source, _ in held}), *map(len, both))
            line([f"en-{language}", str(level), *map(str, sizes), f"{found[0][1]:.2f}", *(text for text, _ in found)])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sentences", "within", "words"))
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--languages", nargs="+", default=[])
    parser.add_argument("--levels", nargs="+", type=int, default=[4, 8, 12])
    parser.add_argument("--level", type=int, default=4)
    parser.add_argument("--fitted", type=int, default=500)
    parser.add_argument("--words", type=int, default=2000)
    options = parser.parse_args()
    defaults = {
        "sentences": ["deu", "fra", "eus", "swa", "hin", "tur"],
        "within": ["deu", "eus"],
        "words": ["de", "hi", "tr"],
    }
    options.languages = options.languages or defaults[options.what]
    start_jax("highest")
    {"sentences": sentences, "within": within, "words": words}[options.what](options)


if __name__ == "__main__":
    main()
