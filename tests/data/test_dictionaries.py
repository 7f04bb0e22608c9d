"""Dictionaries of FreeDict and extracts of Wiktionary."""

from __future__ import annotations

import gzip
import json

import pytest

from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.errors import UserError

HEAD = '<?xml version="1.0"?>\n<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="en"><teiHeader/><text><body{}>\n{}</body></text></TEI>\n'
CAT = (
    "<entry><form><orth>cat</orth><pron>kat</pron><form type='infl'><orth>cats</orth></form></form><sense>"
    "<cit type='trans'{}><quote>Katze<note>f</note></quote></cit><cit type='example'><quote>a black cat</quote>"
    "<cit type='trans'><quote>eine schwarze Katze</quote></cit></cit></sense><sense><cit type='trans'><quote>Kater"
    "\n  </quote></cit></sense></entry>\n"
)
DOG = "<entry><form><orth>dog</orth></form><form><orth>hound</orth></form><cit type='trans'><quote>Hund</quote></cit></entry>"


def words(path, languages=("en", "de"), **settings):
    return [entry.words for entry in read_dictionary(str(path), languages, **settings).entries]


def test_freedict(tmp_path):
    path = tmp_path / "eng-deu.tei"
    path.write_text(HEAD.format("", CAT.format("") + DOG))
    wanted = [((0, "cat"), (1, "Katze"), (1, "Kater")), ((0, "dog"), (1, "Hund")), ((0, "hound"), (1, "Hund"))]
    assert words(path) == wanted
    with gzip.open(tmp_path / "a.tei.gz", "wt") as file:
        file.write(HEAD.format(' xml:lang="eng"', CAT.format(' xml:lang="deu"') + DOG))
    assert words(tmp_path / "a.tei.gz") == wanted


@pytest.mark.parametrize(
    ("text", "languages", "said"),
    [
        (HEAD.format("", CAT.format(' xml:lang="fr"')), ("en", "de"), ":3: the file states the language 'fr' where de"),
        (HEAD.format(' xml:lang="la"', DOG), ("en", "de"), ":3: the file states the language 'la' where en is due"),
        (HEAD.format("", DOG), ("en", "de", "fr"), ":3: the language of the translation is not stated"),
        (HEAD.format("", ""), ("en", "de"), ": no dictionary of FreeDict: it has no <entry>"),
        (
            HEAD.format("", "<entry><form><orth>a</orth></form><def>b</def></entry>"),
            ("en", "de"),
            "no entry has a trans",
        ),
        (HEAD.format("", DOG)[:-30], ("en", "de"), ":3: not XML"),
        ("", ("en", "de"), ":1: not XML"),
    ],
)
def test_freedict_that_is_refused(tmp_path, text, languages, said):
    (tmp_path / "a.tei").write_text(text)
    with pytest.raises(UserError) as refused:
        words(tmp_path / "a.tei", languages)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UserError, match="a dictionary of dictd, typeset for reading"):
        words(tmp_path / "eng-deu.dict.dz")


def wiktionary(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_wiktionary(tmp_path):
    """Translations stand under the word or its senses; other languages, redirects and descriptions are left out."""
    cat = {"word": "cat", "lang_code": "en", "pos": "noun", "sounds": [{"ipa": "kæt"}]}
    cat["translations"] = [
        {"lang": "German", "code": "de", "word": "Katze", "sense": "animal"},
        {"lang": "French", "lang_code": "fr", "word": "chat"},
        {"lang": "Mandarin", "lang_code": "cmn", "word": "貓"},
        {"lang": "German", "lang_code": "de", "note": "please add"},
    ]
    cat["senses"] = [{"glosses": ["x"], "translations": [{"lang_code": "de", "word": "Kater"}]}, {"glosses": ["y"]}]
    rows = [
        {"title": "Cat", "redirect": "cat"},
        cat,
        {"word": "chat", "lang_code": "fr", "senses": []},
        {"word": "house", "lang_code": "en"},
    ]
    path = tmp_path / "raw.jsonl"
    path.write_text(wiktionary(*rows))
    assert words(path) == [((0, "cat"), (1, "Katze"), (1, "Kater"))]
    assert words(path, ("en", "zh", "fr")) == [((0, "cat"), (1, "貓"), (2, "chat"))]
    assert read_dictionary(str(path)).report == {"lines": 2, "empty": 0, "too_long": 0, "single": 1, "duplicates": 0}
    (tmp_path / "raw.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert words(tmp_path / "raw.jsonl.gz") == words(path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"word": "chat", "lang_code": "fr"}, ":1: an entry of another language; no entry of the file is in 'en'"),
        ({"lang_code": "en"}, ":1: no string under the key 'word'"),
        ({"word": 7, "lang_code": "en"}, ":1: no string under the key 'word'"),
        ({"word": "a", "lang_code": "en", "translations": {"de": "b"}}, ":1: 'translations' is no list of objects"),
        ({"word": "a", "lang_code": "en", "senses": ["b"]}, ":1: 'senses' is no list of objects"),
        ({"word": "a\ud800", "lang_code": "en"}, ":1: half a surrogate pair at character 1"),
        ({"word": "a\0", "lang_code": "en"}, ":1: a NUL character"),
    ],
)
def test_wiktionary_that_is_refused(tmp_path, row, said):
    (tmp_path / "a.jsonl").write_text(wiktionary(row))
    with pytest.raises(UserError) as refused:
        words(tmp_path / "a.jsonl")
    assert said in str(refused.value)
