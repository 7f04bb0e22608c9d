"""Folders of the cache: a store as a run opens it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import tempfile
from pathlib import Path

from fuzz.harness import Reader
from fuzz.readers.texts import FORMS, TEXTS
from xalign_jax.data.store import prepare, store
from xalign_jax.data.store.cache import damage
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.preparing import open_task

VOCABULARY = Vocabulary("bytes")


@functools.cache
def _prepared() -> tuple[str, dict[str, bytes], str]:
    """A task, the files of its cache, and a hash of what its stores hold."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for language, texts in TEXTS.items():
            (folder / f"{language}.tsv").write_text(FORMS["tsv"](texts))
        task = f"tsv:en={folder}/en.tsv,de={folder}/de.tsv"
        with contextlib.redirect_stderr(io.StringIO()):
            prepare.run(store.Texts(VOCABULARY, [task], folder / "cache"), [], open_task)
        files = [path for path in (folder / "cache").rglob("*") if path.is_file() and path.name != "lock"]
        contents = {str(path.relative_to(folder / "cache")): path.read_bytes() for path in files}
        return task, contents, _digest(store.open_stores(store.Texts(VOCABULARY, [task], folder / "cache"), task))


def _digest(stores: dict[str, dict[str, store.Store]]) -> str:
    digest = hashlib.sha256()
    for split, languages in sorted(stores.items()):
        for language, one in sorted(languages.items()):
            digest.update(f"{split} {language} {one.fingerprint}".encode())
            digest.update(b"".join(getattr(one, name).tobytes() for name in store.ARRAYS))
    return digest.hexdigest()


def _read(folder: Path) -> str:
    """What the stores hold, without looking at their seals."""
    store.open_tokenizer(store.Texts(VOCABULARY, [_prepared()[0]], folder))
    return _digest(store.open_stores(store.Texts(VOCABULARY, [_prepared()[0]], folder), _prepared()[0]))


def _sealed(folder: Path) -> str:
    """The same as a run does it: what a seal belies is named, and would be made again."""
    for made in (*folder.glob("stores/*"), *folder.glob("vocabularies/*")):
        if (found := damage(made)) is not None:
            raise UserError(found)
    return _read(folder)


def _check(found: str, folder: Path) -> None:
    assert found == _prepared()[2], "other tokens than were written"


READERS = [
    Reader("store", lambda: [_prepared()[1]], _sealed, _check),
    Reader("store_unsealed", lambda: [_prepared()[1]], _read),
]
