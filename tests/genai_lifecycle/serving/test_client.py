"""A running server asked over HTTP: what it tells, and one sentence for each way in which it does not."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

import pytest
from conftest import free_port
from listening import answering

from genai_lifecycle.errors import ConfigError, ServerFailed
from genai_lifecycle.serving.client import TOLD, RunningServer, first_key

INFO = {name: name for name in TOLD} | {"engine": {"name": "torch"}}
OUR_PROBLEM = {"detail": "The model is loading.", "code": "not_ready"}


class Told(BaseHTTPRequestHandler):
    """Says what the test put into `said`: path -> (status, text)."""

    said: dict[str, tuple[int, str]] = {}

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._say()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say()

    def _say(self) -> None:
        status, text = self.said.get(self.path, (404, "nothing here"))
        if self.headers.get("Authorization") == "Bearer a-wrong-key":
            status = 401
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture(scope="module")
def url():
    with answering(Told) as url:
        yield url


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What the server says; a test changes it."""
    answers = json.dumps({"predictions": [{"token_ids": [5, 6]}]})
    said = {"/model/info": (200, json.dumps(INFO)), "/invocations": (200, answers)}
    monkeypatch.setattr(Told, "said", said)
    return said


def refused(url: str, key: str = "") -> str:
    with RunningServer(url, key) as server, pytest.raises(ServerFailed) as error:
        server.info()
    assert error.value.hint
    return error.value.args[0]


def test_it_tells_who_it_is_and_what_it_answers(url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with RunningServer(f"{url}/") as server:
        assert server.info() == INFO
        assert server.token_ids("What?", 4) == [5, 6]


def test_nobody_there(url):
    assert "No server answers at http://127.0.0.1:" in refused(f"http://127.0.0.1:{free_port()}")


def test_a_key_is_needed_or_refused(url, said):
    assert refused(url, "a-wrong-key").endswith(" refuses the key in API_KEYS.")
    said["/model/info"] = (401, json.dumps(OUR_PROBLEM))
    assert refused(url).endswith(" needs a key.")


def test_a_server_that_is_not_ready_says_why(url, said):
    said["/model/info"] = (503, json.dumps(OUR_PROBLEM))
    assert refused(url).endswith(" does not answer (503): The model is loading.")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "<html>"),
        (404, '{"detail": "Not Found"}'),
        (200, "<html>"),
        (200, "[]"),
        (200, '{"model": "m"}'),
        (200, json.dumps(INFO | {"engine": "torch"})),
        (302, ""),
        (500, ""),
    ],
)
def test_another_program_is_no_server_of_ours(url, said, status, text):
    said["/model/info"] = (status, text)
    assert f"{url} is no server of this project: GET /model/info " in refused(url)


@pytest.mark.parametrize("text", ["{}", '{"predictions": []}', '{"predictions": ["text"]}', "x"])
def test_answers_without_token_ids_are_not_ours(url, said, text):
    said["/invocations"] = (200, text)
    with RunningServer(url) as server, pytest.raises(ServerFailed, match="answers without token ids"):
        server.token_ids("What?", 4)


def test_mlflows_own_sentence_is_passed_on(url, said):
    said["/invocations"] = (400, json.dumps({"error_code": "BAD_REQUEST", "message": "Too long."}))
    with RunningServer(url) as server, pytest.raises(ServerFailed, match=r"does not answer \(400\): Too long\."):
        server.token_ids("What?", 4)


@pytest.mark.parametrize(("address", "key"), [("http://host:port", ""), ("http://127.0.0.1", "schlüssel")])
def test_what_cannot_be_an_address_or_a_key_is_refused(address, key):
    with pytest.raises(ConfigError, match="is no address, or the key is not plain ASCII"):
        RunningServer(address, key)


def test_the_key_is_the_first_one_of_the_servers_variable():
    assert first_key({"API_KEYS": " one-key , another "}) == "one-key"
    assert first_key({}) == ""
