"""The frame of self-contained pages: one file, no scripts, nothing from elsewhere, readable on light and dark."""

from __future__ import annotations

import html
from collections.abc import Sequence

from xalign_jax.records.previewed import visible

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --faint: #6a6a6a; --edge: #d9d9d9; --box: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181c; --faint: #a0a0a0; --edge: #3b3f46; --box: #1f2329; }
}
body { font: 15px/1.5 system-ui, "Noto Sans", sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; } h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
.faint { color: var(--faint); font-weight: normal; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; } th { font-weight: normal; color: var(--faint); }
td, th { border-top: 1px solid var(--edge); padding: .15rem .5rem; text-align: start; vertical-align: top; }
.numbers td, .numbers th { text-align: end; font-variant-numeric: tabular-nums; }
.numbers td:first-child, .numbers th:first-child { text-align: start; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85rem; white-space: pre-wrap; }
"""


def escape(text: str) -> str:
    """Text for a page: marks of HTML are escaped, and characters that hide or turn text are written out."""
    return html.escape(visible(text))


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole page.

    Args:
      title: plain text.
      body: parts in HTML.
      style: further rules.
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    parts = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{_STYLE}{style}</style></head>\n'
        f"<body>\n{parts}\n</body>\n</html>\n"
    )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of numbers; the first column is a name. All cells are plain text."""
    rows = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    rows += ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    return '<table class="numbers">' + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
