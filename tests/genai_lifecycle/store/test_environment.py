"""What the libraries read when they are imported."""

from __future__ import annotations

import http.server
import os
import threading

import pytest
from conftest import free_port

from genai_lifecycle.store.environment import prepare
from genai_lifecycle.store.tracking_store import probe


@pytest.fixture
def other_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_this_machine_is_not_asked_for_through_a_proxy(monkeypatch, tmp_path, other_server):
    monkeypatch.setenv("no_proxy", "internal.example")
    monkeypatch.setenv("NO_PROXY", "other.example")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    prepare(tmp_path)
    assert probe(other_server) == "other"
    assert os.environ["no_proxy"].split(",") == ["internal.example", "other.example", "127.0.0.1", "localhost", "::1"]
    before = os.environ["no_proxy"]
    prepare(tmp_path)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == before
