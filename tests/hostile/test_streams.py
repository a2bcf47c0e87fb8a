"""Callers of streams who leave before the first token, or never read: their places come back."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from conftest import StandIn
from listening import listening
from stand_in_server import wait_until

from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_uri="models:/m/1", model_version="1", prompt="p/1")
STREAMS = {
    "/ask/stream": {"question": "What is MLflow?"},
    "/v1/chat/completions": {
        "model": "m", "stream": True, "messages": [{"role": "user", "content": "What is MLflow?"}],
    },
    "/v1/completions": {"model": "m", "stream": True, "prompt": "MLflow is"},
}  # fmt: skip


class Never:
    """Held for ever."""

    async def wait(self):
        await asyncio.sleep(3600)


@pytest.fixture
def served():
    """A server with one place whose model never comes to its first token."""
    app = create_app(ServerSettings(queue_limit=1), lambda *_: LoadedModel(StandIn({}, hold=Never()), INFO))
    with listening(app) as url:
        yield url, app.state.serving.predictor.slots


@pytest.mark.parametrize("path", STREAMS)
def test_the_headers_come_before_the_first_token_and_the_place_goes_with_the_caller(served, path):
    """Before, nothing came until the first token, and a caller who left before it kept the place."""
    url, places = served
    for _ in range(3):
        with httpx.stream("POST", url + path, json=STREAMS[path], timeout=10) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            assert places.in_use == 1
            assert httpx.post(url + path, json=STREAMS[path], timeout=10).status_code == 429
        wait_until(lambda: places.in_use == 0, 10)


@pytest.mark.parametrize("path", STREAMS)
def test_a_caller_who_leaves_without_reading_a_byte_frees_the_place(served, path):
    url, places = served
    host, port = url.removeprefix("http://").split(":")
    for _ in range(20):
        request = httpx.Request("POST", url + path, json=STREAMS[path])
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(request.content)}\r\n\r\n".encode() + request.content)
        wait_until(lambda: places.in_use == 0, 10)
    assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
