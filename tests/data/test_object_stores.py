"""Files in object stores: the same documents as from local disk, stamps, and errors of one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from data.test_formats import read, sentences, write_languages, write_rows

from xalign_jax import gin_files
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.store import remote
from xalign_jax.data.store.store import Texts, prepare
from xalign_jax.data.text.files import parallel_files
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.stamps import is_current, stamp_file
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

fsspec = pytest.importorskip("fsspec")
memory = pytest.importorskip("fsspec.implementations.memory")


@pytest.fixture
def store():
    """fsspec's store in memory, which has no files before and after a test."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_every_format_reads_the_same_from_a_store(store, tmp_path):
    names = {**write_rows(tmp_path, sentences()), **write_languages(tmp_path, sentences())}
    for file in tmp_path.iterdir():
        store.pipe(f"/bucket/{file.name}", file.read_bytes())
    for kind, name in names.items():
        remote = name.replace(str(tmp_path), "memory://bucket")
        assert read(remote) == read(name), kind
        assert parse_name(remote)[1].fingerprint() == parse_name(name)[1].fingerprint(), kind


def test_dictionaries_and_sentences_of_probes_read_from_a_store(store):
    store.pipe("/bucket/en-de.tsv.gz", gzip.compress(b"cat\tKatze\n"))
    assert read_dictionary("memory://bucket/en-de.tsv.gz").entries[0].words == ((0, "cat"), (1, "Katze"))
    for language in ("en", "de"):
        store.pipe(f"/bucket/{language}.txt", f"{language}\n".encode())
    found = parallel_files([("en", "memory://bucket/en.txt"), ("de", "memory://bucket/de.txt")])
    assert [d.text for d in found.documents()] == ["en", "de"]


def test_stamps_follow_the_file_in_the_store(store):
    store.pipe("/bucket/a.txt", b"one\n")
    source = parse_name("lines:en=memory://bucket/a.txt")[1]
    before, stamps = source.fingerprint(), source.stamps()
    assert all(map(is_current, stamps)) and stamps[0][:3] == ("file", "memory://bucket/a.txt", "4")
    store.pipe("/bucket/a.txt", b"two\n")
    assert not any(map(is_current, stamps)) and source.fingerprint() != before
    store.rm("/bucket/a.txt")
    assert source.stamps() == [("file", "memory://bucket/a.txt", "missing", "")]
    with pytest.raises(UserError, match=r"^memory://bucket/a\.txt: no such file$"):
        source.fingerprint()


def test_prepared_text_of_a_changed_file_in_a_store_is_not_fetched(store):
    store.pipe("/bucket/a.txt", b"one\n")
    stamp = stamp_file("memory://bucket/a.txt")
    assert remote._may_be_current(stamp)
    store.pipe("/bucket/a.txt", b"two\n")  # of the same size
    assert not remote._may_be_current(stamp)
    store.rm("/bucket/a.txt")  # a host need not see the text
    assert remote._may_be_current(stamp) and remote._may_be_current(("file", "nothing://a.txt", "4", "etag"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gs://bucket/a.txt", r"needs the package gcsfs, which is not installed; .*\.\[gcs\]"),
        ("s3://bucket/a.txt", r"needs the package s3fs, which is not installed; pip install s3fs"),
        ("nothing://a.txt", r"no such protocol \("),
    ],
)
def test_libraries_that_are_missing_are_named(monkeypatch, path, said):
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    source = parse_name(f"lines:en={path}")[1]
    for ask in (source.stamps, source.fingerprint, lambda: list(source.documents())):
        with pytest.raises(UserError, match=rf"^{path}: .*{said}") as refused:
            ask()
        assert "\n" not in str(refused.value)


class Unreliable(memory.MemoryFileSystem):
    """A store whose connection breaks, with exceptions that are no OSError, as those of cloud libraries."""

    protocol = "unreliable"
    breaks = "open"

    def _open(self, *arguments, **settings):
        if self.breaks == "open":
            raise RuntimeError("403: Forbidden\nno credentials")
        file = memory.MemoryFile(data=b"some text")
        file.read = self._break
        return file

    def info(self, *arguments, **settings):
        raise RuntimeError("")

    @staticmethod
    def _break(*_):
        raise RuntimeError("connection reset")


@pytest.mark.parametrize(
    ("breaks", "said"), [("open", "403: Forbidden no credentials"), ("read", "(connection reset|not a zip file)")]
)
@pytest.mark.parametrize("name", ["lines:en={}.txt", "lines:en={}.gz", "csv:{}.csv", "parquet:{}", "tmx:{}", "zip:{}", "po:de={}.mo"])  # fmt: skip
def test_a_store_that_fails_is_an_error_of_one_line(monkeypatch, breaks, said, name):
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    monkeypatch.setattr(Unreliable, "breaks", breaks)
    source = parse_name(name.format("unreliable://bucket/a"))[1]
    with pytest.raises(UserError, match=rf"^unreliable://bucket/a[.\w]*: cannot be read \(.*{said}.*\)$"):
        list(source.documents())
    with pytest.raises(UserError, match=r"^unreliable://bucket/a[.\w]*: cannot be read \(RuntimeError\)$"):
        source.stamps()


def test_urls_of_local_files(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\n")
    assert [d.text for d in read(f"lines:en=file://{tmp_path}/a.txt")] == ["one"]


def test_gin_files_are_read_from_a_store(store):
    store.pipe("/bucket/mine.gin", b"include 'memory://bucket/part.gin'\ninclude 'runtimes/gpu_1.gin'\nSTEPS = 3\n")
    store.pipe("/bucket/part.gin", b"RATE = 0.5\n")
    found = [(binding.name, binding.place) for binding in gin_files.read("memory://bucket/mine.gin")]
    assert found[0] == ("RATE", "memory://bucket/part.gin:1") and found[-1] == ("STEPS", "memory://bucket/mine.gin:3")
    assert found[1] == ("Runtime.mesh", "runtimes/gpu_1.gin:2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"include 'memory://bucket/none.gin'", r"memory://bucket/none\.gin: no such file"),
        (
            b"include 'memory://bucket/mine.gin'",
            r"mine\.gin:1: .*a file cannot include itself: mine.gin includes mine.gin",
        ),
        (b"\xff", r"memory://bucket/mine\.gin: byte 0 is not UTF-8"),
        (b"STEPS 3", r"memory://bucket/mine\.gin:1: "),
    ],
)
def test_a_bad_gin_file_in_a_store_is_one_line(store, content, said):
    store.pipe("/bucket/mine.gin", content)
    with pytest.raises(UserError, match=said) as refused:
        list(gin_files.read("memory://bucket/mine.gin"))
    assert "\n" not in str(refused.value)


@pytest.fixture
def tokenizer_json(store):
    """A tokenizer.json and its config in the store. Returns the file's content."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "[EOS]": 1, "[UNK]": 2, "a": 3, "b": 4}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[EOS]", "[UNK]"])
    content = made.to_str().encode()
    store.pipe("/bucket/v/tokenizer.json", content)
    store.pipe("/bucket/v/tokenizer_config.json", b'{"eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]"}')
    return content


@pytest.mark.parametrize("path", ["memory://bucket/v", "memory://bucket/v/", "memory://bucket/v/tokenizer.json"])
def test_a_vocabulary_is_read_from_a_store(tokenizer_json, path):
    tokenizer = Tokenizer.of(Vocabulary("huggingface", path))
    assert (tokenizer.base_size, tokenizer.eos) == (5, 1)
    assert tokenizer.files.keys() == {"tokenizer.json", "tokenizer_config.json"}


def test_a_vocabulary_that_changes_in_the_store_is_read_again(tokenizer_json, tmp_path):
    """file:// stands for the store, because another process prepares."""
    texts = Texts(Vocabulary("huggingface", f"file://{tmp_path}/v"), (), tmp_path / "cache")
    (tmp_path / "v").mkdir()
    for count, content in ((1, tokenizer_json), (1, None), (2, tokenizer_json.replace(b'"b"', b'"c"'))):
        if content is not None:
            (tmp_path / "v" / "tokenizer.json").write_bytes(content)
        prepare(texts)
        assert len(list(tmp_path.glob("cache/vocabularies/*/vocabulary.json"))) == count


def test_a_vocabulary_that_is_not_in_the_store_is_one_line(store):
    with pytest.raises(UserError, match=r"^memory://bucket/v: cannot be read \(No such file or directory\); set Vocab"):
        Tokenizer.of(Vocabulary("huggingface", "memory://bucket/v"))


def test_a_saved_vocabulary_is_loaded_from_a_store(store, tokenizer_json, tmp_path):
    Tokenizer.of(Vocabulary("huggingface", "memory://bucket/v")).save(tmp_path)
    for file in tmp_path.iterdir():
        store.pipe(f"/bucket/run/{file.name}", file.read_bytes())
    assert Tokenizer.load("memory://bucket/run").base_size == 5
    store.pipe("/bucket/run/tokenizer.json", tokenizer_json.replace(b'"b"', b'"c"'))
    with pytest.raises(UserError, match=r"^memory://bucket/run: not the vocabulary that was saved there .*back$"):
        Tokenizer.load("memory://bucket/run")
