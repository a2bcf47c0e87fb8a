"""Server-sent events: framing, keep-alive comments, and over a real server the end of the work with the connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import REPO, saved_model
from listening import listening, measured
from stand_in_server import wait_until
from tiny_model import make_gpt2

from genai_server.errors import BadQuestion
from genai_server.http import sse
from genai_server.http.app import create_app
from genai_server.settings import ServerSettings

LONG = {"question": "What is MLflow?", "max_new_tokens": 1024}


# --- framing ---


def test_an_event_is_one_line_of_json_whatever_the_text():
    assert sse.event({"delta": "é"}) == 'data: {"delta": "é"}\n\n'.encode()
    assert sse.event({"a": 1}, "end") == b'event: end\ndata: {"a": 1}\n\n'
    assert sse.event("[DONE]") == b"data: [DONE]\n\n"
    text = "two\nlines\r\n\n and a \u2028 separator"
    (line,) = sse.event({"delta": text}).decode().removesuffix("\n\n").split("\n")
    assert json.loads(line.removeprefix("data: "))["delta"] == text


class Pieces:
    """An async iterator that remembers whether it was closed."""

    def __init__(self, *pieces, wait_s: float = 0.0):
        self.pieces, self.wait_s, self.closed = pieces, wait_s, False

    async def made(self):
        try:
            for piece in self.pieces:
                await asyncio.sleep(self.wait_s)
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True


async def all_of(stream) -> list:
    return [piece async for piece in stream]


async def body_of(pieces: Pieces) -> list[bytes]:
    made = pieces.made()
    return await all_of(sse.EventResponse(made, made).body_iterator)


def test_the_headers_do_not_wait_for_the_first_piece():
    async def scenario():
        work, sent, headers = asyncio.Event(), [], asyncio.Event()

        async def events():
            await work.wait()
            yield b"data: 1"

        async def send(message):
            sent.append(message["type"])
            headers.set()

        async def receive():
            await asyncio.sleep(60)

        made = events()
        answering = asyncio.create_task(sse.EventResponse(made, made)({"type": "http"}, receive, send))
        await asyncio.wait_for(headers.wait(), 5)
        assert sent == ["http.response.start"]
        work.set()
        await answering

    asyncio.run(scenario())


def test_what_was_never_read_is_closed_too():
    class Work:
        is_closed = False

        async def aclose(self):
            self.is_closed = True

    async def scenario():
        async def gone():
            return {"type": "http.disconnect"}

        async def send(_):
            await asyncio.sleep(60)

        work = Work()
        await sse.EventResponse(Pieces(1).made(), work)({"type": "http"}, gone, send)
        return work.is_closed

    assert asyncio.run(scenario())


# --- keep-alive comments ---


def test_a_comment_comes_whenever_nothing_else_does(monkeypatch):
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)
    body = asyncio.run(body_of(Pieces(b"a", b"b", wait_s=0.15)))
    assert [chunk for chunk in body if chunk != sse.KEEPALIVE_COMMENT] == [b"a", b"b"]
    first, second = body.index(b"a"), body.index(b"b")
    assert first >= 2 and second - first >= 3
    assert sse.KEEPALIVE_COMMENT.startswith(b":") and sse.KEEPALIVE_COMMENT.endswith(b"\n\n")


def test_comments_come_as_often_as_the_docs_say_and_before_a_proxy_gives_up():
    """nginx closes a connection on which nothing has come for 60 s."""
    assert f"a comment line every {sse.KEEP_ALIVE_S:g} s" in (REPO / "docs" / "http_api.md").read_text("utf-8")
    assert 1 <= sse.KEEP_ALIVE_S <= 30


def test_no_comment_while_pieces_come():
    assert asyncio.run(body_of(Pieces(b"a", b"b"))) == [b"a", b"b"]


def test_an_error_between_comments_is_not_lost(monkeypatch):
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    with pytest.raises(BadQuestion):
        asyncio.run(body_of(Pieces(b"a", BadQuestion("no"), wait_s=0.03)))


def test_a_body_that_is_not_read_to_its_end_closes_what_is_below(monkeypatch):
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)

    async def scenario(after: int):
        pieces = Pieces(b"a", b"b", wait_s=0.05)
        made = pieces.made()
        body = sse.EventResponse(made, made).body_iterator
        for _ in range(after):
            await anext(body)
        await body.aclose()
        return pieces.closed

    assert asyncio.run(scenario(1))  # a comment came; the first piece is still being made
    assert asyncio.run(scenario(8))


# --- over a real server ---


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A server on a free port with a real packaged model whose window is long enough to be interrupted."""
    base = tmp_path_factory.mktemp("sse")
    folder = saved_model(base, make_gpt2(base / "gpt2", positions=2048))
    with listening(create_app(ServerSettings(model_uri=str(folder))), ready_within_s=30) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ask/stream", LONG),
        (
            "/v1/chat/completions",
            {
                "model": "saved", "stream": True, "max_tokens": 1024,
                "messages": [{"role": "user", "content": "What is MLflow?"}],
            },
        ),
    ],
)  # fmt: skip
def test_closing_the_connection_stops_the_generation(url, path, body):
    cancelled, whole = (
        measured(url, name) for name in ("genai_requests_cancelled_total", "genai_request_success_total")
    )
    with httpx.stream("POST", url + path, json=body, timeout=30) as response:
        assert response.status_code == 200
        next(response.iter_bytes())
    wait_until(lambda: measured(url, "genai_requests_cancelled_total") == cancelled + 1, 30)
    wait_until(lambda: measured(url, "genai_num_requests_running") == 0, 30)
    assert measured(url, "genai_request_success_total") == whole
    # the place in the queue and the engine are free again
    assert httpx.post(f"{url}/ask", json=LONG | {"max_new_tokens": 3}, timeout=30).json()["completion_tokens"] == 3


def test_a_stream_that_is_read_to_its_end_is_not_counted_as_cancelled(url):
    cancelled = measured(url, "genai_requests_cancelled_total")
    text = httpx.post(f"{url}/ask/stream", json=LONG | {"max_new_tokens": 40}, timeout=30).text
    assert "event: end" in text
    assert measured(url, "genai_requests_cancelled_total") == cancelled


def test_pieces_come_while_the_rest_is_still_being_made(url):
    with httpx.stream("POST", f"{url}/ask/stream", json=LONG, timeout=30) as response:
        started, times = time.monotonic(), []
        for line in response.iter_lines():
            if line.startswith("data: "):
                times.append(time.monotonic() - started)
    assert len(times) > 20 and times[0] < times[-1] / 2
