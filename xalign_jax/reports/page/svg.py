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


def line_chart(lines: Sequence[Line], xlabel: str, ylabel: str, whole: bool = True) -> str:
    """Curves with bands for their intervals, and a legend below. `whole`: x values are whole numbers."""
    drawn = [at for line in lines if not line.control for at in (*line.y, *line.low, *line.high) if at is not None]
    xs = [x for line in lines for x in line.x]
    if not xs:
        return ""
    bottom, top = limits(drawn, [y for line in lines if line.control for y in line.y])
    left, right = min(xs), max(xs)
    right = right if right > left else left + 1

    def px(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return TOP + (top - y) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    body = []
    for tick in ticks(bottom, top):
        body.append(f'<path class="grid" d="M{LEFT} {py(tick):.1f}H{WIDTH - RIGHT}"/>')
        body.append(text(LEFT - 6, py(tick) + 4, f"{tick:g}", "end"))
    for tick in ticks(left, right, 8):
        if not whole or float(tick).is_integer():
            body.append(text(px(tick), HEIGHT - BOTTOM + 16, f"{tick:g}"))
    body.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, xlabel))
    legend = []
    controls = 0
    for at, line in enumerate(lines):
        own, dash = colour(at), DASHES[at // 8 % 3]
        if line.control:
            own, dash, controls = CONTROL, CONTROL_DASHES[controls % 3], controls + 1
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if bottom <= y <= top]
        outside = f" (outside: {number(line.y[0])})" if line.y and not points else ""
        band = [
            (x, low, high)
            for x, low, high in zip(line.x, line.low, line.high, strict=False)
            if low is not None and high is not None
        ]
        if len(band) > 1:
            edge = [f"{px(x):.1f},{py(high):.1f}" for x, _, high in band]
            edge += [f"{px(x):.1f},{py(low):.1f}" for x, low, _ in reversed(band)]
            body.append(f'<polygon points="{" ".join(edge)}" style="fill:{own};opacity:.15"/>')
        elif band:
            x, low, high = band[0]
            body.append(f'<path d="M{px(x):.1f} {py(low):.1f}V{py(high):.1f}" style="stroke:{own}"/>')
        route = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        dashes = f";stroke-dasharray:{dash}" if dash else ""
        body.append(f'<polyline points="{route}" style="stroke:{own}{dashes}"/>')
        told = dict(zip(line.x, line.told, strict=False))
        for x, y in points if len(points) <= 60 else ():
            about = escape(f"{line.name}, {told.get(x) or number(y)}")
            size = f'cx="{px(x):.1f}" cy="{py(y):.1f}" r="{2 if line.control else 3}"'
            body.append(f'<circle {size} style="fill:{own}"><title>{about}</title></circle>')
        mark = f'<svg class="mark" viewBox="0 0 24 8"><path d="M0 4H24" style="stroke:{own}{dashes}"/></svg>'
        legend.append(f"<span>{mark}{escape(line.name + outside)}</span>")
    picture = frame(WIDTH, HEIGHT, body, f"{ylabel} by {xlabel}")
    return (
        f'<div class="chart"><p class="axis">{escape(ylabel)}</p>{picture}<p class="legend">{"".join(legend)}</p></div>'
    )
