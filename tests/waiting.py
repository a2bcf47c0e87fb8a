"""Jobs for an engine, and bounded waiting for what becomes of them."""

from __future__ import annotations

import threading
import time

from served_model.text_generation.engine import Job


class Waiting:
    """Hands jobs in and waits for their ends, as a caller of an engine does."""

    def __init__(self):
        self._news = threading.Event()

    def job(self, ids, sampling, **given) -> Job:
        return Job(ids, sampling, self._news.set, **given)

    def until(self, holds, timeout_s: float = 20.0):
        """Wait until `holds()`; it is looked at on every notification, and every 10 ms."""
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, "waited too long"
            self._news.wait(0.01)
            self._news.clear()


class Recording:
    """The outbox of an engine, and what is put into it."""

    def __init__(self, outbox):
        self.sent, self._outbox = [], outbox

    def put(self, message):
        self.sent.append(message)
        self._outbox.put(message)

    def __getattr__(self, name):
        return getattr(self._outbox, name)
