"""The counts of `xalign data stats` as one page with pictures, and the numbers in a JSON file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xalign_jax.reports import data_plots
from xalign_jax.reports.html import escape, page, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Any]  # the contents of stats.json


def files(title: str, about: str, found: Found) -> dict[str, bytes]:
    """Name -> contents of stats.json, of the pictures, and of stats.html, which holds the pictures and the numbers.

    Args:
      title, about: the head of the page.
      found: plain values. "texts" and "duplicates" hold a line for each language, "parallelism" {task: {n: groups}},
        "dictionary" {"entries": {what: n}, "coverage": share}, "drawn" a line for each stream.
    """
    pictures = [(name, text, _png(figure)) for name, text, figure in data_plots.draw(found)]
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="faint">{escape(about)}</p>']
    for name, text, png in pictures:
        image = base64.b64encode(png).decode()
        parts.append(f"<h2>{escape(name.capitalize())}</h2><p>{escape(text)}</p>")
        parts.append(f'<img alt="{escape(text)}" src="data:image/png;base64,{image}">')
    parts += ["<h2>Numbers</h2>", *_tables(found)]
    written = {"stats.json": (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()}
    # The name of a stream may hold marks that have a meaning in paths.
    written |= {re.sub(r"[^\w.-]", "_", name) + ".png": png for name, _, png in pictures}
    return written | {"stats.html": page(title, parts).encode()}


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
    return target.getvalue()


def _tables(found: Found) -> Iterator[str]:
    names = data_plots.short_names(found)
    yield from (f"<p>{short} = <code>{escape(task)}</code></p>" for task, short in names.items() if short != task)
    yield "<h3>Texts</h3>"
    head = ("task", "split", "language", "documents", "tokens", "bytes a token", "tokens a word")
    yield table(head, [_text(one, names) for one in found["texts"]])
    yield "<h3>Duplicates</h3>"
    head = ("language", "documents", "exact", "near", "validation", "in training", "nearly")
    columns = ("documents", "exact", "near", "validation", "leaked", "near_leaked")
    yield table(head, [(one["language"], *(f"{one[name]:,}" for name in columns)) for one in found["duplicates"]])
    if groups := {task: each for task, each in found["parallelism"].items() if each}:
        yield "<h3>Groups by the number of their languages</h3>"
        sizes = sorted({n for each in groups.values() for n in each})
        yield table(
            ("languages", *(names[task] for task in groups)),
            [(str(n), *(f"{each.get(n, 0):,}" for each in groups.values())) for n in sizes],
        )
    if "dictionary" in found:
        yield "<h3>Entries of the dictionary</h3>"
        yield table(("they", "entries"), [(what, f"{n:,}") for what, n in found["dictionary"]["entries"].items()])
    for one in found["drawn"]:
        yield f"<h3>Stream {escape(one['stream'])}: shares of {escape(one['unit'])} at steps of the run</h3>"
        yield table(("language", *(f"{step:,}" for step in one["steps"])), list(_shares(one)))


def _text(one: Found, names: Mapping[str, str]) -> Sequence[str]:
    sizes = (f"{one[name]:,}" for name in ("documents", "tokens"))
    ratios = _ratio(one["utf8_bytes"], one["tokens"]), _ratio(one["word_tokens"], one["words"])
    return names[one["task"]], one["split"], one["language"], *sizes, *ratios


def _shares(one: Found) -> Iterator[Sequence[str]]:
    """For each language a line of what the mixture wishes, if it has rates, and a line of what was read."""
    for language in dict.fromkeys([*one["wished"], *one["drawn"]]):
        for what in ("wished", "drawn", "tokens"):
            if language in one[what]:
                yield f"{language}, {what}", *(f"{share:.2%}" for share in one[what][language])


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}" if whole else "-"
