"""Data sets of Hugging Face: names on the Hub, folders that `save_to_disk` wrote, and folders of Parquet files.

They are streamed, and read as Parquet files are (tables.py): equal content gives equal documents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xalign_jax.data.text.compression import extra_package
from xalign_jax.data.text.files import Document, identity
from xalign_jax.data.text.stamps import hash_file, stamp_file, stamp_hub
from xalign_jax.data.text.tables import ROWS, ArrowTables
from xalign_jax.errors import UserError, one_line
from xalign_jax.recipe import resolve
from xalign_jax.remote_files import hub_commit

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # a data set on the Hub


@dataclasses.dataclass(frozen=True)
class HubTables(ArrowTables):
    """Data sets by name or folder. Columns are chosen as for Parquet files; errors name rows, counted from 1.

    A column may name its configuration: ("de", "20231101.de:text"). Rows of two configurations translate each other
    only if `group` names a column of ids that both have.

    Attributes:
      config: the configuration of columns that name none. None = the data set's only or default one.
      split: None = "train", or all of a folder without splits.
      revision: of a data set on the Hub: a branch, a tag or a commit. None = the newest.
    """

    config: str | None = None
    split: str | None = None
    revision: str | None = None

    def read(self, path: str) -> Iterator[Document]:
        configs: dict[str | None, list[tuple[str, str]]] = {}
        for language, column in self.columns:
            said, _, name = column.rpartition(":")
            configs.setdefault(said or self.config, []).append((language, name))
        if not configs or (len(configs) == 1 and self.config in configs):
            yield from super().read(path)
            return
        for config, columns in configs.items():
            part = dataclasses.replace(self, config=config, columns=tuple(columns))
            for document in super(HubTables, part).read(path):
                # Numbers of rows say nothing about rows of another configuration; ids do.
                yield document if self.group else document._replace(group=f"{config}/{document.group}")

    def _open(self, path: str) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
        with _hub_errors(path):
            data = _load(path, self.config, self.split, self.revision).with_format("arrow")
            if data.features is None:
                first = next(iter(data.iter(1)), None)
                if first is None:
                    raise UserError(f"{path}: the data set has no rows")
                schema = first.schema
            else:
                schema = data.features.arrow_schema

        def batches(columns: list[str]) -> Iterator[Any]:
            with _hub_errors(path):
                for table in data.select_columns(list(dict.fromkeys(columns))).iter(ROWS):
                    yield from table.to_batches()

        return schema, batches

    def fingerprint(self) -> str:
        return identity(self, [self._content(path) for path in self.files])

    def _content(self, path: str) -> list[tuple[str, str]]:
        if os.path.isabs(path):
            return [(os.path.relpath(file, path), hash_file(file)) for file in _files(path)]
        return [(path, hub_commit(path, self.revision))]

    def stamps(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for path in self.files:
            if os.path.isabs(path):
                found += [stamp_file(file) for file in _files(path)]
            else:
                found.append(stamp_hub(path, self.revision))
        return found


def locate(name: str) -> str:
    """The absolute path of a folder, or the name of a data set on the Hub as it is.

    Raises:
      UserError: the name can be neither.
    """
    path = resolve(name)
    if os.path.isdir(path):
        return path
    if (
        os.path.isabs(os.path.expanduser(name))
        or name.startswith(".")
        or not _NAME.fullmatch(name)
        or os.path.exists(path)
    ):
        raise UserError(f"{path}: no such folder; hf: reads folders, and names on the Hub such as wmt/wmt19")
    return name


def _files(folder: str) -> list[str]:
    """The files of a folder and of the folders in it, sorted; hidden ones are left out."""
    found = [file for file in Path(folder).rglob("*") if file.is_file()]
    return sorted(str(file) for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts))


def _load(path: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """A `datasets.Dataset` of a folder that `save_to_disk` wrote, otherwise a `datasets.IterableDataset`."""
    datasets = extra_package("datasets", path, "datasets")
    # Errors are told in one line (_hub_errors). The library would log them, too.
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    if not os.path.isabs(path):
        return _stream(path, config, split or "train", hub_commit(path, revision))
    if not (os.path.isfile(f"{path}/state.json") or os.path.isfile(f"{path}/dataset_dict.json")):
        return datasets.load_dataset(path, name=config, split=split or "train", streaming=True)
    if config:
        raise UserError(f"{path}: the folder was written by save_to_disk and has no configuration {config!r}")
    data = datasets.load_from_disk(path)
    if isinstance(data, datasets.Dataset):
        if split:
            raise UserError(f"{path}: the folder has no splits; leave split={split} out")
        return data
    if (split or "train") not in data:
        raise UserError(f"{path}: no split {split or 'train'!r}; the splits are {', '.join(map(str, data))}")
    return data[split or "train"]


@functools.cache
def _stream(name: str, config: str | None, split: str, commit: str) -> Any:
    datasets = extra_package("datasets", name, "datasets")
    return datasets.load_dataset(name, name=config, split=split, revision=commit, streaming=True)


@contextlib.contextmanager
def _hub_errors(path: str) -> Iterator[None]:
    """Turns errors of `datasets`, which are of many kinds, into a UserError that names the data set."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The library's own exceptions often say little; the one that caused them says more.
        cause = error.__cause__ or error
        raise UserError(f"{path}: cannot be read ({one_line(cause) or type(cause).__name__})") from None
