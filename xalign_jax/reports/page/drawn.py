"""The pictures of probes: maps of vectors, distributions, word alignments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xalign_jax.records.pictures import Drawn, Histogram, Links, Points
from xalign_jax.reports.html import escape
from xalign_jax.reports.page.captions import files
from xalign_jax.reports.page.heat import RAMP, Scale, turned
from xalign_jax.reports.page.svg import HEIGHT, WIDTH, Axes, chart, colour, frame, ticks

# Paths around 0, 0: languages beyond the eighth take the next shape.
SHAPES = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "M-3-3H3V3H-3z",
    "M0-4L4 3H-4z",
    "M0-4.5L4 0L0 4.5L-4 0z",
    "M-4-3H4L0 4z",
)
FIRST = 6  # pictures of a kind are shown at once
# Marks every translation of the sentence below the mouse. The page can be read without it.
SCRIPT = """<script>
for (const map of document.querySelectorAll(".map svg")) for (const kind of ["mouseover", "mouseout"])
  map.addEventListener(kind, (event) => {
    const own = event.target.closest("[data-g]");
    if (own) for (const one of map.querySelectorAll(`[data-g="${own.dataset.g}"]`))
      one.classList.toggle("on", kind === "mouseover");
  });
</script>"""


def newest(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The newest of the pictures that have one title, probe and settings, in their order."""
    found: dict[tuple, Drawn] = {}
    for one in sorted(drawn, key=lambda one: one.step):
        found[one.probe, repr(one.settings), one.picture.title] = one
    return list(found.values())


def figures(drawn: Sequence[Drawn]) -> Iterator[str]:
    """All pictures in HTML, one kind after the other."""
    for heading, kind in (
        ("Maps", Points),
        ("Distributions", Histogram),
        ("Word alignments", Links),
    ):
        own = [one for one in drawn if isinstance(one.picture, kind)]
        if own:
            parts = [_figure(one) for one in own]
            yield f'<section id="{kind.__name__.lower()}"><h2>{heading}</h2><div class="parts">{"".join(parts[:FIRST])}</div>'
            if rest := parts[FIRST:]:
                yield f'<details><summary>{len(rest)} more</summary><div class="parts">{"".join(rest)}</div></details>'
            yield "</section>"
    if any(isinstance(one.picture, Points) for one in drawn):
        yield SCRIPT


def _figure(one: Drawn) -> str:
    picture = one.picture
    match picture:
        case Points():
            body, about = _points(picture), "Each mark is a sentence; marks of one sentence are translations."
        case Histogram():
            body, about = _histogram(picture), "Share of each series by value."
        case Links():
            body, about = _links(picture), _about_links(picture)
    where = f"{one.stage}, step {one.step}" if one.step else one.stage
    lines = [about, " · ".join(filter(None, [picture.about, where, *files([one.settings])]))]
    below = "".join(f'<p class="caption">{escape(line)}</p>' for line in lines)
    return f"<figure><h3>{escape(picture.title)}</h3>{body}<figcaption>{below}</figcaption></figure>"


def _points(picture: Points) -> str:
    """A map with equal scales of both axes, which have no unit."""
    columns = zip(picture.x, picture.y, picture.languages, picture.groups, strict=True)
    points = [(x, y, language, group) for x, y, language, group in columns if x is not None and y is not None]
    names = list(dict.fromkeys(picture.languages))
    size, room = 440.0, 10.0
    xs, ys = [x for x, *_ in points] or [0.0], [y for _, y, *_ in points] or [0.0]
    left, bottom, wide, high = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    wide = max(wide, high) or 1.0
    unit = (size - 2 * room) / wide
    body = []
    for x, y, language, group in points:
        at = names.index(language)
        place = f"translate({room + (x - left) * unit:.1f} {room + (high - (y - bottom)) * unit:.1f})"
        about = f"<title>{escape(language)}, sentence {group}</title>"
        body.append(
            f'<path transform="{place}" d="{_shape(at)}" style="fill:{colour(at)}" data-g="{group}">{about}</path>'
        )
    legend = "".join(
        f'<span><svg class="mark" viewBox="-6 -6 12 12"><path d="{_shape(at)}" style="fill:{colour(at)}"/></svg>{escape(name)}</span>'
        for at, name in enumerate(names)
    )
    lost = len(picture.x) - len(points)
    note = f'<p class="caption">Points without a finite place: {lost}.</p>' if lost else ""
    return f'<div class="chart map">{frame(size, high * unit + 2 * room, body, picture.title)}<p class="legend">{legend}</p>{note}</div>'


def _shape(at: int) -> str:
    return SHAPES[at // 8 % len(SHAPES)]


def _histogram(picture: Histogram) -> str:
    """Outlines of the shares of all series over common bins."""
    edges = list(picture.edges)
    if len(edges) < 2:
        return ""
    shares = {name: [count / max(1, sum(counts)) for count in counts] for name, counts in picture.series.items()}
    top = 1.05 * max((share for each in shares.values() for share in each), default=1.0) or 1.0

    axes = Axes(edges[0], edges[-1], 0.0, top)
    body = axes.drawn(ticks(edges[0], edges[-1]), [(tick, f"{100 * tick:g} %") for tick in ticks(0, top, 5)])
    legend = []
    for at, (name, each) in enumerate(shares.items()):
        route = f"M{axes.x(edges[0]):.1f} {axes.y(0):.1f}"
        route += "".join(
            f"V{axes.y(share):.1f}H{axes.x(edge):.1f}" for share, edge in zip(each, edges[1:], strict=True)
        )
        about = f"<title>{escape(name)}, {sum(picture.series[name]):,} values</title>"
        body.append(
            f'<path d="{route}V{axes.y(0):.1f}" style="fill:{colour(at)};fill-opacity:.18;stroke:{colour(at)}">{about}</path>'
        )
        mark = f'<svg class="mark" viewBox="0 0 12 12"><path d="M1 1H11V11H1z" style="fill:{colour(at)}"/></svg>'
        legend.append(f"<span>{mark}{escape(name)} ({sum(picture.series[name]):,})</span>")
    return chart(frame(WIDTH, HEIGHT, body, picture.title), "", legend)


def _about_links(picture: Links) -> str:
    about = "Darker cells are more probable links."
    return f"{about} Frame: gold link, dashed where it is only possible." if picture.gold else about


def _links(picture: Links) -> str:
    """A grid of source words by target words."""
    scale = Scale(0.0, 1.0, ("#ffffff", *RAMP[3:]))
    links = {(i, j): probability for i, j, probability in picture.links}
    gold = {(i, j): "sure" if sure else "possible" for i, j, sure in picture.gold}
    lines = [f"<tr><th></th>{turned(picture.target)}</tr>"]
    for i, word in enumerate(picture.source):
        cells = []
        for j, other in enumerate(picture.target):
            probability = links.get((i, j))
            red, green, blue = scale.colour(probability or 0.0)
            fill = f' style="background:#{red:02x}{green:02x}{blue:02x}"' if probability else ""
            told = [f"{word} – {other}", "" if probability is None else f"{probability:.3g}", gold.get((i, j), "")]
            about = f' title="{escape(", ".join(filter(None, told)))}"' if any(told[1:]) else ""
            cells.append(f'<td class="{gold.get((i, j), "")}"{fill}{about}></td>')
        lines.append(f'<tr><th dir="auto">{escape(word)}</th>{"".join(cells)}</tr>')
    return f'<div class="wide"><table class="cells grid">{"".join(lines)}</table></div>'
