"""What mkdocs calls: pages that are made from README.md, gin files and docstrings, and links between pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from website import gallery, reference

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    home = (ROOT / "README.md").read_text(encoding="utf-8")
    made = {"index.md": home.replace("](docs/", "]("), "recipes.md": gallery.page(ROOT / "gin"), **reference.pages()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Turn `docs/NAME.md`, as GitHub's readers see it, into a link with the title of that page."""

    def link(name: str) -> str | None:
        target = files.get_file_from_path(name)
        if target is None or target.src_uri == page.file.src_uri:
            return None
        return f"[{_title(target.content_string)}]({'../' * page.file.src_uri.count('/')}{name})"

    return linked(markdown, link)


def linked(markdown: str, link: Callable[[str], str | None]) -> str:
    """Replace `docs/NAME.md` in prose, not in code blocks and not inside a link.

    Args:
      link: what stands there instead, by NAME.md; None = leave it.
    """
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            line = re.sub(r"(?<!\[)`docs/([\w/]+\.md)`", lambda found: link(found[1]) or found[0], line)
        lines.append(line)
    return "\n".join(lines)


def _title(markdown: str) -> str:
    """The first heading, up to a colon."""
    return re.search(r"^# (.+?)(?::.*)?$", markdown, re.MULTILINE)[1]
