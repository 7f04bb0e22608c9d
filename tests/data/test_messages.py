"""Catalogs of gettext as text: `po:`."""

from __future__ import annotations

from pathlib import Path

import polib
import pytest

from xalign_jax.data.text import lines, messages
from xalign_jax.data.text.catalogs import read_mo
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.stamps import is_current
from xalign_jax.errors import UserError


def read(name):
    return list(parse_name(name)[1].documents())


def write_mo(path, messages):
    catalog = polib.POFile()
    catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    catalog.extend(polib.POEntry(msgid=source, msgstr=text) for source, text in messages.items())
    catalog.save_as_mofile(str(path))


CATALOG = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#: a.c:1
#, c-format
msgid "%d <b>day</b>"
msgid_plural "%d <b>days</b>"
msgstr[0] "%d Tag"
msgstr[1] "%d Tage"

msgctxt "verb"
msgid "view"
msgstr ""
"an"
"sehen"

msgid "view"
msgstr "Ansicht"

#, fuzzy
#| msgid "Old one"
msgid "New one"
msgstr "Altes"

msgid "Later"
msgstr ""

msgid "%d"
msgstr "%d"

#~ msgid "Gone"
#~ msgstr "Weg"
"""


def test_messages_of_catalogs(tmp_path, capsys):
    lines.say.cache_clear()
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "a.po").write_text(CATALOG)
    write_mo(tmp_path / "de" / "a.mo", {"never": "gelesen"})
    write_mo(tmp_path / "de" / "b.mo", {"view": "Ansicht", "Quit": "Beenden"})
    write_mo(tmp_path / "fr.mo", {"Quit": "Quitter", "New one": "Nouveau"})
    assert read(f"po:msgid=en,de={tmp_path}/de,fr={tmp_path}/fr.mo") == [
        Document("# days", "en", "%d <b>days</b>"),
        Document("# Tage", "de", "%d <b>days</b>"),
        Document("view", "en", "verb\x04view"),
        Document("ansehen", "de", "verb\x04view"),
        Document("view", "en", "view"),
        Document("Ansicht", "de", "view"),
        Document("Quit", "en", "Quit"),
        Document("Beenden", "de", "Quit"),
        Document("New one", "en", "New one"),
        Document("Nouveau", "fr", "New one"),
        Document("Quitter", "fr", "Quit"),
    ]
    said = capsys.readouterr().err
    assert said == f"{tmp_path}/de/a.po: messages that are skipped: 1 fuzzy, 1 obsolete, 1 untranslated\n"
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: no \.po or \.mo file"):
        read(f"po:de={tmp_path}/none")
    # A file that appears in a folder makes the stamps outdated.
    source = parse_name(f"po:de={tmp_path}/de")[1]
    stamps, before = source.stamps(), source.fingerprint()
    assert all(map(is_current, stamps))
    write_mo(tmp_path / "de" / "c.mo", {"c": "d"})
    assert not all(map(is_current, stamps)) and source.fingerprint() != before


def test_real_catalogs_give_the_same_messages_as_their_compiled_form():
    """Django installs both forms of each catalog. msgfmt leaves out fuzzy, obsolete and untranslated messages too."""
    django = pytest.importorskip("django")
    sources = sorted(Path(django.__file__).parent.glob("conf/locale/*/LC_MESSAGES/*.po"))[::3]
    assert len(sources) > 20
    for path in sources:
        found = list(messages._read_po(str(path)))
        assert sorted(found) == sorted(read_mo(str(path.with_suffix(".mo")))), path
