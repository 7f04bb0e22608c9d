"""`report.html`: everything that a model directory holds of results, as one page for people."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xalign_jax.records.files import read_environment, read_metrics, read_pictures, read_results, read_shown
from xalign_jax.reports.html import escape, page, table
from xalign_jax.reports.page import drawn, measures
from xalign_jax.reports.page.captions import counts
from xalign_jax.reports.page.sheets import Sheet, Spread, pairs, sheets, spelled
from xalign_jax.reports.page.style import STYLE
from xalign_jax.reports.page.svg import Line, line_chart
from xalign_jax.reports.tables import number

POINTS = 200  # of a curve of the loss


def write_page(model_dir: Path) -> Path:
    """Write `report.html` into a model directory; returns its path. The file needs no other file and no network.

    Raises:
      UserError: a record of the directory is damaged.
    """
    environment = read_environment(model_dir)
    found = sheets(read_results(model_dir), read_shown(model_dir))
    pictures = drawn.newest(read_pictures(model_dir))
    title = environment.get("recipe_name", model_dir.absolute().name)
    if "seed" in environment:
        title += f", seed {environment['seed']}"
    groups = [(name, list(own)) for name, own in itertools.groupby(found, lambda sheet: sheet.probe)]
    body = [
        f"<h1>{escape(title)}</h1>",
        *_about(environment, found),
        _contents(groups, pictures),
        *_summary(found),
        *(part for probe, own in groups for part in _probe(probe, own)),
        *drawn.figures(pictures),
        *_loss(read_metrics(model_dir)),
    ]
    path = model_dir / "report.html"
    path.write_text(page(title, body, STYLE), encoding="utf-8")
    return path


def _about(environment: Mapping[str, Any], found: Sequence[Sheet]) -> Iterator[str]:
    """Lines on the model and on what was read."""
    model = environment.get("recipe", {}).get("model")
    if isinstance(model, Mapping):
        parts = [
            f"{name} {one}" for name, one in model.items() if isinstance(one, int | str) and not isinstance(one, bool)
        ]
        yield f'<p class="caption">Model: {escape(", ".join(parts).removeprefix("class "))}.</p>'
    source = [f"From {environment['source']}."] if "source" in environment else []
    source += (
        [f"Vocabulary {environment['vocabulary_fingerprint']}."] if "vocabulary_fingerprint" in environment else []
    )
    steps = dict.fromkeys(step for sheet in found for step in sheet.steps)
    told = [f"{stage}, step {step}" if step else stage for stage, step in steps]
    source += [f"Measured at: {'; '.join(told[-12:])}."] if told else ["No probe has run yet."]
    controls = dict.fromkeys(control for sheet in found for control in sheet.controls)
    source += [f"Controls: {', '.join(controls)}."] if controls else ["No controls."] * bool(found)
    languages = dict.fromkeys(part for sheet in found for name in sheet.languages for part in name.split("->") if part)
    names = [name for name in languages if "*" not in name]
    source += [f"Languages ({len(names)}): {', '.join(names)}."] if names else []
    yield f'<p class="caption">{escape(" ".join(source))}</p>'


def anchor(name: str) -> str:
    """A name as the place of a link."""
    return "probe-" + re.sub(r"[^\w-]", "_", name)


def _contents(groups: Sequence[tuple[str, list[Sheet]]], pictures: Sequence[drawn.Drawn]) -> str:
    """Links to the sections."""
    links = [(anchor(probe), own[0].title) for probe, own in groups]
    kinds = {type(one.picture).__name__.lower() for one in pictures}
    named = {"points": "Maps", "histogram": "Distributions", "links": "Word alignments"}
    links += [(kind, heading) for kind, heading in named.items() if kind in kinds]
    return "<nav>" + "".join(f'<a href="#{escape(place)}">{escape(name)}</a>' for place, name in links) + "</nav>"


def _summary(found: Sequence[Sheet]) -> Iterator[str]:
    """A table with a line for each main sheet: its best level, beside level 0 and the controls."""
    main = [sheet for sheet in found if sheet.main]
    if not main:
        return
    controls = list(dict.fromkeys(control for sheet in main for control in sheet.controls))
    zero = any(0 in sheet.levels and len(sheet.levels) > 1 for sheet in main)
    head = ["measure", "level", "value", "95 %", *["level 0"] * zero, *controls, "over", "n"]
    lines = []
    for sheet in main:
        level = sheet.best_level
        best = sheet.at(level)
        first = [sheet.name, "" if level is None else str(level), _value(best), _interval(best)]
        none = [_value(sheet.at(0)) if 0 in sheet.levels and level != 0 else ""] * zero
        beside = [_value(sheet.at(level, control)) for control in controls]
        many = f"{len(sheet.single)} {'directions' if pairs(sheet.single) else 'languages'}"
        names = many if len(sheet.single) > 1 else spelled(sheet.single[0])
        lines.append([*first, *none, *beside, names, counts(sheet.newest.values())])
    yield f'<section id="summary"><h2>Summary</h2><div class="wide brief">{table(head, lines)}</div>'
    yield (
        '<p class="caption">Several languages: their mean, and from five languages on its interval by a bootstrap over '
        "languages. One language: the interval of its value. The level is the best one by the same values, which flatters it a little.</p></section>"
    )


def _value(one: Spread | None) -> str:
    return "" if one is None else number(one.mean)


def _interval(one: Spread | None) -> str:
    return "" if one is None or one.low is None or one.high is None else f"{number(one.low)} – {number(one.high)}"


def _probe(probe: str, own: Sequence[Sheet]) -> Iterator[str]:
    """The section of a probe: its main sheets, and the others in a part that opens on a click."""
    yield f'<section id="{escape(anchor(probe))}"><h2>{escape(own[0].title)}</h2>'
    if own[0].meaning:
        yield f"<p>{escape(own[0].meaning)}</p>"
    yield '<div class="parts">'
    for sheet in own:
        # One metric of the probe's name needs no heading of its own.
        heading = f"<h3>{escape(sheet.heading)}</h3>" if sheet.heading != sheet.title else ""
        figures = "".join(measures.figures(sheet))
        if sheet.main:
            yield f'<div class="{"sheet full" if measures.is_wide(sheet) else "sheet"}">{heading}{figures}</div>'
        else:
            yield f'<details class="more sheet full"><summary>{escape(sheet.heading)}</summary>{figures}</details>'
    yield "</div></section>"


def _loss(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The loss of each stream over training."""
    streams = list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss/")))
    if not streams:
        return
    yield '<section id="loss"><h2>Loss</h2><div class="parts">'
    for name in streams:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        # Means of as many neighbours as leave POINTS points.
        size = -(-len(points) // POINTS)
        parts = [points[at : at + size] for at in range(0, len(points), size)]
        x, y = ([sum(pair[i] for pair in part) / len(part) for part in parts] for i in (0, 1))
        yield line_chart([Line(name.removeprefix("loss/"), x, y)], "step", "loss (nats)")
    yield "</div></section>"
