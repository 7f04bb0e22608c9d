"""Previews as one page: every token with its language, what happened to it, and details where the mouse rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xalign_jax.records.previewed import (
    CHANGES,
    KEPT,
    MASKED,
    RANDOM,
    SWITCHED,
    Preview,
    Row,
    Slot,
    Token,
    piece,
    side_by_side,
    texts,
)
from xalign_jax.reports.html import escape, page

VIEW_NAMES = {"": "tokens", "key_": "keys"}

_STYLE = """
.chip { font-size: .75rem; border: 1px solid; border-radius: 4px; padding: 0 .3rem; margin-inline-end: .4rem; }
.l { color: hsl(var(--hue), 75%, 30%); }
.t { border-inline-end: 1px solid var(--edge); white-space: pre-wrap; }
.special { color: var(--faint); font-size: .75rem; }
.unweighted { opacity: .55; }
.switched { background: #ffe28a; color: #3d2f00; } .masked { background: #1b1b1b; color: #ffffff; }
.random { background: #f4b6a6; color: #4a1200; } .kept { background: #b9dfc4; color: #063b17; }
.was { font-size: .75rem; background: none; color: var(--faint); padding-inline: .15rem; }
.target { display: none; font-size: .7rem; color: var(--faint); padding-inline: .1rem; }
#targets:checked ~ main .target { display: inline; }
.legend > span { margin-inline-end: .8rem; display: inline-block; }
.text { display: inline-flex; margin-inline-end: 1rem; max-width: 100%; } .label { white-space: nowrap; }
.text > .chip { align-self: flex-start; flex-shrink: 0; }
.row { margin: .8rem 0; } .row th:first-child { width: 2.5rem; }
@media (prefers-color-scheme: dark) {
  .l { color: hsl(var(--hue), 70%, 75%); } .masked { background: #e8e8e8; color: #16181c; }
}
"""
_TARGETS = '<input type="checkbox" id="targets"><label for="targets"> show behind each token what it predicts</label>'


def preview_page(title: str, about: Sequence[str], previews: Sequence[Preview]) -> str:
    """The page.

    Args:
      title: the recipe's name.
      about: lines of plain text below the title.
    """
    lines = [f'<p class="faint">{escape(line)}</p>' for line in about]
    sections = [part for preview in previews for part in _stream(preview)]
    targets = [_TARGETS] if any(t.target is not None for p in previews for t in _tokens(p)) else []
    return page(title, [f"<h1>{escape(title)}</h1>", *lines, *targets, "<main>", *sections, "</main>"], _STYLE)


def _tokens(preview: Preview) -> Iterator[Token]:
    return (token for row in preview.rows for slot in row.slots for view in slot.views for token in view)


def _stream(preview: Preview) -> Iterator[str]:
    stage = f"stage {preview.stage}, " if preview.stage else ""
    where = f"{stage}step {preview.step:,}, {len(preview.rows)} of {preview.size:,} rows"
    yield f'<section><h2>stream {escape(preview.stream)} <span class="faint">{escape(where)}</span></h2>'
    yield _legend(preview)
    # Where masks hide tokens, few positions are predicted. Elsewhere the few that are not are worth a sign.
    masks = any(token.change in (MASKED, RANDOM, KEPT) for token in _tokens(preview))
    for row in preview.rows:
        yield _row(row, preview, fade=not masks)
    yield from _together(preview)
    shapes = ", ".join(f"{name} {shape}" for name, shape in preview.arrays)
    yield f'<p class="faint">arrays: {escape(shapes)}</p></section>'


def _legend(preview: Preview) -> str:
    """The languages and the changes that occur in these rows, and the signs."""
    found = list(_tokens(preview))
    used = {token.language for token in found}
    parts = [_chip(name, preview) for name in preview.languages if name in used]
    changes = {token.change for token in found}
    parts += [
        f'<span><span class="{name}">{name}</span> {escape(text)}</span>'
        for name, text in CHANGES.items()
        if name in changes
    ]
    if any(token.restarts for token in found):
        parts.append("<span>↺ positions begin again at 0</span>")
    if any(token.weight == 0 for token in found) and not changes & {MASKED, RANDOM, KEPT}:
        parts.append('<span><span class="unweighted">pale</span> predicts nothing (weight 0)</span>')
    return f'<p class="legend">{"".join(parts)}</p>'


def _hue(language: str, preview: Preview) -> str:
    """The style of a language's colour; neighbours in the list differ most."""
    if language not in preview.languages:
        return "--hue: 0"
    return f"--hue: {(210 + 137.5 * preview.languages.index(language)) % 360:.0f}"


def _chip(language: str, preview: Preview) -> str:
    return f'<span class="chip l" style="{_hue(language, preview)}">{escape(language or "?")}</span>'


def _row(row: Row, preview: Preview, fade: bool) -> str:
    names = [VIEW_NAMES.get(name, name.removesuffix("_")) for name in preview.views]
    names = ["queries", *names[1:]] if len(names) > 1 else names
    padding = ", ".join(
        f"{share:.0%} of the {name}" if len(names) > 1 else f"{share:.0%}"
        for share, name in zip(row.padding, names, strict=True)
    )
    head = f"<h3>row {row.number} {_chip(row.language, preview) if row.language else ''}"
    head += f'<span class="faint">padding {padding}</span></h3>'
    heads = "".join(f"<th>{escape(name)}</th>" for name in ["", *names, ""])
    lines = [f"<tr>{heads}</tr>"] if len(names) > 1 else []
    lines += [_slots(slots, f"{slots[0].number}", row.language, preview, fade) for slots in side_by_side(row)]
    return f'<div class="row">{head}<table>{"".join(lines)}</table></div>'


def _slots(slots: Sequence[Slot], name: str, whole: str, preview: Preview, fade: bool) -> str:
    """A line of a table: slots that belong together, a cell for each view. `whole`: the language of the row."""
    cells = []
    for views in zip(*(slot.views for slot in slots), strict=True):
        found = [part for view in views for part in texts(view, not whole)]
        cells.append("".join(_text(part, "" if whole else language, preview, fade) for language, part in found))
    labels = ", ".join(f"{label} {value}" for label, value in slots[0].labels)
    end = f'<th class="label">{escape(labels)}</th>' if labels else ""
    return f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}{end}</tr>"


def _text(tokens: Sequence[Token], language: str, preview: Preview, fade: bool) -> str:
    """A text. The direction follows its own first letter, so the language stands outside of it."""
    shown = "".join(_token(token, preview, fade) for token in tokens)
    return f'<div class="text">{_chip(language, preview) if language else ""}<div dir="auto">{shown}</div></div>'


def _token(token: Token, preview: Preview, fade: bool) -> str:
    """A token with its details, what stood there before, and what it predicts."""
    details = [
        f"id {token.id}",
        f"piece {token.text.replace(' ', '▁') or '(part of the character before)'}",
        f"position {token.position}",
        f"segment {token.segment}",
        *([f"language {token.language}"] if token.language else []),
        *([] if token.type is None else [f"type {token.type}"]),
        *([] if token.weight is None else [f"weight {token.weight:g}"]),
        *([] if token.target is None else [f"target {token.target.replace(' ', '▁')}"]),
    ]
    # Names of special pieces and originals are no part of the text, whose direction they would decide.
    tag = "bdi" if token.special or token.change else "span"
    kinds = ["t", "l" if token.language in preview.languages and not token.change else "", token.change]
    kinds += ["special" if token.special and not token.change else ""]
    kinds += ["unweighted" if fade and token.weight == 0 and token.change != SWITCHED else ""]
    text = "▒" if token.change == MASKED else token.text or "·"
    was = piece(token.original) if token.change in (SWITCHED, MASKED, RANDOM) and token.begins else ""
    after = f'<bdi class="was">←{escape(was)}</bdi>' if was else ""
    after += f'<bdi class="target">→{escape(piece(token.target))}</bdi>' if token.target is not None else ""
    return (
        f'{"↺" if token.restarts else ""}<{tag} class="{" ".join(filter(None, kinds))}" style="{_hue(token.language, preview)}" '
        f'title="{escape(", ".join(details))}">{escape(text)}</{tag}>{after}'
    )


def _together(preview: Preview) -> Iterator[str]:
    """Slots of equal labels that stand in several places, one below the other."""
    found: dict[tuple[str, str], list[tuple[Row, list[Slot]]]] = {}
    for row in preview.rows:
        for slots in side_by_side(row):
            for label in slots[0].labels:
                found.setdefault(label, []).append((row, slots))
    shared = {label: places for label, places in found.items() if len(places) > 1}
    if not shared:
        return
    yield "<details><summary>The same rows, by what belongs together</summary>"
    for (name, value), places in shared.items():
        lines = [
            _slots(slots, f"{row.number}.{slots[0].number}", row.language, preview, False) for row, slots in places
        ]
        yield f'<div class="row"><h3>{escape(name)} {escape(value)}</h3><table>{"".join(lines)}</table></div>'
    yield "</details>"
