"""Data sets of Hugging Face give the documents of a Parquet file with the same rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from xalign_jax.data.store.prepare import prepare_store
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.readers import source_reader
from xalign_jax.data.text.stamps import is_current
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

datasets = pytest.importorskip("datasets")
ROWS = {
    "key": [f"k{i}" for i in range(60)],
    "translation": [{"en": f"sentence {i}", "de": f"Satz {i}" if i % 7 else None} for i in range(60)],
}
COLUMNS = "en=translation.en,de=translation.de,group_id=key"


def read(name):
    return list(parse_name(name)[1].documents())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same rows as a Parquet file, a saved data set, a saved one with splits, and a folder of Parquet files."""
    folder = tmp_path_factory.mktemp("hub")
    data = datasets.Dataset.from_dict(ROWS)
    data.save_to_disk(folder / "saved", num_shards=2)
    datasets.DatasetDict({"train": data, "test": data.select([3, 5])}).save_to_disk(folder / "splits")
    (folder / "files" / "data").mkdir(parents=True)
    for part in range(2):
        shard = data.select(range(30 * part, 30 * part + 30))
        shard.to_parquet(folder / "files" / "data" / f"train-0000{part}-of-00002.parquet")
    pa.parquet.write_table(pa.table(ROWS), folder / "a.parquet")
    return folder


def test_equal_rows_give_equal_documents_and_stores(folders, tmp_path):
    tokenizer = Tokenizer(Bytes(), Vocabulary("bytes"))
    names = [f"parquet:{folders}/a.parquet", *(f"hf:{folders}/{form}" for form in ("saved", "splits", "files"))]
    wanted, prints, arrays = read(f"{names[0]},{COLUMNS}"), set(), []
    assert len(wanted) == 60 + 51 and wanted[0] == Document("sentence 0", "en", "k0")
    for name in names:
        task = f"{name},{COLUMNS}"
        assert read(task) == wanted, name
        reader = source_reader(task)
        store = prepare_store(task, reader, tokenizer, tmp_path, {task: reader.fingerprint()}, lambda task: set())
        prints.add(json.loads((store / "store.json").read_text())["fingerprint"])
        arrays.append({str(f.relative_to(store)): np.load(f).tolist() for f in sorted(store.glob("*/*/*.npy"))})
    assert len(prints) == 1 and all(found == arrays[0] for found in arrays)
    chosen = read(f"hf:{folders}/splits,split=test,de=translation.de")
    assert chosen == [Document("Satz 3", "de", "1"), Document("Satz 5", "de", "2")]


def test_configurations_hold_languages(tmp_path):
    """A folder with a configuration for each language, as Wikipedia has. Only ids join their rows."""
    for language, texts in (("de", ["eins", "zwei"]), ("fr", ["un", "deux"])):
        (tmp_path / language).mkdir()
        pa.parquet.write_table(pa.table({"id": ["a", "b"], "text": texts}), tmp_path / language / "train.parquet")
    configs = "".join(f'- config_name: {c}\n  data_files: "{c}/*.parquet"\n' for c in ("de", "fr"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    name = f"hf:{tmp_path},de=de:text,fr=fr:text"
    assert [d.group for d in read(name)] == ["de/1", "de/2", "fr/1", "fr/2"]
    assert [(d.text, d.group) for d in read(f"{name},group_id=id")] == [
        *(("eins", "a"), ("zwei", "b"), ("un", "a"), ("deux", "b"))
    ]
    assert [d.text for d in read(f"hf:{tmp_path},config=fr,fr=text")] == ["un", "deux"]
    source = parse_name(name)[1]
    before, stamps = source.fingerprint(), source.stamps()
    assert source.languages == {"de", "fr"} and all(map(is_current, stamps))
    pa.parquet.write_table(pa.table({"id": ["a"], "text": ["un peu"]}), tmp_path / "fr" / "train.parquet")
    assert source.fingerprint() != before and not all(map(is_current, stamps))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:{}/none,en=x", r"/none: no such folder"),
        ("hf:{}/a.parquet,en=x", r"a\.parquet: no such folder"),
        ("hf:{}/empty,en=x", r"/empty: cannot be read \("),
        ("hf:{}/saved,en=title", r"/saved: no column 'title'; the columns are key, translation"),
        ("hf:{}/saved,fr=translation.fr", r"/saved: no column 'translation.fr'"),
        ("hf:{}/saved,en=translation", r"the column 'translation' is struct<"),
        ("hf:{}/saved", r"is the column 'translation' a language\? Choose columns"),
        ("hf:{}/saved,en=key,split=test", r"/saved: the folder has no splits"),
        ("hf:{}/saved,en=key,config=x", r"has no configuration 'x'"),
        ("hf:{}/splits,en=key,split=dev", r"no split 'dev'; the splits are train, test"),
        ("hf:{}/files,en=key,split=dev", r"/files: cannot be read \(Bad split: dev"),
        ("hf:{}/files,en=key,config=x", r"/files: cannot be read \(.*'x' not found"),
        ("hf:{}/damaged,en=key", r"/damaged: cannot be read \("),
    ],
)
def test_folders_that_are_refused(folders, name, said):
    (folders / "empty").mkdir(exist_ok=True)
    (folders / "damaged").mkdir(exist_ok=True)
    (folders / "damaged" / "train.parquet").write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(UserError, match=said) as refused:
        read(name.format(folders))
    assert "\n" not in str(refused.value)


def test_data_sets_on_the_hub_are_pinned_to_a_commit(folders, monkeypatch):
    """The commit is part of the fingerprint, and what is read is this commit. Nothing is asked for a pinned one."""
    hub = pytest.importorskip("huggingface_hub")
    commits, loaded = {"main": "1" * 40}, []

    def about(self, name, revision=None, timeout=None):
        if name != "org/name" or (revision or "main") not in commits:
            raise OSError("404: no\nsuch data set")
        return SimpleNamespace(sha=commits[revision or "main"])

    def load(path, **settings):
        loaded.append(settings)
        return datasets.Dataset.from_dict(ROWS).to_iterable_dataset()

    monkeypatch.setattr(hub.HfApi, "dataset_info", about)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = parse_name(f"hf:org/name,config=x,{COLUMNS}")[1]
    assert list(source.documents()) == read(f"parquet:{folders}/a.parquet,{COLUMNS}")
    assert loaded[0] == {"name": "x", "split": "train", "revision": "1" * 40, "streaming": True}
    before, stamps = source.fingerprint(), source.stamps()
    assert all(map(is_current, stamps))
    commits["main"] = "2" * 40
    assert source.fingerprint() != before and not any(map(is_current, stamps))
    del commits["main"]
    assert all(map(is_current, stamps))  # without a network, prepared text is used
    with pytest.raises(UserError, match=r"^org/name: no folder, and not found .* \(404: no such data set\)$"):
        source.fingerprint()
    pinned = parse_name(f"hf:org/name,revision={'3' * 40},{COLUMNS}")[1]
    assert pinned.stamps() == [("hub", "org/name", "3" * 40, "3" * 40)]


def test_the_package_that_is_missing_is_named(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"/saved: reading it needs the package datasets, .*\.\[datasets\]"):
        read(f"hf:{folders}/saved,en=key")
