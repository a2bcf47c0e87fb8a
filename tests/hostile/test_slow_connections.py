"""Connections that send nothing, half a head, or a body byte by byte: each ends after a stated time."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from conftest import StandIn

from genai_server.answer import Answer
from genai_server.answering.predictor import LoadedModel
from genai_server.http import body, protocol
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

pytestmark = pytest.mark.slow


INFO = ModelInfo(model="m", model_uri="models:/m/1", model_version="1", prompt="p/1")
HEAD = b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture
def address(monkeypatch):
    """A server of uvicorn with our protocol and short times."""
    import threading

    import uvicorn

    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(body.BodyTimeout.__init__, "__defaults__", (0.5,))
    listening = protocol.listening_socket("127.0.0.1", 0)
    app = create_app(ServerSettings(), lambda *_: LoadedModel(StandIn({"answer": "a"}), INFO))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol.TimedProtocol, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(10)


def read_to_the_end(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    parts = []
    try:
        while part := connection.recv(4096):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HT", HEAD[:-2]])
def test_a_connection_without_a_whole_head_is_closed(address, sent):
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert read_to_the_end(connection) == b""


def test_so_is_one_that_dribbles_its_second_head(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        for byte in b"GET /he":
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        assert read_to_the_end(connection).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("path", [b"/ask", b"/v1/completions", b"/invocations", b"/feedback"])
def test_a_body_that_does_not_come_is_a_408_in_the_shape_of_its_route(address, path):
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD.replace(b"/ask", path) + b'{"')
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"The body was not here within 0.5 s." in answer


def test_an_answer_that_takes_long_is_no_slow_body(address, monkeypatch):
    async def slow(self, question, params, group=0):
        await asyncio.sleep(1.5)
        return Answer("late")

    monkeypatch.setattr(StandIn, "ask", slow)
    body = b'{"question": "q"}'
    with socket.create_connection(address) as connection:
        connection.sendall(
            HEAD.replace(b"100", str(len(body)).encode()).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body
        )
        assert b"late" in read_to_the_end(connection)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_what_nobody_reads_is_dropped_by_the_kernel():
    with protocol.listening_socket("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                kept_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert kept_ms == protocol.UNREAD_TIMEOUT_S * 1000
