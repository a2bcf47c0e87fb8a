"""Memory that was used goes back to the system, in quiet moments and where the C library can."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref

import pytest
from conftest import REPO, StandIn
from fastapi.testclient import TestClient
from stand_in_server import wait_until

from genai_server.answering.predictor import LoadedModel
from genai_server.http import app as app_module
from genai_server.model_info import ModelInfo
from genai_server.runtime import memory
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_uri="models:/m/1", model_version="1", prompt="p/1")


class Cycle:
    def __init__(self):
        self.itself = self


def test_cycles_are_collected():
    gc.disable()
    try:
        left = weakref.ref(Cycle())
        memory.give_back()
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_pages_go_back():
    def resident_kib() -> int:
        lines = open("/proc/self/smaps_rollup").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    blocks = [ctypes.create_string_buffer(b"x" * 60_000) for _ in range(1000)]  # 60 MB, too small to be mapped each
    kept = blocks[-1]
    held_kib = resident_kib()
    del blocks
    memory.give_back()
    assert held_kib - resident_kib() > 30_000
    del kept


def test_another_c_library_is_no_outage(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.give_back()
    memory.unmap_large_blocks()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_go_back_when_they_are_freed_however_many_came_before():
    """In a process of its own: the setting is for good. A small block above each keeps glibc's heap from shrinking."""
    program = """
import ctypes, sys
from genai_server.runtime import memory
def mapped_kib():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
if sys.argv[1] == "set":
    memory.unmap_large_blocks()
bytes(31 * 2**20)  # from now on glibc takes blocks up to this size from its heap, unless it was told otherwise
before = mapped_kib()
blocks = [(ctypes.create_string_buffer(2**20 * 4), ctypes.create_string_buffer(2000)) for _ in range(10)]
small = [pair[1] for pair in blocks]
del blocks
print(mapped_kib() - before)
"""
    left = [
        int(subprocess.run([sys.executable, "-c", program, how], cwd=REPO, capture_output=True, check=True).stdout)
        for how in ("set", "left")
    ]
    assert left[0] < 5_000 < 20_000 < left[1]


def test_asked_ten_times_at_once_it_gives_back_once_or_twice_and_stops(monkeypatch):
    given, may_go_on = [], threading.Event()
    monkeypatch.setattr(memory, "give_back", lambda: given.append(may_go_on.wait(10)))
    trimmer = memory.IdleTrimmer()
    trimmer.start()
    for _ in range(10):
        trimmer.ask()
    may_go_on.set()
    wait_until(lambda: given)
    trimmer.stop()
    trimmer._thread.join(10)
    assert not trimmer._thread.is_alive()
    assert 1 <= len(given) <= 2


def test_giving_back_starts_no_thread_and_the_engine_is_watched_on(monkeypatch):
    """Where memory is short, a thread that dies before it runs would hold up the event loop for ever."""
    model, failed = StandIn({}), threading.Event()
    monkeypatch.setattr(app_module, "WATCH_EVERY_S", 0.02)
    app = app_module.create_app(ServerSettings(), lambda *_: LoadedModel(model, INFO), on_failure=failed.set)
    with TestClient(app) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
        client.get("/health/live")
        model.healthy, model.broken = False, "The engine failed 3 times in a row."
        assert failed.wait(10)


def test_a_server_gives_back_after_requests_and_not_while_it_answers(monkeypatch):
    given = []
    monkeypatch.setattr(memory, "give_back", lambda: given.append(True))
    monkeypatch.setattr(app_module, "WATCH_EVERY_S", 0.02)
    monkeypatch.setattr(app_module, "GIVE_BACK_EVERY_S", 0.0)
    with TestClient(app_module.create_app(ServerSettings(), lambda *_: LoadedModel(StandIn({}), INFO))) as client:
        client.get("/health/live")
        wait_until(lambda: len(given) == 1)
        with client.app.state.serving.predictor.slots.hold():
            client.get("/health/live")
            wait_until(lambda: client.app.state.serving.metrics.requests == 2)
            assert len(given) == 1
        wait_until(lambda: len(given) == 2)
