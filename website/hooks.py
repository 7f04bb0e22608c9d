"""What mkdocs calls: pages made from README.md, gin files, docstrings and notebooks, and links between pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import gallery, notebooks, reference

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    home = without_code((ROOT / "README.md").read_text(encoding="utf-8"), ROOT).replace("](docs/", "](")
    made: dict[str, str | bytes] = {"index.md": home, "recipes.md": gallery.page(ROOT / "gin"), **reference.pages()}
    made |= notebooks.pages(ROOT / "notebooks")
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn `docs/NAME.md`, as readers on GitHub see it, into a link with the title of that page."""

    def link(name: str) -> str | None:
        target = files.get_file_from_path(name)
        if target is None or target.src_uri == page.file.src_uri:
            return None
        heading = next(line for line in target.content_string.splitlines() if line.startswith("# "))
        title = _titles(config.nav or []).get(name) or heading.removeprefix("# ").partition(":")[0]
        return f"[{title}]({'../' * page.file.src_uri.count('/')}{name})"

    return linked(without_code(markdown, DOCS / Path(page.file.src_uri).parent), link)


def without_code(markdown: str, folder: Path) -> str:
    """Replace links to files of the repository outside docs/, which the site does not hold, by their text.

    Args:
      folder: from which the links lead.
    """

    def text(found: re.Match) -> str:
        target = (folder / found["target"].partition("#")[0]).resolve()
        outside = target.exists() and ROOT in target.parents and DOCS not in (target, *target.parents)
        return found["text"] if outside else found[0]

    return re.sub(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)", text, markdown)


def linked(markdown: str, link: Callable[[str], str | None]) -> str:
    """Replace `docs/NAME.md`, and links with that text, in prose but not in code blocks.

    Args:
      link: what stands there instead, by NAME.md; None = leave it.
    """
    named = re.compile(r"`docs/(?P<code>[\w/]+\.md)`|\[docs/(?P<text>[\w/]+\.md)\]\([^)]*\)")
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            line = named.sub(lambda found: link(found["code"] or found["text"]) or found[0], line)
        lines.append(line)
    return "\n".join(lines)


def _titles(nav: list) -> dict[str, str]:
    """The titles that mkdocs.yml gives to pages, by their path."""
    found: dict[str, str] = {}
    for entry in nav:
        for title, inside in entry.items() if isinstance(entry, dict) else ():
            found |= _titles(inside) if isinstance(inside, list) else {inside: title}
    return found
