"""Files of text in other formats: translation memories, catalogs, archives and tables."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet

from fuzz.harness import Reader
from fuzz.readers.texts import ENGLISH, GERMAN, TEXTS
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.home_assistant import plain_message
from xalign_jax.data.text.lines import is_language, parse_object
from xalign_jax.data.text.names import parse_name

TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en" datatype="plaintext"/><body>
{}</body></tmx>
"""
UNIT = '<tu><tuv xml:lang="en"><seg>{}<ph>1</ph></seg></tuv>\n<tuv xml:lang="DE"><seg><hi>{}</hi></seg></tuv></tu>\n'


def _tmx() -> bytes:
    return TMX.format("".join(map(UNIT.format, ENGLISH, GERMAN))).encode()


def _po() -> bytes:
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    plural = '#, c-format\nmsgid "%d day"\nmsgid_plural "%d days"\nmsgstr[0] "%d Tag"\nmsgstr[1] "%d Tage"\n\n'
    old = '#, fuzzy\nmsgctxt "x"\nmsgid "Perhaps"\nmsgstr "Vielleicht"\n\n#~ msgid "Old"\n#~ msgstr "Alt"\n'
    pairs = zip(ENGLISH, GERMAN, strict=True)
    return (head + "".join(f'msgid "{en}"\nmsgstr ""\n"{de}"\n\n' for en, de in pairs) + plural + old).encode()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "texts")
        for language, texts in TEXTS.items():
            archive.writestr(f"X.de-en.{language}", "".join(f"{text}\n" for text in texts))
    return file.getvalue()


def _csv() -> bytes:
    rows = "".join(f'"{en}","{de}",k{n}\n' for n, (en, de) in enumerate(zip(ENGLISH, GERMAN, strict=True)))
    return f"en,de,group_id\n{rows}".encode()


def _tsv() -> bytes:
    return "".join(f"{en}\t{de}\n" for en, de in [("en", "de"), *zip(ENGLISH, GERMAN, strict=True)]).encode()


def _arrow(form: str) -> bytes:
    table = pyarrow.table({"en": ENGLISH, "de": GERMAN, "group_id": range(len(ENGLISH))})
    file = io.BytesIO()
    if form == "parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        pyarrow.feather.write_feather(table, file, compression="uncompressed")
    return file.getvalue()


def _saved() -> dict[str, bytes]:
    """A folder that `save_to_disk` of Hugging Face `datasets` wrote."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        rows = {"en": ENGLISH, "de": GERMAN, "group_id": [str(n) for n in range(len(ENGLISH))]}
        datasets.Dataset.from_dict(rows).save_to_disk(temporary)
        return {file.name: file.read_bytes() for file in Path(temporary).iterdir()}


def _home_assistant() -> bytes:
    strings = {f"key{n}": text for n, text in enumerate(ENGLISH)}
    return json.dumps(strings | {"n": "{n} {n, plural, one {day} other {days}} of ''{x}''"}).encode()


def _messages(folder: Path) -> list[str]:
    row = parse_object((folder / "en.json").read_bytes().decode("utf-8", "replace"), "en.json", 1)
    return [text for value in row.values() if (text := plain_message(str(value))) is not None]


def _read(name: str, folder: Path) -> list[Document]:
    spelled = parse_name(name.format(folder))
    assert spelled is not None
    with contextlib.redirect_stderr(io.StringIO()):  # lines about what is skipped
        return list(spelled[1].documents())


def _check(found: list[Document], folder: Path) -> None:
    for document in found:
        assert document.text.strip() == document.text != "" and "\0" not in document.text, document
        assert document.group and is_language(document.language), document


def _reader(name: str, spelled: str, file: str, seed: Callable[[], bytes]) -> Reader:
    return Reader(name, lambda: [{file: seed()}], lambda folder: _read(spelled, folder), _check)


READERS = [
    _reader("tmx", "tmx:{}/a.tmx", "a.tmx", _tmx),
    _reader("po", "po:msgid=en,de={}", "de.po", _po),
    _reader("zip", "zip:{}/a.zip", "a.zip", _zip),
    _reader("csv", "csv:{}/a.csv", "a.csv", _csv),
    _reader("csv_tsv", "csv:{}/a.tsv", "a.tsv", _tsv),
    _reader("parquet", "parquet:{}/a.parquet", "a.parquet", lambda: _arrow("parquet")),
    Reader("hf_saved", lambda: [_saved()], lambda folder: _read("hf:{}", folder), _check),
    Reader("icu_messages", lambda: [{"en.json": _home_assistant()}], _messages),
    _reader("feather", "parquet:{}/a.feather", "a.feather", lambda: _arrow("feather")),
]
