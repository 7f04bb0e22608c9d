"""The documentation site builds without a warning, links to nothing that is missing, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

import xalign_jax
from xalign_jax import cli, gin_files

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "gin" / "recipes").glob("*.gin"))


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("link", "script", "img", "source", "iframe", "object", "use"):
            # A canonical link names the page itself.
            loaded = [values[name] for name in ("href", "src", "data") if name in values]
            self.loads += [] if values.get("rel") == "canonical" else loaded


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. Each warning is an error, as in `make site`."""
    for package in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        pytest.importorskip(package)
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        patched.syspath_prepend(ROOT)
        settings = load_config("mkdocs.yml", site_dir=str(folder), strict=True)
        settings.plugins.run_event("startup", command="build", dirty=False)
        build(settings)
    return folder


def test_links_become_what_the_site_can_show(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(ROOT)
    from website.hooks import DOCS, linked, without_code

    text = "See `docs/a.md`, [docs/a.md](a.md), [text](a.md) and `docs/none.md`.\n```\n`docs/a.md`\n```"
    link = {"a.md": "[A](a.md)"}.get
    assert linked(text, link) == text.replace("`docs/a.md`", "[A](a.md)", 1).replace("[docs/a.md]", "[A]")
    text = (
        "[data](data.md), [set-up](../setup.py), [gone](../gone.py), [far](https://example.org) and ![i](../README.md)"
    )
    assert without_code(text, DOCS) == text.replace("[set-up](../setup.py)", "set-up")


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_link_and_anchor_is_there(site, pages):
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of the server
            continue
        for link in [*page.links, *page.loads]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = {path.name: [one for one in page.loads if re.match(r"(https?:)?//", one)] for path, page in pages.items()}
    assert not {name: found for name, found in loaded.items() if found}
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_the_gallery_has_every_recipe_with_command_cost_and_result(pages, site):
    text = (site / "recipes.html").read_text(encoding="utf-8")
    parts = dict(re.findall(r'<h3 id="(\w+)">(.*?)(?=<h[23]|</article>)', text, re.DOTALL))
    assert set(RECIPES) <= parts.keys()
    for name in RECIPES:
        assert "xalign train" in re.sub(r"<[^>]+>", "", parts[name]), name
        assert re.search(r"<strong>Cost:</strong> \w.*<strong>Expect:</strong> \w", parts[name], re.DOTALL), name


def test_the_reference_has_what_users_import_and_what_gin_files_name(pages, site):
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent == site / "reference"))
    assert {f"xalign_jax.api.{name}" for name in xalign_jax.__all__} <= anchors
    cli.register()
    classes = [cls for cls in gin_files.registered().values() if isinstance(cls, type)]
    named = {f"{cls.__module__}.{cls.__name__}" for cls in classes if cls.__module__.startswith("xalign_jax.")}
    assert named - anchors == set()


def test_the_methods_page_has_every_recipe_and_no_other():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    trained = text.partition("## Here in part")[0]
    named = set(re.findall(r"`(\w+)`", trained))
    assert set(RECIPES) - named == set()
    assert {name for name in named if re.search(r"_(tiny|\d+m|1_3b|base|large|lora)$", name)} - set(RECIPES) == set()
