"""Charts as inline SVG. They take colours of text from the page, and its fonts, so every script shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from xalign_jax.reports.html import escape
from xalign_jax.reports.plots import COLOURS
from xalign_jax.reports.tables import number

WIDTH, HEIGHT = 420, 270  # of a chart's own coordinates; about a telephone's width, so that letters stay readable
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 38
MARKED = 60  # points of a curve have marks if they are not more
DASHES = ("", "7 3", "2 3")
CONTROL, CONTROL_DASHES = "#777777", ("4 3", "1 3", "8 3 1 3")


class Line(NamedTuple):
    """A curve.

    Attributes:
      x, y: its points.
      low, high: ends of the interval at each point; None = there is none.
      control: it is drawn dashed in grey.
      told: a text for each point; () = its value.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    control: bool = False
    told: Sequence[str] = ()


def colour(at: int) -> str:
    """The colour of a curve; the page's ink in place of black, which a dark page would hide."""
    return "var(--ink)" if COLOURS[at % len(COLOURS)] == "#000000" else COLOURS[at % len(COLOURS)]


def frame(width: float, height: float, body: Sequence[str], label: str) -> str:
    """An SVG element that is as wide as its place. `label`: for readers who do not see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">\n'
        + "\n".join(body)
        + "</svg>"
    )


def text(x: float, y: float, content: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most`."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def limits(values: Sequence[float], beside: Sequence[float] = ()) -> tuple[float, float]:
    """The ends of an axis: 0 to 1 for shares that such an axis tells apart, else somewhat beyond the values.

    Args:
      beside: values of controls. Those that would squeeze the values lie outside.
    """
    most = 3 * max(map(abs, values), default=math.inf)
    every = [*values, *(one for one in beside if abs(one) <= most)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    if low >= 0 and 0.2 < high <= 1:
        return 0.0, 1.0
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


class Axes(NamedTuple):
    """The ranges of a chart's two axes, and where their values lie in its own coordinates."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, at: float) -> float:
        return LEFT + (at - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, at: float) -> float:
        return TOP + (self.top - at) / (self.top - self.bottom) * (HEIGHT - TOP - BOTTOM)

    def drawn(self, x: Sequence[float], y: Sequence[tuple[float, str]]) -> list[str]:
        """The grid and the numbers along the axes: at each `x`, and at each `y` in the words given."""
        body = []
        for at, words in y:
            body.append(f'<path class="grid" d="M{LEFT} {self.y(at):.1f}H{WIDTH - RIGHT}"/>')
            body.append(text(LEFT - 6, self.y(at) + 4, words, "end"))
        return body + [text(self.x(at), HEIGHT - BOTTOM + 16, f"{at:g}") for at in x]


def line_chart(lines: Sequence[Line], xlabel: str, ylabel: str) -> str:
    """Curves with bands for their intervals, over whole numbers, and a legend below."""
    drawn = [at for line in lines if not line.control for at in (*line.y, *line.low, *line.high) if at is not None]
    xs = [x for line in lines for x in line.x]
    if not xs:
        return ""
    bottom, top = limits(drawn, [y for line in lines if line.control for y in line.y])
    axes = Axes(min(xs), max(max(xs), min(xs) + 1), bottom, top)
    numbers = [tick for tick in ticks(axes.left, axes.right, 8) if float(tick).is_integer()]
    body = axes.drawn(numbers, [(tick, f"{tick:g}") for tick in ticks(bottom, top)])
    body.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, xlabel))
    legend, controls = [], 0
    for at, line in enumerate(lines):
        own, dash = colour(at), DASHES[at // 8 % 3]
        if line.control:
            own, dash, controls = CONTROL, CONTROL_DASHES[controls % 3], controls + 1
        look = f"stroke:{own}" + (f";stroke-dasharray:{dash}" if dash else "")
        body += [*_band(axes, line, own), *_curve(axes, line, own, look)]
        outside = line.y and not any(bottom <= y <= top for y in line.y)
        name = f"{line.name} (outside: {number(line.y[0])})" if outside else line.name
        mark = f'<svg class="mark" viewBox="0 0 24 8"><path d="M0 4H24" style="{look}"/></svg>'
        legend.append(f"<span>{mark}{escape(name)}</span>")
    return chart(frame(WIDTH, HEIGHT, body, f"{ylabel} by {xlabel}"), ylabel, legend)


def chart(picture: str, ylabel: str, legend: Sequence[str]) -> str:
    """A picture below the name of its values and above its legend, whose entries are HTML."""
    above = f'<p class="axis">{escape(ylabel)}</p>' if ylabel else ""
    below = f'<p class="legend">{"".join(legend)}</p>' if legend else ""
    return f'<div class="chart">{above}{picture}{below}</div>'


def _band(axes: Axes, line: Line, own: str) -> list[str]:
    """The intervals of a curve as an area; that of a single point as a line."""
    ends = zip(line.x, line.low, line.high, strict=False)
    found = [(axes.x(x), axes.y(low), axes.y(high)) for x, low, high in ends if low is not None and high is not None]
    if len(found) == 1:
        x, low, high = found[0]
        return [f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" style="stroke:{own}"/>']
    edge = [f"{x:.1f},{high:.1f}" for x, _, high in found] + [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(found)]
    return [f'<polygon points="{" ".join(edge)}" style="fill:{own};opacity:.15"/>'] if edge else []


def _curve(axes: Axes, line: Line, own: str, look: str) -> list[str]:
    """A curve within the chart, with a mark at each point if they are few."""
    told = line.told or [number(y) for y in line.y]
    points = [(x, y, about) for x, y, about in zip(line.x, line.y, told, strict=True) if axes.bottom <= y <= axes.top]
    route = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y, _ in points)
    body = [f'<polyline points="{route}" style="{look}"/>']
    for x, y, about in points if len(points) <= MARKED else ():
        place = f'cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="{2 if line.control else 3}"'
        body.append(f'<circle {place} style="fill:{own}"><title>{escape(f"{line.name}, {about}")}</title></circle>')
    return body
