"""A caller who closes the connection: the work ends, its place is free, and it is counted."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from conftest import saved_model
from listening import listening, measured
from stand_in_server import wait_until
from tiny_model import make_gpt2

from genai_server.errors import BadQuestion, ClientDisconnected
from genai_server.http.app import create_app
from genai_server.http.disconnect import unless_disconnected
from genai_server.settings import ServerSettings

LONG = {"question": "What is MLflow?", "max_new_tokens": 1024}
BODIES = {
    "/ask": LONG,
    "/ask/batch": {"questions": [LONG]},
    "/v1/chat/completions": {
        "model": "saved", "max_tokens": 1024, "messages": [{"role": "user", "content": "What is MLflow?"}],
    },
    "/v1/completions": {"model": "saved", "max_tokens": 1024, "prompt": "Question: What is MLflow?"},
    "/invocations": {"inputs": ["What is MLflow?"], "params": {"max_new_tokens": 1024}},
}  # fmt: skip


class Request:
    """Its caller leaves when it is told to."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_what_is_wanted_is_returned_or_raised():
    async def scenario(error: Exception | None):
        async def work():
            await asyncio.sleep(0)
            if error:
                raise error
            return 5

        return await unless_disconnected(Request(), work())

    assert asyncio.run(scenario(None)) == 5
    with pytest.raises(BadQuestion):
        asyncio.run(scenario(BadQuestion("no")))


@pytest.mark.parametrize("who", ["caller", "server"])
def test_what_nobody_wants_any_more_is_cancelled(who):
    ended = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def scenario():
        request = Request()
        waiting = asyncio.create_task(unless_disconnected(request, work()))
        await asyncio.sleep(0.01)
        request.gone.set() if who == "caller" else waiting.cancel()
        await waiting

    with pytest.raises(ClientDisconnected if who == "caller" else asyncio.CancelledError):
        asyncio.run(scenario())
    assert ended == [True]


# --- over a real server ---


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """One with a real packaged model whose window is long enough to be left."""
    base = tmp_path_factory.mktemp("leaving")
    folder = saved_model(base, make_gpt2(base / "gpt2", positions=2048))
    app = create_app(ServerSettings(model_uri=str(folder), queue_limit=1))
    with listening(app) as url:
        yield url


@pytest.mark.parametrize("path", BODIES)
def test_leaving_ends_the_work_and_frees_the_place(url, path):
    left, whole = (measured(url, f"genai_{name}_total") for name in ("requests_cancelled", "request_success"))
    body = json.dumps(BODIES[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as caller:
        caller.sendall(head.encode() + body)
        wait_until(lambda: measured(url, "genai_num_requests_running") == 1, 60)
    wait_until(lambda: measured(url, "genai_requests_cancelled_total") == left + 1, 60)
    wait_until(lambda: measured(url, "genai_num_requests_running") == 0, 60)
    assert measured(url, "genai_request_success_total") == whole
    again = httpx.post(f"{url}/ask", json=LONG | {"max_new_tokens": 3}, timeout=60)
    assert again.status_code == 200 and again.json()["completion_tokens"] == 3


def test_an_answer_that_a_stop_string_ended_is_nobody_who_left(url):
    left = measured(url, "genai_requests_cancelled_total")
    first = httpx.post(f"{url}/ask", json=LONG | {"max_new_tokens": 20}, timeout=60).json()["answer"]
    for path in ("/ask", "/ask/stream"):
        stopped = httpx.post(url + path, json=LONG | {"stop": [first[:1]]}, timeout=60)
        assert stopped.status_code == 200
    assert measured(url, "genai_requests_cancelled_total") == left
    assert 'finished_reason="stop"' in httpx.get(f"{url}/metrics").text
