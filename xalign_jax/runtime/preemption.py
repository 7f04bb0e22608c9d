"""When to save and stop: SIGTERM, SIGINT, or a maintenance event of the cloud, whichever process hears of it."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from typing import Any

import jax
from jax.experimental import multihost_utils

from xalign_jax.runtime import distributed

METADATA_SECONDS = 5.0
EVENTS = {"maintenance-event": "NONE", "preempted": "FALSE"}  # of Google's metadata server; what each says ordinarily


class StopNotice:
    """Whether all processes are to save and stop, as `reached`, asked after every step, says to all at one step.

    Several processes agree by JAX's preemption service: it hears SIGTERM in any process, and the step is the first that
    none has passed. It costs no collective, so a notice is heard within a step.
    """

    def __init__(self) -> None:
        self._told, self._asked = False, 0
        self._alone = distributed.client() is None
        signal.signal(signal.SIGINT, self._stop)
        if self._alone:  # else the signal is the service's
            signal.signal(signal.SIGTERM, self._stop)
        if jax.default_backend() == "tpu" or "GCE_METADATA_HOST" in os.environ:
            threading.Thread(target=_watch_events, daemon=True, name="maintenance events").start()

    def _stop(self, *_: Any) -> None:
        if self._alone:
            self._told = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> bool:
        """Whether to save and stop now; every process must ask after every step."""
        if self._alone:
            return self._told
        self._asked += 1  # not the step: a notice may come before the first one, after which step 1 is agreed upon
        return multihost_utils.reached_preemption_sync_point(self._asked)


def _watch_events() -> None:
    """Turn a notice of maintenance or preemption into SIGTERM."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    pause = threading.Event()
    while not pause.wait(METADATA_SECONDS):
        for event, ordinary in EVENTS.items():
            request = urllib.request.Request(
                f"http://{host}/computeMetadata/v1/instance/{event}", headers={"Metadata-Flavor": "Google"}
            )
            try:
                with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
                    said = answer.read().decode().strip()
            except OSError:
                continue
            if said != ordinary:
                os.kill(os.getpid(), signal.SIGTERM)
                return
