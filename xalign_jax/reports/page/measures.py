"""The figures of one sheet: what it looks like follows from its levels, languages and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xalign_jax.interfaces import Row
from xalign_jax.reports.html import escape
from xalign_jax.reports.page import heat
from xalign_jax.reports.page.captions import caption, counts
from xalign_jax.reports.page.sheets import Level, Place, Sheet, Spread, interval, is_matrix, pairs, spelled, value
from xalign_jax.reports.page.svg import CONTROL, Line, chart, colour, frame, limits, line_chart, text, ticks
from xalign_jax.reports.tables import number

FEW = 6  # as many languages have a curve of their own
MOST_ROWS = 80  # of a heat map; a matrix of many languages has too many pairs
MOST_CELLS = 20_000  # of a table of all steps


def figures(sheet: Sheet) -> Iterator[str]:
    """Everything about a sheet, in HTML."""
    crossed = is_matrix(sheet.single)
    if _has_levels(sheet):
        yield from _levels(sheet)
    elif len(sheet.languages) < 2:
        yield _figure([], caption(sheet, _alone(sheet)))
    elif not crossed:
        yield _figure([_dots(sheet)], caption(sheet, _about_dots(sheet), [sheet.best_level]))
    if crossed:
        level = "" if sheet.best_level is None else f" at level {sheet.best_level}"
        about = f"Language by language{level}: rows are sources, columns are targets. Point at a cell for its interval."
        yield _figure([heat.matrix(sheet)], caption(sheet, about, [sheet.best_level]))
    if len(sheet.steps) > 1:
        yield _figure([_steps(sheet)], caption(sheet, _about_steps(sheet), [sheet.best_level]))
    yield all_values(sheet)


def is_wide(sheet: Sheet) -> bool:
    """Whether the figures of a sheet need the width of the page."""
    return is_matrix(sheet.single) or (_has_levels(sheet) and len(sheet.languages) > 1)


def _has_levels(sheet: Sheet) -> bool:
    return sum(isinstance(level, int) for level in sheet.levels) > 1


def _figure(parts: Sequence[str], below: str) -> str:
    return f'<figure><div class="parts">{"".join(parts)}</div><figcaption>{below}</figcaption></figure>'


def _alone(sheet: Sheet) -> str:
    """The only value of a sheet, in words."""
    return "; ".join(f"{_name(place)}: {heat.told(row)}" for place, row in sheet.newest.items()) + "."


def _name(place: Place) -> str:
    level = f"level {place.level}" if place.level is not None else ""
    control = f"control {place.control}" if place.control else ""
    return ", ".join(filter(None, [spelled(place.language), level, control]))


def _levels(sheet: Sheet) -> Iterator[str]:
    """The curve by level, beside the heat map of level by language."""
    about = f"By level. {_about_curves(sheet)}"
    curve = line_chart(list(_curves(sheet)), "level", sheet.column.heading)
    if len(sheet.languages) < 2:
        yield _figure([curve], caption(sheet, about))
        return
    if len(sheet.languages) > MOST_ROWS and is_matrix(sheet.single):
        yield _figure([curve], caption(sheet, f"{about} The values of {len(pairs(sheet.single))} pairs are below."))
        return
    best = f" The best level by the mean, {sheet.best_level}, is underlined." if sheet.column.best else ""
    about += f" Colours: value by language and level, ordered by the value at level {sheet.best_level}.{best}"
    yield _figure([curve, heat.by_level(sheet)], caption(sheet, about + " Point at a cell for its interval."))


def _curves(sheet: Sheet) -> Iterator[Line]:
    """Lines over levels: languages if they are few, else their mean; then the controls' means and chance."""
    levels = [level for level in sheet.levels if isinstance(level, int)]
    if len(sheet.single) <= FEW:
        for name in sheet.single:
            rows = {
                lv: row for lv in levels if value(row := sheet.newest.get(Place(name, lv, None))) is not None and row
            }
            yield _line(spelled(name), list(rows), [_own(row) for row in rows.values()])
    else:
        yield _means(sheet, f"mean of {len(sheet.single)}", levels, None)
    for control in sheet.controls:
        yield _means(sheet, control, levels, control)
    if sheet.chance is not None:
        yield Line("chance", levels, [sheet.chance] * len(levels), control=True)


def _own(row: Row) -> Spread:
    return Spread(row["value"], *(interval(row) or (None, None)))


def _means(sheet: Sheet, name: str, levels: Sequence[int], control: str | None) -> Line:
    found = {level: one for level in levels if (one := sheet.at(level, control)) is not None}
    line = _line(name, list(found), list(found.values()))
    # The bands of controls would hide the curves.
    return line if control is None else line._replace(low=(), high=(), control=True)


def _line(name: str, x: Sequence[float], found: Sequence[Spread]) -> Line:
    told = [
        number(one.mean) + ("" if one.low is None or one.high is None else f" [{number(one.low)}, {number(one.high)}]")
        for one in found
    ]
    told = [f"{at:g}: {one}" for at, one in zip(x, told, strict=True)]
    return Line(name, x, [one.mean for one in found], [o.low for o in found], [o.high for o in found], False, told)


def _about_dots(sheet: Sheet) -> str:
    """What the chart of values by language shows."""
    what = "Dot: value, line: interval" if any(map(interval, sheet.newest.values())) else "Dot: value"
    means = [f"{name} {number(one.mean)}" for name in sheet.controls if (one := sheet.at(sheet.best_level, name))]
    rings = f"; ring: control, left out where it is far away. Means of controls: {', '.join(means)}" if means else ""
    return f"By language. {what}{rings}."


def _dots(sheet: Sheet) -> str:
    """Values by language with their intervals, and controls as rings."""
    level = sheet.best_level
    rows = {name: row for name in sheet.languages if (row := sheet.newest.get(Place(name, level, None)))}
    controls = {
        (name, control): row
        for name in rows
        for control in sheet.controls
        if (row := sheet.newest.get(Place(name, level, control)) or sheet.newest.get(Place(name, None, control)))
    }
    drawn = [one for row in rows.values() for one in (value(row), *(interval(row) or ()))]
    others = [one for row in controls.values() if (one := value(row)) is not None]
    low, high = limits([one for one in drawn if one is not None], others)
    left = 18 + 6.5 * max((len(spelled(name)) for name in rows), default=1)
    left, width, step = min(left, 190.0), 460.0, 20.0

    def px(at: float) -> float:
        return left + (at - low) / (high - low) * (width - left - 60)

    bottom = step * len(rows) + 8
    body = []
    for tick in ticks(low, high, 5):
        body.append(f'<path class="grid" d="M{px(tick):.1f} 0V{bottom:.1f}"/>')
        body.append(text(px(tick), bottom + 15, f"{tick:g}"))
    if sheet.chance is not None:
        body.append(f'<path d="M{px(sheet.chance):.1f} 0V{bottom:.1f}" style="stroke:{CONTROL};stroke-dasharray:4 3"/>')
    for at, (name, row) in enumerate(rows.items()):
        y = step * at + 14
        body.append(text(left - 8, y + 4, spelled(name), "end"))
        for control in sheet.controls:
            beside = controls.get((name, control))
            if beside and (found := value(beside)) is not None and low <= found <= high:
                about = escape(f"{spelled(name)}, {control}: {heat.told(beside)}")
                body.append(f'<circle class="ring" cx="{px(found):.1f}" cy="{y}" r="4"><title>{about}</title></circle>')
        if (found := value(row)) is None:
            body.append(text(left + 6, y + 4, heat.told(row), "start"))
            continue
        if ends := interval(row):
            body.append(f'<path d="M{px(ends[0]):.1f} {y}H{px(ends[1]):.1f}" style="stroke:{colour(0)}"/>')
        about = escape(f"{spelled(name)}: {heat.told(row)}")
        body.append(
            f'<circle cx="{px(found):.1f}" cy="{y}" r="4.5" style="fill:{colour(0)}"><title>{about}</title></circle>'
        )
        body.append(text(width - 4, y + 4, number(found), "end"))
    picture = frame(width, bottom + 22, body, f"{sheet.column.heading} by language")
    return chart(picture, sheet.column.heading, [])


def _about_curves(sheet: Sheet) -> str:
    """What the curves of a sheet show, in words."""
    parts = ["Curve: mean over languages" if len(sheet.single) > FEW else "Curves: languages"]
    if len(sheet.single) > FEW:
        parts.append("band: interval by a bootstrap over languages")
    elif any(map(interval, sheet.newest.values())):
        parts.append("band: interval")
    if sheet.controls:
        parts.append("dashed: controls" + (", mean over languages" if len(sheet.single) > 1 else ""))
    return "; ".join(parts) + "."


def _about_steps(sheet: Sheet) -> str:
    level = "" if sheet.best_level is None else f" at level {sheet.best_level}, the best one at the end"
    return f"Over training{level}. {_about_curves(sheet)}"


def _steps(sheet: Sheet) -> str:
    """Curves over training at the best level of the newest step."""
    level, lines = sheet.best_level, []
    steps = list(sheet.steps)
    for name in sheet.single if len(sheet.single) <= FEW else ():
        rows = {s: row for s in steps if value(row := sheet.steps[s].get(Place(name, level, None))) is not None and row}
        lines.append(_line(spelled(name), [step for _, step in rows], [_own(row) for row in rows.values()]))
    if not lines:
        lines.append(_over(sheet, f"mean of {len(sheet.single)}", level, None))
    lines += [_over(sheet, control, level, control) for control in sheet.controls]
    return line_chart([line for line in lines if line.x], "step", sheet.column.heading)


def _over(sheet: Sheet, name: str, level: Level, control: str | None) -> Line:
    found = {step: one for step in sheet.steps if (one := sheet.at(level, control, step)) is not None}
    line = _line(name, [step for _, step in found], list(found.values()))
    return line if control is None else line._replace(low=(), high=(), control=True)


def all_values(sheet: Sheet) -> str:
    """Every value with its interval, in a table that opens on a click."""
    steps = list(sheet.steps)
    count = sum(len(rows) for rows in sheet.steps.values())
    note = ""
    if count > MOST_CELLS:
        steps, note = steps[-1:], f'<p class="caption">Earlier steps ({count:,} values in all) are in results.json.</p>'
    levels = list(dict.fromkeys([*sheet.levels, *(place.level for step in steps for place in sheet.steps[step])]))
    head = (
        ["step"] * (len(steps) > 1)
        + ["language", "control", "n"]
        + [heat.level_name(level) or "value" for level in levels]
    )
    lines = []
    for stage, step in reversed(steps):
        own: dict[tuple[str, str | None], dict[Level, Row]] = {}
        for place, row in sheet.steps[stage, step].items():
            own.setdefault((place.language, place.control), {})[place.level] = row
        for (language, control), rows in own.items():
            first = [f"{stage} {step}"] * (len(steps) > 1) + [spelled(language), control or "", counts(rows.values())]
            cells = [*map(escape, first), *(_written(rows.get(level)) for level in levels)]
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    about = f"All values: {sheet.name}"
    return (
        f'<details><summary>{escape(about)}</summary>{note}<div class="wide"><table class="numbers">'
        f"<tr>{top}</tr>{''.join(lines)}</table></div></details>"
    )


def _written(row: Row | None) -> str:
    """A value with its interval below it, in HTML."""
    if row is None:
        return ""
    if value(row) is None:
        return escape(heat.told(row | {"n": None}))
    ends = interval(row)
    return number(row["value"]) + (f"<br><small>{number(ends[0])} – {number(ends[1])}</small>" if ends else "")
