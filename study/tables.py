"""Tables and plots of the study, from its CSV files alone."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from study import imbalance, plots
from study.experiments import EXPERIMENTS, MULTIWAY_LANGUAGES, Experiment, select
from study.record import Row
from xalign_jax.reports.tables import markdown, mean_and_spread

Arm = dict[int, Row]  # the rows of one experiment by seed
WORDS = ("words/dictionary/2", "words/heldout/2")
MISSING = "Not run yet."


def arms(results: Sequence[Row]) -> dict[str, Arm]:
    """Rows by experiment, then by seed."""
    found: dict[str, Arm] = {}
    for row in results:
        found.setdefault(row["experiment"], {})[row["seed"]] = row
    return found


def closed(arm: Arm, joint: Arm, oracle: Arm) -> list[float]:
    """The share (J - X) / (J - O) of the clone's perplexity within its language, for each seed that all three have."""
    at = "own_ppl/2"
    return [
        (joint[seed][at] - arm[seed][at]) / (joint[seed][at] - oracle[seed][at])
        for seed in sorted(arm.keys() & joint.keys() & oracle.keys())
    ]


def cost(arm: Arm, joint: Arm, column: str = "own_ppl/1") -> list[float]:
    """X / J - 1 of a perplexity (English within its language), for each seed that both have."""
    return [arm[seed][column] / joint[seed][column] - 1 for seed in sorted(arm.keys() & joint.keys())]


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """The difference of two means and its standard error by Welch; None where a side has fewer than two values."""
    gain = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return gain, None
    return gain, math.sqrt(sum(statistics.variance(values) / len(values) for values in (first, second)))


def values(arm: Arm, column: str) -> list[float]:
    """One value for each seed that has it."""
    return [row[column] for _, row in sorted(arm.items()) if column in row]


def cell(found: Sequence[float], form: str = ".1f", scale: float = 1.0, unit: str = "") -> str:
    """Mean and sample standard deviation; "-" for no values."""
    if not found:
        return "-"
    mean, spread = mean_and_spread([value * scale for value in found])
    return f"{mean:{form}}" + ("" if spread is None else f" ± {spread:{form.lstrip('+')}}") + unit


def comparison(found: Mapping[str, Arm], names: Sequence[str], joint: str, oracle: str) -> str:
    """A line for each experiment that has rows, against a joint baseline and, where there is one, an oracle."""
    # Without an oracle there is no gap, and bits per byte stand in its column.
    j, o = found.get(joint, {}), found.get(oracle, {})
    header = ["", "seeds", "English ppl", f"against {joint}", "other ppl", f"against {joint}"]
    header += [f"gap closed ({joint}, {oracle})" if o else "bits/byte"]
    header += ["knowledge", "words, dictionary", "held out", "foreign mass", "M tokens", "train s"]
    rows = []
    for name in names:
        if arm := found.get(name):
            line = [name, str(len(arm)), cell(values(arm, "own_ppl/1")), cell(cost(arm, j), "+.1f", 100, " %")]
            line += [cell(values(arm, "own_ppl/2")), cell(cost(arm, j, "own_ppl/2"), "+.1f", 100, " %")]
            line += [cell(closed(arm, j, o), ".0f", 100, " %") if o else cell(values(arm, "bits/2"), ".3f")]
            line += [cell(values(arm, column), ".3f") for column in ("knows/2", *WORDS)]
            line += [cell(values(arm, "mass/2"), ".4f"), cell(values(arm, "tokens"), ".2f", 1e-6)]
            rows.append([*line, cell(values(arm, "train_seconds"), ".0f")])
    return markdown(header, rows) if rows else MISSING


def summary(found: Mapping[str, Arm], chosen: Sequence[Experiment]) -> str:
    """A short line for each experiment that has rows, against the joint run and the oracle of its own setting."""
    rows, oracles = [], False
    for one in chosen:
        if arm := found.get(one.name):
            j, o = (found.get(f"{name}{_suffix(one)}", {}) for name in ("J", "O"))
            oracles = oracles or bool(o)
            line = [one.name, str(len(arm)), cell(cost(arm, j), "+.1f", 100, " %")]
            line += [cell(cost(arm, j, "own_ppl/2"), "+.1f", 100, " %"), cell(values(arm, "knows/2"), ".3f")]
            rows.append([*line, cell(closed(arm, j, o), ".0f", 100, " %")])
    header = ["", "seeds", "English ppl against J", "other ppl against J", "knowledge", "gap closed"]
    # The column of the gap is left out where no setting has an oracle.
    columns = len(header) if oracles else len(header) - 1
    return markdown(header[:columns], [row[:columns] for row in rows]) if rows else MISSING


# Columns of the multi-way study: sentence retrieval into English by level, and values by the language's number.
INTO = f"sentences/{{}}{len(MULTIWAY_LANGUAGES) + 1}/"


def retrieval(found: Mapping[str, Arm], chosen: Sequence[Experiment]) -> str:
    """A line for each experiment that has rows: retrieval into English by level, and the mean bits per byte.

    The first line has the same network before training, whose parameters depend on the seed alone.
    """
    arms_ = {one.name: found[one.name] for one in chosen if one.name in found}
    if not arms_:
        return MISSING
    first = next(iter(arms_.values()))
    levels = sorted(
        name.removeprefix(INTO.format("")) for name in next(iter(first.values())) if name.startswith(INTO.format(""))
    )
    most = max(arms_.values(), key=len)
    fresh = [cell(values(most, INTO.format("untrained/") + level), ".3f") for level in levels]
    rows = [["untrained", str(len(most)), *fresh, "-", "-"]]
    for name, arm in arms_.items():
        by_level = [cell(values(arm, INTO.format("") + level), ".3f") for level in levels]
        bits = [statistics.fmean(row[f"bits/{n}"] for n, _ in enumerate(MULTIWAY_LANGUAGES, 1)) for row in arm.values()]
        rows.append([name, str(len(arm)), *by_level, cell(bits, ".3f"), cell(values(arm, "train_seconds"), ".0f")])
    return markdown(["", "seeds", *(f"level {level}" for level in levels), "bits/byte", "train s"], rows)


def languages(found: Mapping[str, Arm], chosen: Sequence[Experiment]) -> str:
    """A line for each experiment that has rows: the perplexity of every language."""
    rows = [
        [one.name, *(cell(values(found[one.name], f"ppl/{n}"), ".0f") for n, _ in enumerate(MULTIWAY_LANGUAGES, 1))]
        for one in chosen
        if one.name in found
    ]
    return markdown(["", *MULTIWAY_LANGUAGES], rows) if rows else MISSING


# Sentence retrieval of the question `loop`: its column by direction (the languages 3 and 4 of a row) and level.
DIRECTIONS = ("sentences/3/{}", "sentences/4/{}")


def dictionaries(found: Mapping[str, Arm], chosen: Sequence[Experiment]) -> str:
    """A line for each experiment that has rows: perplexities, and words and sentences that are found, of 1."""
    rows = []
    for one in chosen:
        if arm := found.get(one.name):
            j = found.get(f"J{_suffix(one)}", {})
            line = [one.name, str(len(arm)), cell(values(arm, "own_ppl/1")), cell(cost(arm, j), "+.1f", 100, " %")]
            line += [cell(values(arm, "own_ppl/2")), cell(cost(arm, j, "own_ppl/2"), "+.1f", 100, " %")]
            line += [cell(values(arm, column), ".3f") for column in ("knows/2", *WORDS)]
            line.append(cell(values(arm, "gold/2"), ".3f"))
            # The mean of both directions, for each seed.
            for level in (0, 2):
                pairs = zip(*(values(arm, column.format(level)) for column in DIRECTIONS), strict=True)
                line.append(cell([statistics.fmean(pair) for pair in pairs], ".3f"))
            rows.append(line)
    header = ["", "seeds", "English ppl", "against J", "other ppl", "against J", "knowledge", "own words", "held out"]
    return markdown([*header, "FreeDict words", "sentences, level 0", "level 2"], rows) if rows else MISSING


# Compared between two experiments: perplexities by their ratio, knowledge by its difference.
COMPARED = {"English ppl": "own_ppl/1", "other ppl": "own_ppl/2", "knowledge": "knows/2"}


def differences(found: Mapping[str, Arm], pairs: Sequence[tuple[str, str]]) -> str:
    """A line for each (experiment, baseline) that both have rows: the first's gain, also in standard errors."""
    rows = []
    for first, second in pairs:
        arm, against = found.get(first), found.get(second)
        if arm and against:
            line = [f"{first} against {second}", f"{len(arm)}, {len(against)}"]
            rows.append([*line, *(_more(at, values(arm, at), values(against, at)) for at in COMPARED.values())])
    return markdown(["", "seeds", *COMPARED], rows) if rows else MISSING


def _more(column: str, first: Sequence[float], second: Sequence[float]) -> str:
    """The gain of the first over the second, with the number of standard errors if it is known."""
    if not first or not second:
        return "-"
    gain, error = difference(first, second)
    shown = f"{gain:+.3f}" if column == "knows/2" else f"{100 * gain / statistics.fmean(second):+.1f} %"
    return shown + (f" ({abs(gain) / error:.1f} se)" if error else "")


# Joint and oracle baselines: trained in one stage; with two warm-ups; with a kept contrast that cannot align.
BASELINES = [("J", "O"), ("J-restart", "O-restart"), ("K-random", "O-K")]
# Question -> how the names of its own J and O end.
SUFFIXES = {"init": "-std0.02", "clone-50-50": "-50-50", "clone-4m": "-4m", "clone-4m-50-50": "-4m-50-50"}
PAIRS = ("-en-de", "-en-fr", "-en-ru")
HELP_PAIRS = ("-help-de", "-help-eu")
# Comparisons for every question of the clone study, and for every pair of real languages. There a gain counts if it
# exceeds three standard errors, also against the random dictionary.
CLONE_CLAIMS = [("PC", "J"), ("K", "J"), ("R", "J"), ("RC", "J"), ("PC", "RC"), ("K", "RC"), ("K", "K-random")]
CLONE_CLAIMS += [("HELD", "J"), ("HELD", "K"), ("HELD", "K-random"), ("K-random", "J"), ("J-restart", "J")]
CLONE_CLAIMS += [("PLUS", "J"), ("PLUS", "HELD")]
VECTOR_CLAIMS = [("J-vectors", "J"), ("HELD-vectors", "HELD"), ("HELD-vectors", "J-vectors"), ("HELD-vectors", "J")]
VECTOR_CLAIMS += [("PLUS", "J-vectors"), ("PLUS", "HELD-vectors"), ("HELD-tied-rows", "HELD-vectors")]
PAIR_CLAIMS = [("PC", "J"), ("PC", "RC"), ("K", "J"), ("K", "RC"), ("HELD", "J"), ("HELD", "HELD-random")]
PAIR_CLAIMS += [
    ("PLUS", "J"),
    ("PLUS", "PLUS-random"),
    ("PLUS", "PC"),
    ("PLUS", "PC-vectors"),
    ("PC-vectors", "J-vectors"),
]
PAIR_CLAIMS += [("J-tied-rows", "J"), ("J-tied-rows", "J-vectors"), ("J-tied-rows", "J-tied-rows-random")]
CLAIMS = [
    (f"{first}{suffix}", f"{second}{suffix}")
    for claims, suffixes in (
        (CLONE_CLAIMS, ("", *SUFFIXES.values())),
        (PAIR_CLAIMS, PAIRS),
        (VECTOR_CLAIMS, ("", *PAIRS)),
    )
    for suffix, (first, second) in itertools.product(suffixes, claims)
]


def write(results: Sequence[Row], curves: Sequence[Row], folder: Path) -> None:
    """Write `tables.md` and the plots into the folder, and fill in the tables of the paper and its appendices."""
    found = arms(results)
    parts = ["# Tables of the study", "Made by `python -m study tables`; means over seeds ± sample standard deviation."]
    for question in dict.fromkeys(one.question for one in EXPERIMENTS):
        parts.append(f"## {question}")
        if question == "imbalance":
            parts += [table(found, size) for size in imbalance.NAMED for table in imbalance.TABLES.values()]
            continue
        mine = [one for one in EXPERIMENTS if one.question == question]
        if question == "multiway":
            parts += [retrieval(found, mine), languages(found, mine)]
            continue
        if question == "loop":
            parts.append(dictionaries(found, mine))
            continue
        # Experiments of one setting share baselines, and their names end alike.
        for suffix, group in itertools.groupby(mine, _suffix):
            names, against = [one.name for one in group], [(f"{j}{suffix}", f"{o}{suffix}") for j, o in BASELINES]
            # A table for each pair of baselines that has rows.
            recorded = [pair for pair in against if found.keys() >= {*pair}] or against[:1]
            parts += [comparison(found, names, *pair) for pair in recorded]
    parts += ["## Differences", differences(found, CLAIMS)]
    (folder / "tables.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for document in documents(folder):
        document.write_text(filled(document.read_text(encoding="utf-8"), found), encoding="utf-8")
    # The imbalance study has a page and tables of its own.
    page = folder.with_name("imbalance.md")
    if page.is_file():
        page.write_text(imbalance.filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    imbalance.draw(found, folder)
    shown = ("clone", "clone-50-50", "clone-4m", "clone-4m-50-50", "search")
    plots.draw_gap({question: _points(found, question, *BASELINES[0]) for question in shown}, BASELINES[0], folder)
    plots.draw_overview(_points(found, "clone", *BASELINES[0]), folder)
    drawn = sorted({row["experiment"] for row in curves})
    plots.draw_curves({name: [row for row in curves if row["experiment"] == name] for name in drawn}, folder)


def documents(folder: Path) -> list[Path]:
    """The paper, which is the folder's neighbour with its name, its appendices in the folder, and two pages that it fills."""
    neighbours = [folder.with_suffix(".md"), *map(folder.with_name, ("multiway.md", "alignment.md"))]
    return [*(path for path in neighbours if path.is_file()), *sorted(folder.glob("appendix_*.md"))]


# Kinds of tables that have a line for each experiment and no baseline of their own.
BY_KIND = {"summary": summary, "retrieval": retrieval, "languages": languages, "dictionaries": dictionaries}


def filled(document: str, found: Mapping[str, Arm]) -> str:
    """The document with a new table below every line of one of six kinds.

    `<!-- table: WORD... -->` has a line for each experiment, with words as `select` takes them.
    `<!-- summary: WORD... -->` has the same lines with fewer columns.
    `<!-- differences: A/B... -->` has a line for each pair.
    `<!-- retrieval: WORD... -->`, `<!-- languages: WORD... -->` and `<!-- dictionaries: WORD... -->` have a line for
    each experiment.
    """

    def table(place: re.Match[str]) -> str:
        words = place["words"].split()
        if place["kind"] == "differences":
            pairs = [(first, second) for first, second in (word.split("/") for word in words)]
            return f"{place['line']}{differences(found, pairs)}\n"
        chosen = select(words)
        if shown := BY_KIND.get(place["kind"]):
            return f"{place['line']}{shown(found, chosen)}\n"
        suffix = _suffix(chosen[0])
        return f"{place['line']}{comparison(found, [one.name for one in chosen], f'J{suffix}', f'O{suffix}')}\n"

    # The marker's line, then the old table or the word for a missing one, which is replaced.
    line = rf"(?P<line><!-- (?P<kind>table|differences|{'|'.join(BY_KIND)}): (?P<words>.+) -->\n\n)"
    return re.sub(rf"{line}(?:(?:\||{re.escape(MISSING)}).*\n)*", table, document)


def _suffix(one: Experiment) -> str:
    """The ending that the names of an experiment's baselines have."""
    if one.question in ("real", "loop"):
        return next(pair for pair in (*PAIRS, *HELP_PAIRS) if one.name.endswith(pair))
    return SUFFIXES.get(one.question, "")


def _points(found: Mapping[str, Arm], question: str, joint: str, oracle: str) -> plots.Points:
    """(English cost, gap closed) of a question's experiments against its own baselines, without the oracle itself."""
    suffix = SUFFIXES.get(question, "")
    j, o = (found.get(f"{name}{suffix}", {}) for name in (joint, oracle))
    names = [one.name for one in EXPERIMENTS if one.question == question and one.name != f"{oracle}{suffix}"]
    # Seeds without an oracle have no gap.
    arms = {name: {seed: row for seed, row in found[name].items() if seed in o} for name in names if name in found}
    points = {name.removesuffix(suffix): (cost(arm, j), closed(arm, j, o)) for name, arm in arms.items()}
    return {name: (x, y) for name, (x, y) in points.items() if x}
