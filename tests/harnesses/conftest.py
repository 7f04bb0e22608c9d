"""Tiny models as model directories, and their exports for transformers."""

from __future__ import annotations

import hf_folders
import pytest

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.interop.exporting import export_model
from xalign_jax.interop.importing import import_model
from xalign_jax.interop.sentence_encoder import SentenceEncoder
from xalign_jax.runtime.sharding import make_mesh


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """(model directory, exported folder) of a decoder that reads bos before a text."""
    return _made("llama", tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """(model directory, exported folder) of an encoder; the export is a model of sentence-transformers too."""
    return _made("xlm-r", tmp_path_factory.mktemp("encoder"), encoder=SentenceEncoder("mean"))


def _made(kind, place, **options):
    mesh = make_mesh((1, -1, 1))
    hf_folders.write(kind, place / "source")
    import_model(place / "source", place / "run", mesh)
    # The vocabulary of a run, as it would have been trained with.
    Tokenizer(Bytes(), Vocabulary("bytes", rows=hf_folders.COMMON["vocab_size"])).save(place / "run" / "vocabulary")
    export_model(place / "run", place / "exported", mesh, **options)
    return place / "run", place / "exported"
