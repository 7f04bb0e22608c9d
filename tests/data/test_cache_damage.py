"""Every file of the cache, damaged in every way, one at a time: it is made again, or named; wrong tokens are never read."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xalign_jax import preparing
from xalign_jax.data.store import cache, store
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores, open_tokenizer, prepare
from xalign_jax.errors import UserError

VOCABULARY = Vocabulary(size=300, model_type="bpe")


def removed(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = (removed, emptied, halved, zeroed, flipped)
# A store, the vocabulary and the index; a folder's name in the cache is a hash, here "*".
FILES = (
    "index/*vocabulary*",
    "index/*store*",
    "vocabularies/*/vocabulary.json",
    "vocabularies/*/spm.model",
    "vocabularies/*/checksums.json",
    "stores/*/store.json",
    "stores/*/checksums.json",
    *(f"stores/*/{split}/en/{name}.npy" for split in ("train", "validation") for name in store.ARRAYS),
)


def process(command: list[str], **_: object) -> subprocess.CompletedProcess:
    """The preparing process, without a process."""
    code, output = 0, io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            preparing.main(command[-1])
        except SystemExit as stopped:
            code = stopped.code
    return subprocess.CompletedProcess(command, code, output.getvalue())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    """A cache, and the task that is prepared in it."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "en.txt").write_text("".join(f"The page number {i} of the book is here.\n\n" for i in range(100)))
    task = f"text:en={folder}/en.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", process)
        prepare(Texts(VOCABULARY, [task], folder / "cache"))
    return folder / "cache", task


def find(place: Path, task: str, name: str) -> Path:
    if name.startswith("index/"):
        return Texts(VOCABULARY, [task], place).index_file(task if "store" in name else None)
    (file,) = place.glob(name)
    return file


def test_every_file_is_damaged(whole):
    """The list above leaves nothing out."""
    place, task = whole
    listed = {find(place, task, name) for name in FILES}
    assert {path for path in place.rglob("*") if path.is_file() and path.name != "lock"} == listed


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_made_again(whole, name: str, damage: Callable[[Path], None], tmp_path, monkeypatch, capfd):
    place, task = whole
    copy = Path(shutil.copytree(place, tmp_path / "cache"))
    file = find(copy, task, name)
    damage(file)
    monkeypatch.setattr(subprocess, "run", process)
    prepare(Texts(VOCABULARY, [task], copy))
    assert (
        open_tokenizer(Texts(VOCABULARY, [task], copy)).fingerprint
        == open_tokenizer(Texts(VOCABULARY, [task], place)).fingerprint
    )
    for split, languages in open_stores(Texts(VOCABULARY, [task], place), task).items():
        for language, before in languages.items():
            after = open_stores(Texts(VOCABULARY, [task], copy), task)[split][language]
            assert after.fingerprint == before.fingerprint
            for array in store.ARRAYS:
                np.testing.assert_array_equal(getattr(after, array), getattr(before, array))
    said = capfd.readouterr().err
    if not name.startswith("index/"):  # an index is written again as for a changed file
        made = copy.joinpath(*file.relative_to(copy).parts[:2])
        named = made if file.name == cache.SEAL else file  # another checksum belies another file
        assert str(named) in said and f"making {made} again" in said
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the cache is not whole"))
    prepare(Texts(VOCABULARY, [task], copy))


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_without_preparation_a_damaged_file_is_named(whole, name: str, damage: Callable[[Path], None], tmp_path):
    place, task = whole
    copy = Path(shutil.copytree(place, tmp_path / "cache"))
    damage(find(copy, task, name))
    with contextlib.suppress(UserError):
        open_tokenizer(Texts(VOCABULARY, [task], copy))
        open_stores(Texts(VOCABULARY, [task], copy), task)


@pytest.mark.parametrize(
    ("old", "new"), [('"fingerprint": "', '"fingerprint": "\\ud800'), ('"en": {', '"e\\udfff": {')]
)
def test_half_a_surrogate_pair_is_damage(whole, old: str, new: str, tmp_path):
    """JSON can spell strings that UTF-8 cannot."""
    place, task = whole
    copy = Path(shutil.copytree(place, tmp_path / "cache"))
    file = find(copy, task, "stores/*/store.json")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as refused:
        open_stores(Texts(VOCABULARY, [task], copy), task)
    assert str(refused.value).startswith(f"{file}: damaged ('utf-8' codec can't encode character")
    assert "\n" not in str(refused.value) and str(refused.value).encode()


def test_beyond_a_limit_the_size_alone_is_compared(tmp_path, monkeypatch):
    """Stores of hundreds of gigabytes would take minutes to read."""
    monkeypatch.setattr(cache, "CHECKED", 0)
    file = tmp_path / "made" / "file"
    cache.make(file.parent, lambda folder: (folder / "file").write_bytes(b"tokens"))
    flipped(file)
    assert cache.damage(file.parent) is None
    halved(file)
    assert cache.damage(file.parent) == f"{file}: damaged (not the bytes that were written)"


def test_what_another_process_makes_meanwhile_stays(tmp_path, monkeypatch):
    """Otherwise a directory would vanish for a moment while the other process reads it."""
    directory = tmp_path / "made"

    def another() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)  # a process that runs
            cache.make(directory, lambda folder: (folder / "a").write_text("first"))

    def slow(folder: Path) -> None:
        (folder / "a").write_text("second")
        another()

    cache.make(directory, slow)
    assert (directory / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
