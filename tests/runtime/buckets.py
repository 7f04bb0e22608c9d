"""Object stores that live in a local folder: gs:// without a network, which can be made to fail."""

from __future__ import annotations

from pathlib import Path

from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry


class Bucket(LocalFileSystem):
    """gs://bucket/name is a file under `root`; appending is impossible; writing fails once `writes_left` is 0."""

    root = Path()
    writes_left = -1
    cachable = False

    def __init__(self, **options):
        super().__init__(auto_mkdir=True)

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path)
        inside = path.partition("://")[2] if "://" in path else path.removeprefix(str(cls.root)).lstrip("/")
        return f"{cls.root}/{inside}".rstrip("/")

    def open(self, path, mode="rb", **options):
        if "a" in mode:
            raise NotImplementedError("objects cannot be appended to")
        if "w" in mode:
            if type(self).writes_left == 0:
                raise OSError("503 Service Unavailable: try again later")
            type(self).writes_left -= 1
        return super().open(path, mode, **options)


def use_buckets(monkeypatch, root):
    """Reach gs:// in the folder `root` until the test ends."""
    monkeypatch.setattr(Bucket, "root", Path(root))
    monkeypatch.setattr(Bucket, "writes_left", -1)
    monkeypatch.setitem(_registry, "gcs", Bucket)
    backend.fsspec_backend._get_filesystem.cache_clear()
