"""What preparing writes: the same bytes as ever, however it is done."""

from __future__ import annotations

import zlib
from pathlib import Path

from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores
from xalign_jax.preparing import open_task

BYTES = Vocabulary(kind="bytes")


def texts(folder: Path) -> str:
    """A task of 600 texts in two languages: groups, repeated texts, other cases and spaces, scripts of several bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    english = [f"p{i}\tThe page  number {i % 250} is here{'.' * (i % 3)}" for i in range(300)]
    other = [f"p{i}\t第{i}页 Straße \u0130 {'ß' * (i % 7)}" for i in range(0, 600, 2)]
    (folder / "en.tsv").write_text("\n".join(english), encoding="utf-8")
    (folder / "zh.tsv").write_text("\n".join(other), encoding="utf-8")
    return f"tsv:en={folder}/en.tsv,zh={folder}/zh.tsv"


def test_a_store_is_what_it_was(tmp_path):
    """Fingerprints are part of the identities of recorded runs, and the order of documents decides their batches."""
    task = texts(tmp_path)
    run(Texts(BYTES, [task], tmp_path / "cache"), [], open_task)
    found = {}
    for split, languages in open_stores(Texts(BYTES, [task], tmp_path / "cache"), task).items():
        for language, store in languages.items():
            assert store.fingerprint == "43307dd0dcc5f8594270332b"
            arrays = (store.tokens, store.offsets, store.group, store.text_hash, store.utf8_bytes)
            found[split, language] = zlib.crc32(b"".join(f"{a.dtype}".encode() + a.tobytes() for a in arrays))
    assert found == {
        ("train", "en"): 2756219804,
        ("train", "zh"): 3077951768,
        ("validation", "en"): 1869368681,
        ("validation", "zh"): 1362049729,
    }
