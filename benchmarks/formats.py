"""`python benchmarks/formats.py DATA [--json=FILE]`: every format read from a real file; documents, languages, groups, seconds.

DATA is the folder of the shared corpora (multiway/, mono/, tasks/, dict/). Other files come from installed packages.
Translation memories, archives, tables and data sets are written from real text, because no package has one.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

from rows import Row, add_json, write

from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.text.readers import source_reader


def folder_of(package: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


def written(data: Path, folder: Path) -> list[str]:
    """Tasks of files that are written from XQuAD's German and English questions and paragraphs."""
    import datasets
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    texts: dict[str, dict[str, str]] = {}
    for language in ("de", "en"):
        reader = source_reader(f"tsv:{language}={data}/multiway/xquad/{language}.tsv.gz")
        assert reader is not None
        for document in reader.source.documents():
            texts.setdefault(document.group, {})[language] = document.text
    rows = [{"key": key, "translation": pair} for key, pair in texts.items()]
    table = pa.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    pyarrow.feather.write_feather(table, folder / "a.feather")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    units = "".join(
        "<tu>"
        + "".join(f'<tuv xml:lang="{tag}"><seg>{escape(text)}</seg></tuv>' for tag, text in pair.items())
        + "</tu>"
        for pair in texts.values()
    )
    (folder / "a.tmx").write_text(f"<tmx><body>{units}</body></tmx>")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for language in ("de", "en"):
            lines = "".join(" ".join(pair[language].split()) + "\n" for pair in texts.values())
            archive.writestr(f"XQuAD.de-en.{language}", lines)
    columns = "de=translation.de,en=translation.en,group_id=key"
    tables = ("parquet:{}/a.parquet", "parquet:{}/a.feather", "hf:{}/saved")
    return [*(f"{table.format(folder)},{columns}" for table in tables), f"tmx:{folder}/a.tmx", f"zip:{folder}/a.zip"]


def tasks(data: Path) -> list[str]:
    """Tasks of files that exist."""
    django = folder_of("django") / "conf" / "locale"
    return [
        *("docs_en", "catalogs", "home_assistant"),
        f"text:de={data}/mono/eltec/de.txt.gz",
        f"lines:de={data}/mono/eltec/de.txt.gz",
        f"tsv:en={data}/multiway/xquad/en.tsv.gz,de={data}/multiway/xquad/de.tsv.gz",
        f"pairs:ar={data}/multiway/ntrex/arb.txt.gz,bg={data}/multiway/ntrex/bul.txt.gz",
        f"jsonl:sw={data}/tasks/xcopa/val.sw.jsonl,text=premise,group_id=idx",
        f"csv:{data}/tasks/pawsx/de.dev_2k.tsv.gz,de=sentence1,group_id=id",
        f"po:msgid=en,de={django}/de,fr={django}/fr/LC_MESSAGES/django.mo",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dictionaries", nargs="*", default=[], help="further dictionaries, named as en-de.tei is")
    add_json(parser)
    options = parser.parse_args()
    data, rows = options.data.resolve(), []
    with tempfile.TemporaryDirectory() as folder:
        for task in [*tasks(data), *written(data, Path(folder))]:
            start, reader = time.monotonic(), source_reader(task)
            assert reader is not None
            found = list(reader.source.documents())
            languages, groups = {d.language for d in found}, {d.group for d in found} - {""}
            took = time.monotonic() - start
            name = task.replace(str(data), "DATA").replace(folder, "FOLDER").replace(str(folder_of("django")), "django")
            counts = f"{len(found):>8,} documents {len(languages):>3} languages {len(groups):>7,} groups"
            print(f"{counts} {took:5.1f} s  {name}")
            rows.append(Row(name, took, "s", notes=" ".join(counts.split())))
    for path in [data / "dict" / "freedict" / "en-de.tsv.gz", *map(Path, options.dictionaries)]:
        start = time.monotonic()
        source, target = path.name.split(".")[0].split("-")
        dictionary, took = read_dictionary(str(path), (source, target)), time.monotonic() - start
        print(f"{len(dictionary.entries):>8,} entries {took:5.1f} s  {path.name}")
        rows.append(Row(path.name, took, "s", notes=f"{len(dictionary.entries):,} entries"))
    write(options.json, rows)


if __name__ == "__main__":
    main()
