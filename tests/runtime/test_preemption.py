"""Signals and notices of maintenance become one question after every step; running out of memory becomes advice."""

from __future__ import annotations

import http.server
import os
import signal
import threading

import jax
import pytest
from waiting import wait_until

from xalign_jax.errors import RunError
from xalign_jax.runtime import failures, preemption


@pytest.fixture(autouse=True)
def handlers():
    """The session's own signal handlers are there again afterwards."""
    before = {told: signal.getsignal(told) for told in (signal.SIGTERM, signal.SIGINT)}
    yield
    for told, handler in before.items():
        signal.signal(told, handler)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_by_a_process_alone(told):
    notice = preemption.StopNotice()
    assert not notice.reached()
    os.kill(os.getpid(), told)
    assert notice.reached()


@pytest.mark.parametrize(
    ("event", "said"), [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")]
)
def test_a_notice_of_the_metadata_server_is_heard(monkeypatch, event, said):
    answers = dict(preemption.EVENTS)
    asked = []

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
    notice = preemption.StopNotice()
    wait_until(lambda: len(asked) > 2 * len(answers))  # the ordinary answers have been read
    assert set(asked) == {"Google"} and not notice.reached()
    answers[event] = said
    wait_until(notice.reached)
    server.shutdown()


def test_memory_that_runs_out_is_one_line_with_advice():
    with (
        pytest.raises(RunError, match=r"out of device memory .*12.5G.*: fewer rows") as found,
        failures.advise("fewer rows"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 12.5G")
    assert "\n" not in str(found.value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), failures.advise("fewer rows"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
