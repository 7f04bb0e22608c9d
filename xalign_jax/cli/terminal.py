"""Tables on stdout: drawn by rich in a terminal, plain text in files and pipes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xalign_jax.reports.tables import Grid


def show(grid: Grid) -> None:
    """Print a table. A log gets the plain form, which stays the same whatever the width of a terminal."""
    from xalign_jax.reports.tables import markdown

    if sys.stdout.isatty():
        _draw(grid)
    else:
        table = markdown(grid.header, grid.rows) if grid.rows else ""
        print("\n\n".join(filter(None, [grid.title, table, grid.note])), flush=True)


def _draw(grid: Grid) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=grid.title, caption=grid.note or None, title_justify="left", box=box.SIMPLE)
    if not grid.rows:
        table.show_header = False
    for number, heading in enumerate(grid.header):
        table.add_column(Text(heading), justify="left" if number == 0 else "right")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def finish(folder: Path, place: str) -> None:
    """Write the report and the page of a model directory, print the headlines, and say last where everything is.

    Args:
      folder: the directory, on this machine.
      place: its name for the user, who may have given a URL.
    """
    from xalign_jax.reports import report
    from xalign_jax.reports.page.page import write_page

    report.report(folder)
    page = write_page(folder)
    show(report.headlines(folder))
    print(f"The page with all figures: {place}/{page.name}; all tables: {place}/report.md")
