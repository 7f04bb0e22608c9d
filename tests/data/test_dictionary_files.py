"""Dictionaries as tables and JSON, and the languages that their names state."""

import pytest
from fakes import write

from xalign_jax.data.lexicon import files as dictionaries
from xalign_jax.data.lexicon.filenames import named_languages
from xalign_jax.errors import UserError


def test_dictionary_forms(tmp_path):
    tsv = write(tmp_path / "a.tsv.gz", "house\tHaus\nhouse\tHeim\nhouse\tHaus\n\ntree\t\ngo on with it\tweiter\n")
    found = dictionaries.read_dictionary(tsv, max_words=3)
    assert [e.words for e in found.entries] == [((0, "house"), (1, "Haus"), (1, "Heim"))]
    assert found.report == {"lines": 5, "empty": 1, "too_long": 1, "single": 2, "duplicates": 1}
    muse = write(tmp_path / "muse.txt", "house Haus\ntree Baum\n")
    assert [e.words[1] for e in dictionaries.read_dictionary(muse).entries] == [(1, "Haus"), (1, "Baum")]
    pair = write(tmp_path / "pair.json", '{"src_text": "house", "tgt_text": "Haus"}\n')
    assert dictionaries.read_dictionary(pair).entries[0].words == ((0, "house"), (1, "Haus"))
    rows = '{"words": "house $ Haus $ maison", "index": 3}\n{"words": "home $ Heim", "index": 3}\n'
    multi = dictionaries.read_dictionary(write(tmp_path / "multi.json", rows), ("en", "de", "fr"))
    assert multi.entries[0].words == ((0, "house"), (0, "home"), (1, "Haus"), (1, "Heim"), (2, "maison"))


@pytest.mark.parametrize(
    "line",
    [
        "cat\tKatze\t0.91",
        "cat\tKatze\t12\t-1.5e-3\t98 %\t",
        "cat\tKatze\t\t",
        "cat Katze 0,91",
        '{"src_text": "cat", "tgt_text": "Katze", "score": 0.91, "count": null}',
        '{"words": "cat $ Katze", "index": 3, "score": 1}',
    ],
)
def test_numbers_beside_the_words_are_scores(tmp_path, line):
    (entry,) = dictionaries.read_dictionary(write(tmp_path / "d", line + "\n")).entries
    assert entry.words == ((0, "cat"), (1, "Katze"))


def test_a_number_may_be_a_word_and_an_empty_column_keeps_its_place(tmp_path):
    path = write(tmp_path / "d", "five\t5\n5\tfünf\ncat\tKatze\t\tgato\t0.5\n")
    found = dictionaries.read_dictionary(path, ("en", "de", "fr", "es"))
    wanted = [((0, "five"), (1, "5")), ((0, "5"), (1, "fünf")), ((0, "cat"), (1, "Katze"), (3, "gato"))]
    assert [entry.words for entry in found.entries] == wanted


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("en-de.tsv", ("en", "de")),
        ("de-en.tsv.gz", ("de", "en")),
        ("eng_fra.txt", ("en", "fr")),
        ("freedict-eng-deu.tsv", ("en", "de")),
        ("EN-DE.tsv", ("en", "de")),
        ("en-de.0-5000.txt", ("en", "de")),
        ("en-de-fr.jsonl", ("en", "de", "fr")),
        ("en-pt.tsv", ("en", "pt-BR")),
        ("en-zh-Hant.tsv", ("en", "zh-Hant")),
        ("words.tsv", None),
        ("my-new-list.tsv", None),
        ("es-en/words.tsv", None),
    ],
)
def test_a_dictionary_names_its_languages(name, languages):
    assert named_languages(name, ("en", "de", "fr", "pt-BR", "zh-Hant")) == languages


def test_a_dictionary_in_another_language_is_refused_by_its_name():
    with pytest.raises(
        UserError, match=r"Lexicon.paths: d/en-fr.tsv names the language 'fr', but .* are en, de; remove"
    ):
        named_languages("d/en-fr.tsv", ("en", "de"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one two three", "d:2: expected source<TAB>target"),
        ('{"a": 1}', "d:2: expected the keys"),
        ('{"words": "a $ b", "index": "x"}', "d:2: index must be"),
        ('{"words": ', "d:2: not JSON"),
        ("cat\tKatze\tnoun", "d:2: 'noun' in column 3 is no score, and the file is in 2 languages (en, de)"),
        ("cat\tKatze\tKater\t0.3", "d:2: 'Kater' in column 3"),
        ("cat Katze noun", "d:2: expected source<TAB>target"),
        ("cat\tKatze {f}\tnoun\t[zool.]", "d:2: 'Katze {f}' holds the remark '{f}', as dict.cc writes grammar"),
        ('{"words": "cat $ Katze $ chat"}', "d:2: 'chat' in column 3"),
        ('{"src_text": "cat", "tgt_text": "Katze", "pos": "noun"}', "d:2: unknown key 'pos'"),
        ('{"src_text": "cat", "tgt_text": "Katze", "words": "a $ b"}', "d:2: expected the keys"),
    ],
)
def test_malformed_dictionaries(tmp_path, line, message):
    path = write(tmp_path / "d", f"house\tHaus\n{line}\n")
    with pytest.raises(UserError) as error:
        dictionaries.read_dictionary(path)
    assert message in str(error.value)
