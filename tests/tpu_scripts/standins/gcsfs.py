"""A stand-in for the package gcsfs in containers: reads gs://bucket from the server at STORAGE_EMULATOR_HOST."""

from __future__ import annotations

import io
import os
import urllib.request
from urllib.parse import quote

from fsspec.spec import AbstractFileSystem


class GCSFileSystem(AbstractFileSystem):
    protocol = ("gs", "gcs")

    def _open(self, path, mode="rb", **options):
        bucket, _, name = path.partition("/")
        server = os.environ["STORAGE_EMULATOR_HOST"]
        with urllib.request.urlopen(f"{server}/storage/v1/b/{bucket}/o/{quote(name, '')}?alt=media") as answer:
            return io.BytesIO(answer.read())
