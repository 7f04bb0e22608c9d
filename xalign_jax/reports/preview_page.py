"""Previews as one page: every token with its language, what happened to it, and details where the mouse rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xalign_jax.records.previewed import CHANGES, KEPT, MASKED, RANDOM, SWITCHED, Preview, Row, Slot, Token, piece
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
.legend span { margin-inline-end: .8rem; }
.row { margin: .8rem 0; } .row th { width: 2.5rem; }
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
        f'<span><span class="{name}">{name}</span> {escape(text)}</span>' for name, text in CHANGES.items() if name in changes
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
    head = f'<h3>row {row.number} {_chip(row.language, preview) if row.language else ""}'
    head += f'<span class="faint">padding {padding}</span></h3>'
    lines = [f"<tr><th></th>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr>"] if len(names) > 1 else []
    lines += [_slot(slot, f"{slot.number}", row.language, preview, fade) for slot in row.slots if any(slot.views)]
    return f'<div class="row">{head}<table>{"".join(lines)}</table></div>'


def _slot(slot: Slot, name: str, language: str, preview: Preview, fade: bool) -> str:
    cells = "".join(f"<td>{''.join(_texts(view, language, preview, fade))}</td>" for view in slot.views)
    labels = ", ".join(f"{label} {value}" for label, value in slot.labels)
    return f'<tr><th>{escape(name)}</th>{cells}{f"<th>{escape(labels)}</th>" if labels else ""}</tr>'


def _texts(tokens: Sequence[Token], language: str, preview: Preview, fade: bool) -> Iterator[str]:
    """A block for each text of a segment: a text goes to its eos, or to where the language changes."""
    part: list[str] = []
    own = ""
    for token in tokens:
        # Switched words stand in another language, but in the same text.
        if part and not language and not token.change and own and token.language != own:
            yield _text(part, own, preview)
            part, own = [], ""
        own = own or ("" if language or token.change else token.language)
        part.append(_token(token, preview, fade))
        if token.ends:
            yield _text(part, own, preview)
            part, own = [], ""
    if part:
        yield _text(part, own, preview)


def _text(tokens: Sequence[str], language: str, preview: Preview) -> str:
    return f'<div dir="auto">{_chip(language, preview) if language else ""}{"".join(tokens)}</div>'


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
    kinds = ["t", "l" if token.language in preview.languages and not token.change else "", token.change]
    kinds += ["special" if token.special and not token.change else ""]
    kinds += ["unweighted" if fade and token.weight == 0 and token.change != SWITCHED else ""]
    text = "▒" if token.change == MASKED else token.text or "·"
    was = piece(token.original) if token.change in (SWITCHED, MASKED, RANDOM) and token.begins else ""
    after = f'<span class="was">←{escape(was)}</span>' if was else ""
    after += f'<span class="target">→{escape(piece(token.target))}</span>' if token.target is not None else ""
    return (
        f'{"↺" if token.restarts else ""}<span class="{" ".join(filter(None, kinds))}" style="{_hue(token.language, preview)}" '
        f'title="{escape(", ".join(details))}">{escape(text)}</span>{after}'
    )


def _together(preview: Preview) -> Iterator[str]:
    """Slots of equal labels, one below the other, if these rows hold any."""
    found: dict[tuple[str, str], list[tuple[Row, Slot]]] = {}
    for row in preview.rows:
        for slot in row.slots:
            for label in slot.labels:
                found.setdefault(label, []).append((row, slot))
    shared = {label: slots for label, slots in found.items() if len(slots) > 1}
    if not shared:
        return
    yield "<details><summary>The same rows, by what belongs together</summary>"
    for (name, value), slots in shared.items():
        lines = [_slot(slot, f"{row.number}.{slot.number}", row.language, preview, fade=False) for row, slot in slots]
        yield f'<div class="row"><h3>{escape(name)} {escape(value)}</h3><table>{"".join(lines)}</table></div>'
    yield "</details>"
