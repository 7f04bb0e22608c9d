"""Stores through the preparing process, as a run uses it; tests/test_tasks.py covers what needs no process."""

import concurrent.futures
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import python

from xalign_jax import preparing
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store import store
from xalign_jax.data.store.cache import make
from xalign_jax.data.store.prepare import split_notes
from xalign_jax.data.store.request import USER_ERROR
from xalign_jax.data.store.shards import Part, Shards
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores, open_tokenizer, prepare, store_info
from xalign_jax.data.text.files import JsonLines
from xalign_jax.errors import RunError, UserError

BYTES = Vocabulary(kind="bytes")


@pytest.fixture(scope="module")
def tsv(tmp_path_factory):
    """A multi-way task of 200 groups in two languages, every tenth without German."""
    folder = tmp_path_factory.mktemp("texts")
    english = [f"p{i}\tThe page number {i} is here." for i in range(200)]
    german = [f"p{i}\tDie Seite Nummer {i} ist hier." for i in range(200) if i % 10]
    (folder / "en.tsv").write_text("\n".join(english))
    (folder / "de.tsv").write_text("\n".join(german))
    return f"tsv:en={folder}/en.tsv,de={folder}/de.tsv"


@pytest.fixture(scope="module")
def cache(tsv, tmp_path_factory):
    """A cache in which two processes prepared the same stores at once."""
    folder = tmp_path_factory.mktemp("cache")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: prepare(Texts(BYTES, [tsv], folder)), range(2)))
    return folder


def test_documents_survive(cache, tsv):
    stores = open_stores(Texts(BYTES, [tsv], cache), tsv)
    tokenizer = open_tokenizer(Texts(BYTES, [tsv], cache))
    assert {split: sorted(of) for split, of in stores.items()} == {"train": ["de", "en"], "validation": ["de", "en"]}
    texts = []
    for split in stores.values():
        s = split["en"]
        assert s.tokens.dtype == np.uint16
        assert (s.tokens[s.offsets[1:] - 1] == tokenizer.eos).all()
        here = [tokenizer.decode(s.tokens[a:b]) for a, b in zip(s.offsets[:-1], s.offsets[1:], strict=True)]
        assert s.utf8_bytes.tolist() == [len(text.encode()) for text in here]
        texts += here
    assert sorted(texts) == sorted(f"The page number {i} is here." for i in range(200))
    assert texts != sorted(texts)


def test_only_large_arrays_keep_a_file_open(cache, tsv, monkeypatch):
    """A hundred languages of five arrays in two splits would take all that a process may open."""
    small = open_stores(Texts(BYTES, [tsv], cache), tsv)["train"]["en"]
    monkeypatch.setattr(store, "_MAPPED", 1000)
    large = open_stores(Texts(BYTES, [tsv], cache), tsv)["train"]["en"]
    assert isinstance(large.tokens.base, np.memmap) and not isinstance(small.tokens.base, np.memmap)
    for name in store.ARRAYS:
        a, b = getattr(small, name), getattr(large, name)
        assert a.dtype == b.dtype and np.array_equal(a, b) and not a.flags.writeable


def test_groups_are_dense_per_task_and_splits_disjoint(cache, tsv):
    stores = open_stores(Texts(BYTES, [tsv], cache), tsv)
    groups = {split: set(of["en"].group) | set(of["de"].group) for split, of in stores.items()}
    assert sorted(groups["train"] | groups["validation"]) == list(range(200))
    assert not groups["train"] & groups["validation"]
    hashes = {split: set(of["en"].text_hash) for split, of in stores.items()}
    assert not hashes["train"] & hashes["validation"]


def test_counts(cache, tsv):
    counts = store_info(Texts(BYTES, [tsv], cache), tsv)["counts"]
    stores = open_stores(Texts(BYTES, [tsv], cache), tsv)
    for split, languages in counts.items():
        for language, count in languages.items():
            s = stores[split][language]
            assert count["documents"] == len(s.group)
            assert count["tokens"] == len(s.tokens)
            assert count["words"] == 6 * count["documents"]


def test_nothing_is_left_behind(cache):
    names = {path.name for path in cache.iterdir()}
    assert names == {"index", "lock", "stores", "vocabularies"}
    assert not [path for path in cache.rglob("*") if path.name.startswith(".") or path.name == "raw"]


def test_prepared_stores_need_no_process(cache, tsv, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    prepare(Texts(BYTES, [tsv], cache))
    prepare(Texts(Vocabulary(kind="bytes", clones=3, clone_specials=True), [tsv], cache))
    with pytest.raises(pytest.fail.Exception):
        prepare(Texts(BYTES, [tsv], cache), ["somebody"])


def test_clones_share_the_store(cache, tsv):
    cloned = Vocabulary(kind="bytes", clones=1)
    assert open_tokenizer(Texts(cloned, [tsv], cache)).clones == 1
    assert open_stores(Texts(cloned, [tsv], cache), tsv)["train"]["en"].fingerprint == (
        open_stores(Texts(BYTES, [tsv], cache), tsv)["train"]["en"].fingerprint
    )


def test_a_changed_file_is_seen(cache, tsv, tmp_path):
    assert store._is_prepared(Texts(BYTES, [tsv], cache), [])
    make(tmp_path / "made", lambda folder: (folder / "file").write_text("whole"))
    path = tmp_path / "a.txt"
    path.write_text("text")
    entry = {"directory": "made", "stamps": [store_stamp(path)], "modules": []}
    for task in (None, f"text:en={path}"):
        file = Texts(BYTES, [f"text:en={path}"], tmp_path).index_file(task)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(entry))
    assert store._is_prepared(Texts(BYTES, [f"text:en={path}"], tmp_path), [])
    path.write_text("other text")
    assert not store._is_prepared(Texts(BYTES, [f"text:en={path}"], tmp_path), [])


def store_stamp(path):
    from xalign_jax.data.text.stamps import stamp_file

    return stamp_file(str(path))


def counts(**documents):
    """Counts of a split by language: (documents, tokens)."""
    return {name: dict(zip(("documents", "tokens"), values, strict=True)) for name, values in documents.items()}


def test_a_split_far_from_what_was_meant_is_told_with_its_figures():
    train = counts(en=(1, 81_176), de=(30, 9_700), fr=(2, 600))
    notes = list(split_notes({"train": train, "validation": counts(en=(1, 268_431), de=(1, 300), fr=(1, 400))}, 0.03))
    assert len(notes) == 1
    assert notes[0].startswith(
        "268,431 of 349,607 tokens in en (2 documents) are for validation, 77% instead of 3%, and similarly in fr; "
    )
    assert not list(split_notes({"train": counts(en=(9, 92)), "validation": counts(en=(1, 8))}, 0.03))
    (note,) = split_notes({"train": counts(en=(1, 92), de=(2, 9)), "validation": counts(de=(1, 0))}, 0.03)
    assert note.startswith("all text in en is one document")


def test_preparing_a_file_without_a_blank_line_says_so(tmp_path, capfd):
    (tmp_path / "en.txt").write_text("one line\nanother line\n" * 50)
    prepare(Texts(BYTES, [f"text:en={tmp_path}/en.txt"], tmp_path / "cache"))
    assert f"text:en={tmp_path}/en.txt: all text in en is one document" in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(tsv, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        RunError, match=rf"{tmp_path}/file: File exists; the cache is {tmp_path}/file \(\$XALIGN_CACHE\)"
    ):
        prepare(Texts(BYTES, [tsv], tmp_path / "file"))


def test_errors_come_through_the_process(tmp_path):
    (tmp_path / "bad.tsv").write_text("1\ta\nno tab\n")
    with pytest.raises(UserError, match=r"bad\.tsv:2: expected id<TAB>text"):
        prepare(Texts(BYTES, [f"tsv:en={tmp_path}/bad.tsv"], tmp_path / "cache"))


def test_validation_text_of_one_task_is_not_in_the_training_of_another(tmp_path):
    """Splits are drawn task by task, by group here and by text there."""
    for language in ("en", "de"):
        (tmp_path / f"p.{language}").write_text("".join(f"{language} number {i}\n" for i in range(300)))
    tasks = [f"pairs:en={tmp_path}/p.en,de={tmp_path}/p.de", f"lines:en={tmp_path}/p.en"]
    prepare(Texts(BYTES, tasks, tmp_path / "cache"))
    stores = {task: open_stores(Texts(BYTES, tasks, tmp_path / "cache"), task) for task in tasks}
    for one, other in (tasks, tasks[::-1]):
        held_out = set(stores[one]["validation"]["en"].text_hash.tolist())
        assert held_out and not held_out & set(stores[other]["train"]["en"].text_hash.tolist())
    dropped = [
        store_info(Texts(BYTES, tasks, tmp_path / "cache"), task)["dropped_as_validation_text"] for task in tasks
    ]
    assert all(dropped)
    prepare(Texts(BYTES, tasks[:1], tmp_path / "cache"))  # alone it keeps them
    alone = open_stores(Texts(BYTES, [tasks[0]], tmp_path / "cache"), tasks[0])["train"]["en"]
    assert len(alone.offsets) == len(stores[tasks[0]]["train"]["en"].offsets) + dropped[0]


@pytest.mark.parametrize("language", ["../up", "/tmp/x", "", "..", "e n", "en\n", "x" * 101])
def test_a_language_is_no_path(language, tmp_path):
    """A file names its line; a seqio task, which may be in any language, names the language."""
    rows = [{"text": "two", "language": "en"}, {"text": "one", "language": language}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"a\.jsonl:2: .* is no name for a language"):
        list(JsonLines((("en", str(tmp_path / "a.jsonl")),)).documents())
    part = Part([], ["en", language])
    with pytest.raises(UserError, match="which is no name for a language"):
        Shards(tmp_path, ()).write("train", 0, part, "")


def test_without_tasks(tmp_path):
    prepare(Texts(BYTES, [], tmp_path))
    assert open_tokenizer(Texts(BYTES, [], tmp_path)).base_size == 261
    with pytest.raises(UserError, match=r"Vocabulary\.path"):
        prepare(Texts(Vocabulary(), [], tmp_path))


def test_unprepared_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"xalign data prepare"):
        open_stores(Texts(BYTES, ["docs_en"], tmp_path), "docs_en")


def test_mixture_takes_lists():
    assert Mixture(tasks=["docs_en"], rates={"en": 1.0}).rates == (("en", 1.0),)
    with pytest.raises(UserError, match=r"Mixture\.tasks"):
        Mixture(tasks="docs_en")


@pytest.mark.parametrize(
    "settings", [{"rates": 0.5}, {"rates": ["en", 0.9]}, {"rates": {"en": "lots"}}, {"alpha": "x"}, {"alpha": 1000}]
)
def test_wrong_rates_are_named(settings):
    with pytest.raises(UserError, match=rf"Mixture\.{next(iter(settings))} = "):
        Mixture(tasks=["docs_en"], **settings)


WITHOUT = "sys.exit(any(m in sys.modules for m in ('tensorflow', 'seqio', 'torch')))"


def test_reading_loads_no_tensorflow():
    assert python("-c", f"import sys, xalign_jax.data.store.store; {WITHOUT}").returncode == 0


def test_a_pipeline_without_apache_beam_is_refused_in_one_line(tsv, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "xalign_jax.data.store.beam", raising=False)
    asked = {"modules": [], "cache": str(tmp_path / "cache"), "pipeline": ["--runner=DirectRunner"]}
    with pytest.raises(SystemExit) as stopped:
        preparing.main(json.dumps({"vocabulary": {"kind": "bytes"}, "tasks": [tsv], **asked}))
    assert stopped.value.code == USER_ERROR
    line = json.loads(capsys.readouterr().out)["error"]
    assert line.startswith("--pipeline_options: needs the package apache_beam") and "pip install -e '.[beam]'" in line
    assert not (tmp_path / "cache").exists()


def test_preparing_files_loads_no_tensorflow(tsv, tmp_path):
    request = {"vocabulary": {"kind": "bytes"}, "tasks": [tsv], "modules": [], "cache": str(tmp_path)}
    code = f"import json, sys; from xalign_jax.preparing import main; main(json.dumps({request})); {WITHOUT}"
    assert python("-c", code).returncode == 0
    assert len(open_stores(Texts(BYTES, [tsv], tmp_path), tsv)["train"]["de"].tokens)
