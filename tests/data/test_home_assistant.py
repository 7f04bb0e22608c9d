"""Interface strings of Home Assistant: ICU messages, and strings that are not translated."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from xalign_jax.data.text import home_assistant
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.home_assistant import InterfaceStrings, plain_message
from xalign_jax.errors import UserError

HASH = "0" * 32


def write(folder, **languages):
    """The package's files; a language's strings are divided over two of them."""
    for part, first in (("", True), ("config/", False)):
        (folder / "static" / "translations" / part).mkdir(parents=True, exist_ok=True)
        for language, strings in languages.items():
            half = {key: text for key, text in strings.items() if (key < "m") == first}
            path = folder / "static" / "translations" / f"{part}{language.replace('_', '-')}-{HASH}.json"
            path.write_text(json.dumps(half))


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(home_assistant, "package_folder", lambda package, task: tmp_path)
    home_assistant._documents.cache_clear()
    home_assistant.say.cache_clear()
    yield tmp_path
    home_assistant._documents.cache_clear()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Open the door", "Open the door"),
        ("{name} is {state}", "# is #"),
        ("{n} {n, plural,\n one {area}\n other {areas}\n}", "# areas"),
        ("{n, plural, one {a {x}} other {many {x}}} left", "many # left"),
        ("{on, select, yes {in {y}} no {out}} end", "out end"),  # without `other`, the last
        ("at {t, time, short} or {d, date}", "at # or #"),
        ("''{x}'' isn't '{this}'", "'#' isn't {this}"),
        ("", ""),
        *(
            (wrong, None)
            for wrong in ("{", "}", "a {b", "{a, plural, one {b}", "{a, plural, one {b}}}", "{a{b}}", "{" * 5000)
        ),
    ],
)
def test_icu_messages(message, text):
    assert plain_message(message) == text


def test_strings_are_grouped_by_their_english(package, capsys):
    write(
        package,
        en={"a": "Delete it", "b": "Server", "n": "Delete it", "o": "42 %", "p": "Hello {name}", "q": "Gone {"},
        de={"a": "Löschen", "b": "Server", "n": "Entfernen", "o": "42 %", "p": "Hallo {name}", "z": "Alt"},
        nb={"a": "Slett"},
        no={"a": "Fjern", "p": "Hei {name}"},
        zh_Hans={"a": "删除"},
    )
    found = list(InterfaceStrings().documents())
    # Files of folders come first, so "n" is the first key of "Delete it".
    assert found == [
        Document("Delete it", "en", "n"),
        Document("Hello #", "en", "p"),
        Document("Server", "en", "b"),
        # "Server" equals the English string, so it counts as untranslated.
        Document("Entfernen", "de", "n"),
        Document("Hallo #", "de", "p"),
        Document("Löschen", "de", "n"),
        Document("Slett", "nb", "n"),
        Document("Hei #", "nb", "p"),
        Document("删除", "zh", "n"),
    ]
    assert capsys.readouterr().err == "home_assistant: 1 strings that are no ICU messages are skipped\n"


def test_packages_that_are_refused(package):
    with pytest.raises(UserError, match=r"home_assistant: no English strings are in "):
        list(InterfaceStrings().documents())
    write(package, en={"a": "half \ud800"})
    with pytest.raises(UserError, match=rf"en-{HASH}\.json:1: half a surrogate pair"):
        list(InterfaceStrings().documents())
    (package / "static" / "translations" / f"en-{HASH}.json").write_text("[")
    with pytest.raises(UserError, match=rf"en-{HASH}\.json:1: not JSON"):
        list(InterfaceStrings().documents())


def test_the_installed_package():
    pytest.importorskip("hass_frontend")
    home_assistant._documents.cache_clear()
    found = Counter(document.language for document in InterfaceStrings().documents())
    assert len(found) > 60 and found["en"] > 4000
    assert sum(count > 0.7 * found["en"] for count in found.values()) >= 38
    assert not [
        document for document in InterfaceStrings().documents() if "{" in document.text and "plural," in document.text
    ]
