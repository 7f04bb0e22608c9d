"""Signals and notices of maintenance become one question after every step; running out of memory becomes advice."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest
from waiting import wait_until

from xalign_jax.errors import RunError
from xalign_jax.runtime.cluster import failures, preemption


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_by_a_process_alone_and_only_within_the_context(told):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with preemption.StopNotice() as notice:
        assert not notice.reached()
        os.kill(os.getpid(), told)
        assert notice.reached()
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_trains_without_handlers():
    found = []

    def train():
        with preemption.StopNotice() as notice:
            found.append(notice.reached())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [False]


HANGS = """
import ctypes, sys
from xalign_jax.runtime.cluster import preemption
with preemption.StopNotice():
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(600)  # in C: no handler of Python's runs meanwhile
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_interrupt_ends_a_process_that_hangs(first):
    process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stderr.readline() == preemption.FIRST + "\n"
        time.sleep(2 * preemption.ONCE_SECONDS)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3 and errors == f"xalign: {preemption.SECOND}\n"


@pytest.fixture
def metadata(monkeypatch):
    """What Google's metadata server answers, by event, and the questions that it heard."""
    answers, asked = dict(preemption.EVENTS), []

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/instance/")[2]
            asked.append(self.headers["Metadata-Flavor"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[name].encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(preemption, "METADATA_SECONDS", 0.2)
    yield answers, asked
    server.shutdown()


@pytest.mark.parametrize(
    ("event", "said"), [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")]
)
def test_a_notice_of_the_metadata_server_is_heard(metadata, event, said):
    answers, asked = metadata
    with preemption.StopNotice() as notice:
        wait_until(lambda: len(asked) > 2 * len(answers))  # the ordinary answers have been read
        assert set(asked) == {"Google"} and not notice.reached()
        answers[event] = said
        wait_until(notice.reached)


def test_a_notice_that_has_stopped_the_run_before_is_passed_over(metadata):
    answers, asked = metadata
    answers["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with preemption.StopNotice() as notice:
        wait_until(lambda: len(asked) > 2 * len(answers))
        assert not notice.reached()
        answers["maintenance-event"] = "NONE"
        seen = len(asked)
        wait_until(lambda: len(asked) > seen + 2 * len(answers))
        answers["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        wait_until(notice.reached)


def test_memory_that_runs_out_is_one_line_with_advice():
    with (
        pytest.raises(RunError, match=r"out of device memory .*12.5G.*: fewer rows") as found,
        failures.advise("fewer rows"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 12.5G")
    assert "\n" not in str(found.value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), failures.advise("fewer rows"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
