"""Stores on object storage: the same numbers as from a local disk, whatever the storage does."""

from __future__ import annotations

import concurrent.futures
import subprocess
import time

import numpy as np
import pytest
from data.fakes import checksum
from runtime import gcs

from xalign_jax.data import corpus
from xalign_jax.data.feeds.packed import TextFeed, TranslationFeed
from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store import remote
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores, prepare
from xalign_jax.errors import RunError, UserError

BYTES = Vocabulary(kind="bytes")


@pytest.fixture(scope="module")
def server():
    server = gcs.serve()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gcs.environment(server).items():
            patch.setenv(name, value)
        yield server
    server.shutdown()


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory):
    """A task, and the cache of a host that prepared it and put it on the bucket. Blocks and parts are small."""
    folder = tmp_path_factory.mktemp("remote")
    for language in ("en", "de"):
        lines = [f"p{i}\t{language} text number {i} of all, {'long ' * (i % 9)}" for i in range(2000)]
        (folder / f"{language}.tsv").write_text("\n".join(lines))
    task = f"tsv:en={folder}/en.tsv,de={folder}/de.tsv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_LARGE", 20_000)
        patch.setattr(remote, "_BLOCK", 2048)
        patch.setattr(remote, "_PART", 2048 * 16)
        patch.setenv("XALIGN_REMOTE", "gs://bucket/cache")
        prepare(Texts(BYTES, [task], folder / "cache"))
    return task, folder / "cache"


@pytest.fixture
def pulled(prepared, server, tmp_path, monkeypatch):
    """The stores as another host opens them, which prepares nothing."""
    task, _ = prepared
    monkeypatch.setenv("XALIGN_REMOTE", "gs://bucket/cache")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the text was prepared again"))
    prepare(Texts(BYTES, [task], tmp_path))
    yield tmp_path
    server.latency, server.fault = 0.0, lambda name: None


def tokens(prepared, cache):
    return open_stores(Texts(BYTES, [prepared[0]], cache), prepared[0])["train"]["en"].tokens


def test_an_array_on_the_bucket_is_the_array(prepared, pulled):
    here, there = tokens(prepared, prepared[1]), tokens(prepared, pulled)
    assert isinstance(there, remote.RemoteArray)
    assert (len(there), there.shape, there.ndim, there.dtype) == (len(here), here.shape, 1, here.dtype)
    rng = np.random.default_rng(0)
    places = rng.integers(-len(here), len(here), (7, 300))
    np.testing.assert_array_equal(there[places], here[places])
    assert there[5] == here[5] and there[-1] == here[-1]
    for start, stop in ((0, 10), (1000, 5000), (len(here) - 3, len(here) + 9), (7, 7), (None, None), (-50, -20)):
        np.testing.assert_array_equal(there[start:stop], here[start:stop])
    for size in (1, 100, 3000):
        starts = rng.integers(0, len(here) - size + 1, 50)
        np.testing.assert_array_equal(remote.take_windows(there, starts, size), remote.take_windows(here, starts, size))
    for wrong in (len(here), [0, -len(here) - 1], slice(0, 9, 2), 0.5):
        with pytest.raises(IndexError):
            there[wrong]


@pytest.mark.parametrize("fault", [None, "overloaded", "reset", "short", "flipped"])
def test_batches_are_those_of_a_local_disk(prepared, pulled, server, fault, monkeypatch):
    """Every third read fails."""
    monkeypatch.setattr(remote, "_BLOCKS", remote._Blocks())
    monkeypatch.setattr(remote, "_WAIT", 0.001)
    reads = []
    server.fault = lambda name: fault if reads.append(name) or len(reads) % 3 == 0 else None
    mixture = Mixture(tasks=[prepared[0]])
    feeds = WindowFeed(length=128), TextFeed(length=128, slots=4), TranslationFeed(length=256, slots=4, side=100)
    built = {}
    for cache in (prepared[1], pulled):
        data = corpus.open_texts(BYTES, [mixture], cache)
        batches = [feed.build(data, mixture, 8, seed=1) for feed in feeds]
        built[cache] = [checksum(batch.batch(row, slice(0, 8))) for batch in batches for row in (0, 8, 8_000_000)]
    assert built[prepared[1]] == built[pulled]
    assert len(reads) > 10


def test_a_storage_that_goes_on_failing_gives_one_line(prepared, pulled, server, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCKS", remote._Blocks())
    monkeypatch.setattr(remote, "_WAIT", 0.001)
    server.fault = lambda name: "flipped"
    there = tokens(prepared, pulled)
    with pytest.raises(
        RunError, match=r"^gs://bucket/cache/stores/\w+/train/en/tokens/000000: bytes 0 to 2048 are"
    ) as one:
        there[0]
    assert "tried 6 times" in str(one.value) and "\n" not in str(one.value)


def test_the_memory_is_bounded(prepared, pulled, server, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCKS", remote._Blocks())
    monkeypatch.setattr(remote, "_memory", lambda: 1)
    monkeypatch.setattr(remote, "_BLOCK", 2**18)  # four blocks fit
    there = tokens(prepared, pulled)
    there[: len(there)]
    assert len(remote._BLOCKS._kept) == 4


def test_reading_ahead_hides_the_latency(prepared, pulled, server, monkeypatch):
    """Threads make batches ahead, as Grain's do. A step then takes as long as its computation, not as its reads."""
    monkeypatch.setattr(remote, "_BLOCKS", remote._Blocks())
    mixture = Mixture(tasks=[prepared[0]])
    batches = WindowFeed(length=128).build(corpus.open_texts(BYTES, [mixture], pulled), mixture, 8, seed=1)
    server.latency = 0.1
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(batches.batch, row, slice(0, 8)) for row in range(0, 160, 8)]
        futures[0].result()
        waited = 0.0
        for future in futures[1:]:
            time.sleep(0.1)  # the computation of a step
            start = time.perf_counter()
            future.result()
            waited += time.perf_counter() - start
    assert waited < 0.5  # 19 steps of reads would take two seconds or more


def test_texts_that_have_changed_here_are_prepared_again(prepared, server, tmp_path, monkeypatch):
    task, cache = prepared
    entry = Texts(BYTES, [task], cache).index_file(task)
    assert remote.pull(tmp_path, [entry], "gs://bucket/cache")
    file = cache.parent / "en.tsv"
    content = file.read_bytes()
    try:
        file.write_bytes(content + b"\nlast\tone more")
        assert not remote.pull(tmp_path, [entry], "gs://bucket/cache")
        file.unlink()  # a host without the text
        assert remote.pull(tmp_path, [entry], "gs://bucket/cache")
    finally:
        file.write_bytes(content)


def test_a_damaged_file_on_the_bucket_is_named(prepared, server, tmp_path, monkeypatch):
    task, cache = prepared
    entries = [Texts(BYTES, [task], cache).index_file(one) for one in (None, task)]
    (name,) = (name for name in server.objects if name.endswith("train/en/group.npy"))
    before = server.objects[name]
    try:
        server.objects[name] = (before[0][:-1] + b"?", before[1])
        with pytest.raises(RunError, match=r"train/en/group\.npy: damaged; delete stores/\w+ there"):
            remote.pull(tmp_path, entries, "gs://bucket/cache")
    finally:
        server.objects[name] = before
    assert not [*tmp_path.glob("stores/*")]


def test_a_bad_url_is_named(monkeypatch):
    monkeypatch.setenv("XALIGN_REMOTE", "bucket/folder")
    with pytest.raises(UserError, match=r"XALIGN_REMOTE = 'bucket/folder': expected gs://BUCKET/FOLDER"):
        remote.remote_url()
