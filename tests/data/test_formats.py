"""Formats of text: the same sentences give the same documents, and bad files are refused in a line."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import json
import lzma
import os
import struct
import warnings
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import polib
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from xalign_jax.data.store.prepare import prepare_store
from xalign_jax.data.text import lines
from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.readers import source_reader
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

SHARED = Path(os.environ.get("XALIGN_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "multiway"
ENGLISH = ['She said "no", and left.', "Fish & chips < bread", "One\u2028line", "It is 5 o'clock", "Only here", "Äpfel"]
GERMAN = [
    "Sie sagte „nein“, und ging.",
    "Fisch & Pommes < Brot",
    "Eine\u2028Zeile",
    "Es ist fünf Uhr",
    "",
    "apples  two",
]
TMX = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>\n{}</body></tmx>\n'


def read(name):
    return list(parse_name(name)[1].documents())


def sentences():
    """(group, English, German) of sentences that every format can hold; some German ones are missing."""
    rows = [(f"{en} {n}", de and f"{de} {n}") for n in range(20) for en, de in zip(ENGLISH, GERMAN, strict=True)]
    return [(str(number), en, de) for number, (en, de) in enumerate(rows, 1)]


def write_rows(folder, rows):
    """The task names of formats that hold a group in a row. They give row after row."""
    for side, language in ((1, "en"), (2, "de")):
        (folder / f"X.de-en.{language}").write_text("".join(f"{row[side]}\n" for row in rows))
    with zipfile.ZipFile(folder / "X.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("LICENSE", "free")
        for language in ("de", "en"):
            archive.write(folder / f"X.de-en.{language}", f"X.en-de.{language}")
    with open(folder / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("group_id", "en", "de"), *rows])
    (folder / "b.tsv").write_text("".join(f"{en}\t{de}\n" for en, de in [("en", "de"), *(row[1:] for row in rows)]))
    units = ""
    for _, en, de in rows:
        variants = "".join(
            f'<tuv xml:lang="{tag}">\n<seg>{escape(text)}</seg></tuv>' for tag, text in (("EN", en), ("de", de))
        )
        units += f"<tu>{variants}</tu>\n"
    (folder / "a.tmx").write_text(TMX.format(units))
    table = pa.table({"key": [row[0] for row in rows], "en": [r[1] for r in rows], "de": [r[2] or None for r in rows]})
    pa.parquet.write_table(table, folder / "a.parquet", row_group_size=7)
    pa.feather.write_feather(table, folder / "a.feather")
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    objects = [{"body": t, "lang": tag, "n": int(n)} for n, en, de in rows for tag, t in (("en", en), ("de", de))]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    chosen = "en=en,de=de,group_id=key"
    return {
        "pairs": f"pairs:en={folder}/X.de-en.en,de={folder}/X.de-en.de",
        "zip": f"zip:{folder}/X.zip",
        "csv": f"csv:{folder}/a.csv",
        "csv tsv": f"csv:{folder}/b.tsv",
        "tmx": f"tmx:{folder}/a.tmx",
        "parquet": f"parquet:{folder}/a.parquet,{chosen}",
        "feather": f"parquet:{folder}/a.feather,{chosen}",
        "arrow": f"parquet:{folder}/a.arrow,{chosen}",
        "jsonl": f"jsonl:en={folder}/a.jsonl,text=body,language=lang,group_id=n",
    }


def write_languages(folder, rows):
    """The task names of formats with a file for each language. They give language after language."""
    for side, language in ((1, "en"), (2, "de")):
        (folder / f"{language}.tsv").write_text("".join(f"{row[0]}\t{row[side]}\n" for row in rows))
        catalog = polib.POFile()
        catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
        catalog.extend(polib.POEntry(msgid=row[0], msgstr=row[side]) for row in rows)
        catalog.save(str(folder / f"{language}.po"))
        (folder / f"{language}.po.zst").write_bytes(zstandard.compress((folder / f"{language}.po").read_bytes()))
    catalogs = {suffix: f"po:en={folder}/en.{suffix},de={folder}/de.{suffix}" for suffix in ("po", "po.zst")}
    return {"tsv": f"tsv:en={folder}/en.tsv,de={folder}/de.tsv", **catalogs}


def test_the_same_sentences_in_every_format_give_the_same_documents(tmp_path):
    """Formats of rows and formats of a file a language differ in the order of the languages, and in nothing else."""
    rows = sentences()
    by_row, by_language = write_rows(tmp_path, rows), write_languages(tmp_path, rows)
    wanted = [Document(t, tag, n) for n, en, de in rows for tag, t in (("en", en), ("de", de)) if t]
    for kind, name in by_row.items():
        assert read(name) == wanted, kind
    wanted.sort(key=lambda document: document.language, reverse=True)
    # Catalogs are cleaned like Django's, which makes white space single.
    cleaned = [document._replace(text=" ".join(document.text.split())) for document in wanted]
    for kind, name in by_language.items():
        assert read(name) == (wanted if kind == "tsv" else cleaned), kind


def test_the_same_sentences_in_every_format_give_the_same_store(tmp_path):
    tokenizer = Tokenizer(Bytes(), Vocabulary("bytes"))
    plain = [(n, " ".join(en.split()), " ".join(de.split())) for n, en, de in sentences()]
    by_row, by_language = write_rows(tmp_path, plain), write_languages(tmp_path, plain)
    prints, arrays = {}, {}
    for kind, name in {**by_row, **by_language}.items():
        reader = source_reader(name)
        store = prepare_store(name, reader, tokenizer, tmp_path, {name: reader.fingerprint()}, lambda task: set())
        prints[kind] = json.loads((store / "store.json").read_text())["fingerprint"]
        found = sorted(store.glob("*/*/*.npy"))
        arrays[kind] = {str(file.relative_to(store)): np.load(file).tolist() for file in found}
    # The fingerprint covers the order of the documents.
    assert len({prints[kind] for kind in by_row}) == len({prints[kind] for kind in by_language}) == 1
    assert len(arrays["tsv"]) == 20 and all(found == arrays["tsv"] for found in arrays.values())


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_compression_and_its_damage(tmp_path, suffix):
    text = "".join(f"Zeile {i} mit Text {i * 7919 % 1000}\n" for i in range(30_000)).encode()
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](text[:1000]) + COMPRESS[suffix](text[1000:]))  # two streams in a row
    assert [d.text for d in read(f"lines:de={path}")] == text.decode().splitlines()
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    # zstd files carry no checksum unless they are asked to, so only a cut is found for certain.
    for content in (whole[:-9], b"not compressed\n", b"" if suffix == ".zst" else bytes(broken)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.txt\{suffix}:"):
            read(f"lines:de={path}")
    with pytest.raises(UserError, match="no such file"):
        read(f"lines:de={tmp_path}/none{suffix}")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("zstandard", "lines:en={}/a.zst"),
        ("lxml", "tmx:{}/a.tmx"),
        ("polib", "po:en={}/a.po"),
        ("pyarrow", "parquet:{}/a"),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, package, name):
    for file in ("a.zst", "a.tmx", "a.po", "a"):
        (tmp_path / file).write_bytes(b"x\n")
    found = importlib.import_module

    def missing(module, *args):
        if module.partition(".")[0] == package:
            raise ImportError(module)
        return found(module, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=rf"needs the package {package}, .*\.\[formats\]"):
        read(name.format(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("csv:a.csv", b"en,de\na,b\nc\n", "a.csv:3: 1 cells, but line 1 names 2 columns"),
        ("csv:a.csv", b"en,de\na,b,c\n", "a.csv:2: 3 cells"),
        ("csv:a.csv", b'en,de\na,"b\n', "a.csv:2: not CSV"),
        ("csv:a.csv", b"en,de\na,\xff\n", "a.csv:2: not UTF-8 at byte 3"),
        ("csv:a.csv", b"en,de\na,\0\n", "a.csv:2: a NUL byte"),
        ("csv:a.csv", b"en,score\na,1\n", "is the column 'score' a language? Choose columns"),
        ("csv:a.csv", b"id,en\n1,a\n", "is the column 'id' a language?"),
        ("csv:a.csv", b"en,EN\na,b\n", "two columns are in one language"),
        ("csv:a.csv", b"en,en\na,b\n", "the columns need different names"),
        ("csv:a.csv", b"", "a.csv: the file is empty"),
        ("csv:a.csv", b"\n\n", "the columns need different names"),
        ("csv:a.csv", b"en,group_id\na,1\nb,1\n", "a.csv:3: group_id '1' stands on line 2 already"),
        ("csv:a.csv", b"en,group_id\na,\n", "a.csv:2: no group_id"),
        ("csv:a.csv,en=English", b"en,de\na,b\n", "no column 'English'; the columns are en, de"),
        ("tmx:a.tmx", b"", "a.tmx:1: not XML"),
        ("tmx:a.tmx", b"<html>\n</html>", "a.tmx: no TMX file: it has no translation unit"),
        ("tmx:a.tmx", TMX.format("").encode(), "no translation unit"),
        ("tmx:a.tmx", TMX.format("<tu><tuv><seg>a</seg></tuv></tu>").encode(), "a.tmx:4: a <tuv> without xml:lang"),
        ("tmx:a.tmx", TMX.format('<tu><tuv xml:lang="../x"/></tu>').encode(), "a.tmx:4: '../x' is no name"),
        ("tmx:a.tmx", TMX.format("<tu>\n</tv>").encode(), "a.tmx:5: not XML"),
        ("tmx:a.tmx", TMX.format('<tu><tuv xml:lang="en"><seg>\xe4</seg></tuv></tu>').encode("latin-1"), "a.tmx:4: not XML"),
        ("tmx:a.tmx", TMX.format('<tu><tuv xml:lang="en"><seg>&x;</seg></tuv></tu>').encode(), "a.tmx:4: "),
        ("po:de=a.po", b'msgid "a"\nmsgstr "b\n', "a.po:2: expected a keyword of gettext"),
        ("po:de=a.po", b'msgid "a"\nmsgid "b"\nmsgid "c"\n', "a.po:2: not a gettext catalog"),
        ("po:de=a.po", b'msgid "a"\nmsgstr "\xff"\n', "a.po:2: not UTF-8 at byte 9"),
        ("po:de=a.po", b'msgid "a"\nmsgstr "b"\n\nmsgid "a"\nmsgstr "c"\n', "a.po:4: msgid 'a' has another translation on line 1"),
        ("po:de=a.mo", b"x" * 40, "a.mo: not a compiled gettext catalog"),
        ("zip:a.zip", b"PK", "a.zip: cannot be read"),
        ("parquet:a.parquet", b"PAR1 and no more", "a.parquet: cannot be read"),
        ("parquet:a.arrow", b"x" * 64, "a.arrow: cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_a_line(tmp_path, monkeypatch, file, content, said):
    monkeypatch.chdir(tmp_path)
    path = file.partition(":")[2].partition(",")[0].rpartition("=")[2]
    (tmp_path / path).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["csv:{}/no.csv", "tmx:{}/no.tmx", "zip:{}/no.zip", "parquet:{}/no.parquet", "po:de={}/no.po", "po:de={}/no.mo"])  # fmt: skip
def test_missing_files_of_every_format(tmp_path, name):
    with pytest.raises(UserError, match=r"/no\.\w+: no such file"):
        read(name.format(tmp_path))


def test_csv_cells_with_line_ends_marks_and_blank_rows(tmp_path, capsys):
    lines.say.cache_clear()
    (tmp_path / "a.csv").write_bytes('\ufeffen, pt_BR \r\n"one\r\nmore","um, ""dois"""\r\n\r\ntwo\u2028x,\r\n'.encode())
    assert read(f"csv:{tmp_path}/a.csv") == [
        Document("one\nmore", "en", "1"),
        Document('um, "dois"', "pt-BR", "1"),
        Document("two\u2028x", "en", "2"),
    ]
    read(f"csv:{tmp_path}/a.csv")
    assert capsys.readouterr().err == f"{tmp_path}/a.csv: 1 empty cells are skipped\n"


def test_several_files_keep_their_groups_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"en,de\n{name},{name}\n")
    found = read(f"csv:{tmp_path}/a.csv,{tmp_path}/b.csv,de=de,en=en")
    assert [d.group for d in found] == ["1/1", "1/1", "2/1", "2/1"]


def test_columns_of_parquet(tmp_path):
    rows = [{"en": "one", "de": "eins"}, None, {"en": None, "de": "drei"}]
    table = pa.table({"translation": rows, "n": [7, 8, 9], "t.x": ["a", "b", "c"]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    name = f"parquet:{tmp_path}/a.parquet"
    wanted = [Document("one", "en", "7"), Document("eins", "de", "7"), Document("drei", "de", "9")]
    assert read(f"{name},en=translation.en,de=translation.de,group_id=n") == wanted
    assert [d.text for d in read(f"{name},en=t.x")] == ["a", "b", "c"]
    for column, said in (
        ("title", "no column 'title'; the columns are translation, n, t.x"),
        ("translation.fr", "no column 'translation.fr'; the columns are"),
        ("translation", "the column 'translation' is struct<"),
        ("n", "the column 'n' is int64, not text"),
        ("n.x", "no column 'n.x'"),
    ):
        with pytest.raises(UserError) as refused:
            read(f"{name},en={column}")
        assert said in str(refused.value)
    broken = pa.StringArray.from_buffers(2, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff"))
    pa.feather.write_feather(pa.table({"en": broken}), tmp_path / "a.feather")
    with pytest.raises(UserError, match=r"a\.feather:2: not UTF-8 at byte 1"):
        read(f"parquet:{tmp_path}/a.feather")
    pa.feather.write_feather(pa.table({"en": ["a", "b\0"]}), tmp_path / "a.feather")
    with pytest.raises(UserError, match=r"a\.feather:2: a NUL character"):
        read(f"parquet:{tmp_path}/a.feather")


def test_inline_codes_and_languages_of_translation_memories(tmp_path):
    unit = (
        '<tu tuid="x"><note>n</note><tuv xml:lang="EN-us"><seg>A <bpt i="1">&lt;b&gt;</bpt><hi>bold &amp; new</hi><ept'
        ' i="1"/>\n  word<!-- no --><ph/>.</seg></tuv><tuv lang="zh_hans"><seg><![CDATA[字 <x>]]></seg></tuv></tu>'
    )
    (tmp_path / "a.tmx").write_text(TMX.format(unit + unit))
    found = [Document(text, tag, n) for n in "12" for text, tag in (("A bold & new word.", "en-US"), ("字 <x>", "zh"))]
    assert read(f"tmx:{tmp_path}/a.tmx") == found
    (tmp_path / "b.tmx").write_bytes(TMX.replace("?>", ' encoding="UTF-16"?>').format(unit).encode("utf-16"))
    assert read(f"tmx:{tmp_path}/b.tmx") == found[:2]


def test_no_entity_of_a_translation_memory_grows_or_reads_files(tmp_path):
    (tmp_path / "secret").write_text("secret")
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    for entities, used in ((f'<!ENTITY l0 "ha">{laughs}', "&l9;"), (f'<!ENTITY x SYSTEM "{tmp_path}/secret">', "&x;")):
        head = f'<?xml version="1.0"?>\n<!DOCTYPE tmx [{entities}]>\n<tmx><body>'
        for unit in (f'<tuv xml:lang="en"><seg>{used}</seg></tuv>', f'<tuv xml:lang="{used}"><seg>a</seg></tuv>'):
            (tmp_path / "a.tmx").write_text(f"{head}<tu>{unit}</tu></body></tmx>")
            with pytest.raises(UserError, match=r"a\.tmx:\d+: ") as refused:
                read(f"tmx:{tmp_path}/a.tmx")
            assert len(str(refused.value)) < 600 and "secret" not in str(refused.value).replace(str(tmp_path), "")


def test_a_large_translation_memory_is_read_in_little_memory(tmp_path):
    unit = '<tu><tuv xml:lang="en"><seg>{} is a number</seg></tuv></tu>\n'
    with gzip.open(tmp_path / "a.tmx.gz", "wt", compresslevel=1) as file:
        file.write(TMX.format("".join(unit.format(i) for i in range(70_000))))
    documents = parse_name(f"tmx:{tmp_path}/a.tmx.gz")[1].documents()
    used = [int(Path("/proc/self/statm").read_text().split()[1]) for n, _ in enumerate(documents) if n % 10_000 == 1000]
    assert len(used) == 7 and (used[-1] - used[0]) * os.sysconf("SC_PAGE_SIZE") < 10_000_000


def test_archives(tmp_path):
    path = tmp_path / "a.zip"

    def write(members, method=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, text in members.items():
                archive.writestr(name, text)

    write({"d/A.en-pt_br.en": "a\n\nc\n", "d/A.en-pt_br.pt_br": "x\ny\n\n", "B.de-en.de": "1\n", "B.de-en.en": "2\n"})
    assert read(f"zip:{path}") == [
        *(Document("1", "de", "1/1"), Document("2", "en", "1/1"), Document("a", "en", "2/1")),
        *(Document("x", "pt-BR", "2/1"), Document("y", "pt-BR", "2/2"), Document("c", "en", "2/3")),
    ]
    for members, said in (
        ({"A.en-de.en": "a\nb\n", "A.en-de.de": "x\n"}, "a.zip/A.en-de.de:2: the file ends here"),
        ({"A.en-de.en": "a\n"}, "A.en-de.en is in the archive, but A.en-de.de is not"),
        ({"A.en-de.de": "a\n"}, "A.en-de.de is in the archive, but A.en-de.en is not"),
        ({"A.txt": "a\n"}, "no pair of files such as"),
        ({"A.en-de.en": "a\n", "A.en-de.de": b"\xff\n"}, "a.zip/A.en-de.de:1: not UTF-8 at byte 1"),
        ({"A.en-de.en": "a" * 10_000_000, "A.en-de.de": "a\n"}, "a.zip/A.en-de.en: 10,000,000 bytes in"),
    ):
        write(members)
        with pytest.raises(UserError) as refused:
            read(f"zip:{path}")
        assert said in str(refused.value)
    write({"A.en-de.en": "same\n", "A.en-de.de": "text\n"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"same\n", b"sane\n"))
    with pytest.raises(UserError, match="cannot be read"):
        read(f"zip:{path}")
    # The archive's table says that a file is short, and the data go on.
    write({"A.en-de.en": "x\n" * 50_000, "A.en-de.de": "x\n" * 50_000})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 100_000), struct.pack("<I", 1000)))
    with pytest.raises(UserError, match="cannot be read"):
        read(f"zip:{path}")


def test_names_of_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, source = parse_name("csv:a.csv, b.tsv ,en= English,group_id=key")
    assert name == f"csv:{tmp_path}/a.csv,{tmp_path}/b.tsv,en=English,group_id=key"
    assert source.columns == (("en", "English"),) and source.group == "key"
    assert parse_name("parquet:./lang=en/a.parquet")[1].files == (f"{tmp_path}/lang=en/a.parquet",)
    assert parse_name("tmx:a.tmx,b.tmx.gz")[0] == f"tmx:{tmp_path}/a.tmx,{tmp_path}/b.tmx.gz"
    assert parse_name(parse_name("po:msgid=en,de=x")[0]) == parse_name("po:msgid=en,de=x")
    for wrong in (
        *("csv:", "csv:en=English", "csv:a.csv,en=", "csv:a.csv,en=x,en=y", "csv:a.csv,e n=x", "csv:a,,b", "tmx:en=a"),
        *("zip:", "po:msgid=en", "po:msgid=../x,de=a", "po:msgid=en,en=a", "jsonl:text=body", "po:a.po"),
    ):
        with pytest.raises(UserError, match=r"Mixture\.tasks"):
            parse_name(wrong)
    languages = [normal_language(tag) for tag in ("EN", "pt_br", "ZH-hant-tw", "zh_Hans", "no", "es-419")]
    assert languages == ["en", "pt-BR", "zh-Hant-TW", "zh", "nb", "es-419"]


@pytest.mark.parametrize("corpus", ["xquad", "wesnoth"])
def test_real_text_in_other_formats(tmp_path, corpus):
    """The shared TSV files, written as tables and translation memories, give the documents of the TSV files."""
    paths = {language: SHARED / corpus / f"{language}.tsv.gz" for language in ("en", "de", "zh")}
    if not all(path.exists() for path in paths.values()):
        pytest.skip("no shared data")
    documents = read("tsv:" + ",".join(f"{language}={path}" for language, path in paths.items()))
    groups = {}
    for document in documents:
        groups.setdefault(document.group, {})[document.language] = document.text
    rows = [{"group_id": group, **{tag: texts.get(tag) for tag in paths}} for group, texts in groups.items()]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with lzma.open(tmp_path / "a.csv.xz", "wt", newline="", preset=0) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert sorted(read(f"parquet:{tmp_path}/a.parquet")) == sorted(documents)
    assert sorted(read(f"csv:{tmp_path}/a.csv.xz")) == sorted(documents)
    units = (
        "".join(f'<tuv xml:lang="{tag}"><seg>{escape(row[tag])}</seg></tuv>' for tag in paths if row[tag])
        for row in rows
    )
    (tmp_path / "a.tmx").write_text(TMX.format("".join(f"<tu>{unit}</tu>\n" for unit in units)))
    found = read(f"tmx:{tmp_path}/a.tmx")
    assert sorted((d.language, d.text) for d in found) == sorted((d.language, d.text) for d in documents)
