"""A picture of word links: a grid for each sentence pair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_INCHES = 0.28  # of a cell


class Grid(NamedTuple):
    """A sentence pair: its words, {link: probability}, and the gold links; None = there is no gold."""

    source: Sequence[str]
    target: Sequence[str]
    links: Mapping[tuple[int, int], float]
    gold: Collection[tuple[int, int]] | None = None


def draw_grids(grids: Sequence[Grid], file: Path) -> None:
    """Draw sentence pairs one below the other: source words as rows, darker cells for more probable links.

    A frame marks a gold link. The format of the picture follows from the end of the file's name.
    """
    from matplotlib.figure import Figure

    grids = [grid for grid in grids if grid.source and grid.target]
    heights = [len(grid.source) + 5 for grid in grids]
    width = max((len(grid.target) for grid in grids), default=1) + 8
    figure = Figure((width * _INCHES, max(sum(heights), 2) * _INCHES), layout="constrained")
    rows = figure.subplots(max(len(grids), 1), 1, squeeze=False, height_ratios=heights or [1])[:, 0]
    for axes, grid in zip(rows, grids, strict=False):
        _draw(axes, grid)
    if not grids:
        rows[0].set_axis_off()
    figure.savefig(file, dpi=110)


def _draw(axes, grid: Grid) -> None:  # type: ignore[no-untyped-def]
    """One grid, with its words along its sides."""
    from matplotlib.patches import Rectangle

    cells = [[grid.links.get((i, j), 0.0) for j in range(len(grid.target))] for i in range(len(grid.source))]
    axes.imshow(cells, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for i, j in grid.gold or ():
        axes.add_patch(Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor="tab:orange"))
    axes.set_xticks(range(len(grid.target)), grid.target, rotation=90, fontsize=7)
    axes.set_yticks(range(len(grid.source)), grid.source, fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(which="both", length=0)
    axes.set_xticks([j - 0.5 for j in range(len(grid.target))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(len(grid.source))], minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
