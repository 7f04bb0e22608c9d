import functools
import gzip
import importlib.util
import struct
from types import SimpleNamespace

import pytest
from fakes import write

from xalign_jax.data.lexicon import files as dictionaries
from xalign_jax.data.text import catalogs, docstrings, lines
from xalign_jax.data.text import stamps as stamps_module
from xalign_jax.data.text.files import AlignedLines, Document, JsonLines, MultiwayTsv, TextFiles
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.stamps import is_current
from xalign_jax.errors import UserError


def test_text_blocks_and_lines(tmp_path):
    path = write(tmp_path / "a.txt.gz", "one\ntwo\n\n \nthree\r\n")
    assert [d.text for d in TextFiles((("en", path),)).documents()] == ["one\ntwo", "three"]
    assert [d.text for d in TextFiles((("en", path),), "line").documents()] == ["one", "two", "three"]


def test_multiway_tsv_joins_on_id(tmp_path):
    en = write(tmp_path / "en.tsv", "p#1\tHello\np#2\tBye\n")
    de = write(tmp_path / "de.tsv", "p#2 \tTschüss\np#3\t\n")
    assert list(MultiwayTsv((("en", en), ("de", de))).documents()) == [
        Document("Hello", "en", "p#1"),
        Document("Bye", "en", "p#2"),
        Document("Tschüss", "de", "p#2"),
    ]


def test_aligned_lines(tmp_path):
    en, de = write(tmp_path / "a.en", "one\n\nthree\n"), write(tmp_path / "a.de", "eins\nzwei\ndrei\n")
    documents = list(AlignedLines((("en", en), ("de", de))).documents())
    assert [d.group for d in documents if d.language == "en"] == ["1", "3"]
    assert len(documents) == 5


def test_json_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "language": "de", "group_id": 7}\n')
    assert list(JsonLines((("en", path),)).documents()) == [Document("a", "en"), Document("b", "de", "7")]
    path = write(
        tmp_path / "b.jsonl", '{"text": "a", "language": null, "group_id": null}\n{"text": "b", "group_id": 0}\n'
    )
    assert list(JsonLines((("en", path),)).documents()) == [Document("a", "en"), Document("b", "en", "0")]
    path = write(tmp_path / "c.jsonl", '{"text": "\\ud83d\\ude00", "title": "cut off: \\ud83d"}\n')
    assert list(JsonLines((("en", path),)).documents()) == [Document("\U0001f600", "en")]


@pytest.mark.parametrize(
    ("kind", "content", "place"),
    [
        (TextFiles, b"", "bad: the file is empty"),
        (TextFiles, b"fine\n\xff\xfe\n", "bad:2: not UTF-8"),
        (MultiwayTsv, b"1\ta\nno tab\n", "bad:2: expected id<TAB>text"),
        (MultiwayTsv, b"1\ta\n1\tb\n", "bad:2: id '1' stands on line 1"),
        (JsonLines, b'{"text": "a"}\n{"text"\n', "bad:2: not JSON"),
        (JsonLines, b"[1]\n", "bad:1: expected a JSON object"),
        (JsonLines, b'{"text": "half a pair: \\ud83d"}\n', "bad:1: half a surrogate pair at character 13"),
        (JsonLines, b'{"txt": "a"}\n', "bad:1: no string under the key 'text'"),
        (
            JsonLines,
            b'{"text": "a", "group_id": [7]}\n',
            "bad:1: 'group_id' is [7]; expected a string or a whole number",
        ),
        (JsonLines, b'{"text": "a", "language": true}\n', "bad:1: 'language' is True; expected a string"),
        (JsonLines, b'{"text": "a\\u0000b"}\n', "bad:1: a NUL character, which no text has, at character 1"),
        (JsonLines, b'{"text": ' + b"[" * 100_000 + b"\n", "bad:1: not JSON"),
    ],
)
def test_malformed_files_name_file_and_line(tmp_path, kind, content, place):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(UserError) as error:
        list(kind((("en", str(tmp_path / "bad")),)).documents())
    assert place in str(error.value)


LINE_READERS = {
    "text": (TextFiles, "{}"),
    "lines": (functools.partial(TextFiles, document="line"), "{}"),
    "tsv": (MultiwayTsv, "{}\t{}"),
    "pairs": (AlignedLines, "{}"),
    "jsonl": (JsonLines, '{{"text": "{}"}}'),
    "dictionary": (None, "{}\tx{}"),
}


def read_words(reader, path):
    """What a reader makes of a file: its texts, or the source words of a dictionary."""
    if reader is None:
        return [entry.words[0][1] for entry in dictionaries.read_dictionary(str(path)).entries]
    return [word for document in reader((("en", str(path)),)).documents() for word in document.text.split("\n")]


@pytest.mark.parametrize(("reader", "form"), LINE_READERS.values(), ids=LINE_READERS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_line_ends_and_damage_in_every_reader_of_lines(tmp_path, reader, form, suffix):
    """CR LF and byte-order marks are no text; CR alone and NUL bytes are refused, for they hide where lines end."""
    path = tmp_path / f"file{suffix}"
    lines = [form.format(word, word) for word in ("one", "two", "three")]
    for end in ("\n", "\r\n"):
        for mark in ("", "\ufeff"):
            write(path, "".join(mark + line + end for line in lines))
            assert read_words(reader, path) == ["one", "two", "three"], (end, mark)
    for end, said in (("\r", ":1: a carriage return within a line"), ("\0\n", ":1: a NUL byte")):
        write(path, "".join(line + end for line in lines) + "\n")
        with pytest.raises(UserError) as refused:
            read_words(reader, path)
        assert said in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_line_separator_ends_no_line(tmp_path):
    """U+2028 stands inside texts of the web and inside JSON; readers of parallel text would lose their alignment."""
    en = write(tmp_path / "a.en", "one\u2028more\ntwo\n")
    de = write(tmp_path / "a.de", "eins\nzwei\n")
    assert [d.group for d in AlignedLines((("en", en), ("de", de))).documents()] == ["1", "1", "2", "2"]
    path = write(tmp_path / "a.jsonl", '{"text": "one\u2028more"}\n')
    assert [d.text for d in JsonLines((("en", path),)).documents()] == ["one\u2028more"]


@pytest.mark.parametrize("name", ["text:en=~nobody-has-this-name/a.txt", "text:en=a\0.txt", "text:e n=a.txt"])
def test_paths_and_languages_that_cannot_be_are_refused(name):
    with pytest.raises(UserError):
        parse_name(name)


def test_missing_damaged_and_misaligned_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        list(TextFiles((("en", str(tmp_path / "none.txt")),)).documents())
    whole = gzip.compress(b"line\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.gz: cannot be read"):
        list(TextFiles((("en", str(tmp_path / "cut.gz")),)).documents())
    en, de = write(tmp_path / "a.en", "1\n2\n"), write(tmp_path / "a.de", "1\n")
    with pytest.raises(UserError, match=r"a\.de:2: the file ends here"):
        list(AlignedLines((("en", en), ("de", de))).documents())


def test_spelled_names_resolve_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    name, source = parse_name("lines:en=a.txt,pt-BR=~/b.txt.gz")
    assert name == f"lines:en={tmp_path}/a.txt,pt-BR=/home/somebody/b.txt.gz"
    assert source.document == "line"
    assert parse_name("docs_en") is None
    assert parse_name("tfds:wiki40b/en") is None
    for wrong in ("text:a.txt", "tsv:en=", "text:en=a,en=b"):
        with pytest.raises(UserError, match=r"Mixture\.tasks"):
            parse_name(wrong)


def test_fingerprints_and_stamps_follow_the_file(tmp_path):
    source = TextFiles((("en", write(tmp_path / "a.txt", "one")),))
    before, stamps = source.fingerprint(), source.stamps()
    assert all(map(is_current, stamps))
    write(tmp_path / "a.txt", "two more")
    assert source.fingerprint() != before
    assert not all(map(is_current, stamps))


def test_docstrings_of_another_python_are_another_text(monkeypatch):
    """numpy 2.4.6 for Python 3.11 holds numpy.distutils, and for 3.12 it does not."""
    source = docstrings.Documentation(("optax",))
    before, stamps = source.fingerprint(), source.stamps()
    assert all(map(is_current, stamps))
    monkeypatch.setattr(stamps_module, "sys", SimpleNamespace(version_info=SimpleNamespace(major=3, minor=99)))
    assert source.fingerprint() != before
    assert not all(map(is_current, stamps))


def test_cldr():
    pytest.importorskip("babel")
    found = dictionaries.cldr_dictionary(("en", "de", "fr"))
    words = {entry.words for entry in found.entries}
    assert ((0, "Germany"), (1, "Deutschland"), (2, "Allemagne")) in words
    assert ((0, "Monday"), (1, "Montag"), (2, "lundi")) in words
    assert len(words) > 800
    with pytest.raises(UserError, match=r"Lexicon\.languages.*'xx'"):
        dictionaries.cldr_dictionary(("en", "xx"))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\.\[demo\]"):
        catalogs._documents.__wrapped__("django")
    with pytest.raises(UserError, match=r"pip install numpy"):
        docstrings._documents.__wrapped__(("numpy",))


DOCSTRING = """Return the sum of all the elements in an array.

    This function is like `numpy.sum`, but it is *much* slower. See
    :func:`~jax.numpy.sum` for the faster one.

    Parameters
    ----------
    axis : int, optional
        The axis along which the elements of the array are summed.
    out: An array into which the result of the call
      is placed when it is given.

    Notes
    -----
    The Riemann sum :math:`\\sum_i x_i` is not what you get here at all.

    Use it like this in a program that you write::

        x = Sum(array) and this is not prose at all.

    >>> total = 1  # Nor is this a line that one would read.

    === ===
    a   b
    """


def test_prose_keeps_running_text():
    assert docstrings.prose(DOCSTRING) == [
        "Return the sum of all the elements in an array.",
        "This function is like numpy.sum, but it is much slower. See jax.numpy.sum for the faster one.",
        "The axis along which the elements of the array are summed.",
        "An array into which the result of the call is placed when it is given.",
    ]


def test_documentation_is_deduplicated():
    documents = list(docstrings.Documentation(("optax",)).documents())
    paragraphs = [line.casefold() for d in documents for line in d.text.split("\n")]
    assert len(documents) > 100
    assert len(paragraphs) == len(set(paragraphs))


def mo_file(path, messages):
    """A compiled catalog as msgfmt writes it."""
    pairs = [(source.encode(), text.encode()) for source, text in sorted(messages.items())]
    tables, data, start = [[], []], b"", 28 + 16 * len(pairs)
    for side in (0, 1):
        for pair in pairs:
            tables[side] += [len(pair[side]), start + len(data)]
            data += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    path.write_bytes(head + b"".join(struct.pack(f"<{len(t)}I", *t) for t in tables) + data)


def test_catalog_messages(tmp_path):
    messages = {
        "": "Language: de",
        "Yes": "Ja",
        "verb\x04view": "ansehen",
        "%(n)d day\0%(n)d days": "%(n)d Tag\0%(n)d Tage",
    }
    mo_file(tmp_path / "de.mo", messages)
    assert sorted(catalogs.read_mo(str(tmp_path / "de.mo"))) == [
        ("", "%(n)d days", "%(n)d Tage"),
        ("", "Yes", "Ja"),
        ("verb", "view", "ansehen"),
    ]
    assert catalogs.clean("Hello <b>%(name)s</b> &amp; {other}\n") == "Hello # & #"
    assert catalogs.normal_language("zh_Hans") == "zh"
    whole = (tmp_path / "de.mo").read_bytes()
    for damaged in (b"x" * 40, b"", whole[:-8], whole[: len(whole) // 2], whole.replace(b"Ja\0", b"Jaa")):
        (tmp_path / "bad.mo").write_bytes(damaged)
        with pytest.raises(UserError, match=r"bad\.mo: not a compiled gettext catalog"):
            list(catalogs.read_mo(str(tmp_path / "bad.mo")))


def test_django_catalogs():
    pytest.importorskip("django")
    documents = list(catalogs.Catalogs().documents())
    languages = {d.language for d in documents}
    assert len(languages) > 80
    assert {"en", "de", "pt-BR", "zh"} <= languages
    assert len(set(documents)) == len(documents)


@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_lines_do_not_depend_on_how_the_file_is_cut_into_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\n\n\u2028zwei\nein Ende ohne Zeilenende ü".encode())
    assert list(lines.read_lines(str(file))) == [
        (1, "one"), (2, ""), (3, "\u2028zwei"), (4, "ein Ende ohne Zeilenende ü"),
    ]  # fmt: skip
    file.write_bytes(b"good\n" * 9 + b"bad \xff\n" + b"good\n")
    read = lines.read_lines(str(file))
    assert [next(read) for _ in range(9)] == [(number, "good") for number in range(1, 10)]
    with pytest.raises(UserError, match=r"a\.txt:10: not UTF-8 at byte 5"):
        next(read)
