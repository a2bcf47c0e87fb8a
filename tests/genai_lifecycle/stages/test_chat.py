"""Mode `chat`: a conversation over HTTP and with a version loaded here, for a person and through a pipe."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

import pytest
from listening import answering

from genai_lifecycle.errors import ConfigError, ServerFailed
from genai_lifecycle.stages.chat import ChatSettings, HttpPartner, LoadedPartner, Session, open_partner
from genai_lifecycle.store import prompt_registry as registry


class Server(BaseHTTPRequestHandler):
    """Answers with what it was asked, in our server's words."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, "application/json", json.dumps({"model": "m", "model_version": "3"}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Bearer a-good-key":
            self._send(401, "application/problem+json", json.dumps({"detail": "This server needs a key."}))
            return
        prompt = "".join(f" {body[name]}" for name in ("prompt_name", "prompt_alias", "prompt_version") if name in body)
        if "missing" in prompt:
            self._send(404, "application/problem+json", json.dumps({"detail": "There is no prompt 'missing'."}))
            return
        text = f"{body['question']} after {len(body['history'])}{prompt}"
        events = [f"data: {json.dumps({'delta': word})}\n\n" for word in text.split(" ")]
        if body["question"] == "break":
            events.append('event: error\ndata: {"detail": "The engine ended."}\n\n')
        whole = {"answer": text, "completion_tokens": 3, "first_token_s": 0.1, "finish_reason": "length"}
        events.append(f"event: end\ndata: {json.dumps(whole)}\n\n")
        self._send(200, "text/event-stream", "".join(events))

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture(scope="module")
def url():
    with answering(Server) as url:
        yield url


def said(partner, lines, for_a_person=True) -> str:
    written: list[str] = []
    Session(partner, written.append, for_a_person).run(lines)
    return "".join(written)


def test_answers_stream_with_a_line_of_timing(url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # for other hosts than the one that is named
    text = said(HttpPartner(url, "a-good-key", 8), ["What is it?\n"])
    assert text.startswith("What" + "is" + "it?" + "after" + "0\n  3 tokens, first after 0.10 s, ")
    assert "ended by length" in text


def test_earlier_turns_are_kept_until_they_are_reset(url):
    lines = ["one", "two", "/reset", "three", "/quit", "never asked"]
    text = said(HttpPartner(url, "a-good-key", 8), lines)
    told = [line for line in text.splitlines() if line and not line.startswith("  ")]  # without the timings
    assert told == ["oneafter0", "twoafter2", "The earlier turns are forgotten.", "threeafter0"]


def test_through_a_pipe_each_line_is_a_question_of_its_own(url):
    answers = said(HttpPartner(url, "a-good-key", 8), ["one", "two"], for_a_person=False).splitlines()
    assert answers == ["one after 0", "two after 0"]


def test_a_prompt_is_named_and_the_earlier_turns_go(url):
    lines = ["one", "/prompt qa-expert", "two", "/prompt qa-expert@production", "two", "/prompt qa-expert/3", "two",
             "/prompt", "three"]  # fmt: skip
    answers = said(HttpPartner(url, "a-good-key", 8), lines, for_a_person=False).splitlines()
    assert [line for line in answers if " after " in line] == [
        "one after 0", "two after 0 qa-expert", "two after 0 qa-expert production", "two after 0 qa-expert 3",
        "three after 0",
    ]  # fmt: skip
    assert "From here on with qa-expert/3; the earlier turns are forgotten." in answers


@pytest.mark.parametrize("name", ["missing", "a/b"])
def test_a_prompt_that_is_not_there_is_told_and_the_chat_goes_on(url, name):
    text = said(HttpPartner(url, "a-good-key", 8), [f"/prompt {name}", "one", "two"], for_a_person=False)
    assert ("There is no prompt 'missing'" if name == "missing" else "not named as one") in text
    assert text.splitlines()[-1].startswith("two after ") and "missing" not in text.splitlines()[-1]


def test_a_loaded_version_answers_with_a_prompt_of_the_registry(store, saved_tiny):
    for name, template in (("short", "Q: {{question}} A:"), ("two", "{{question}} {{context}}")):
        registry.register(name, template, "test", {})
    partner = LoadedPartner(str(saved_tiny), 8)
    packaged = partner._model.unwrap_python_model().model
    expected = [*packaged.stream("Q: one A:", {"max_new_tokens": 8}, is_rendered=True)][-1]["answer"]
    own, other, refused, missing = (
        said(partner, [line, "one"] if line else ["one"], for_a_person=False)
        for line in ("", "/prompt short", "/prompt two", "/prompt nothing")
    )
    assert other.splitlines()[-1] == " ".join(expected.split()) != own.splitlines()[-1]
    assert "other variables" in refused and "no prompt 'nothing'" in missing
    assert partner.info()["prompt"] == "short/1"
    packaged.close()


def test_who_answers_and_help(url):
    text = said(HttpPartner(url, "a-good-key", 8), ["/info", "/what"])
    assert '"model_version": "3"' in text
    assert "/reset" in text and "/quit" in text


def test_a_refusal_and_a_broken_stream_are_one_sentence(url):
    with pytest.raises(ServerFailed, match="needs a key") as refused:
        said(HttpPartner(url, "", 8), ["one"])
    assert "API_KEYS" in refused.value.hint
    with pytest.raises(ServerFailed, match="The engine ended"):
        said(HttpPartner(url, "a-good-key", 8), ["break"])


def test_nobody_there_is_one_sentence():
    with pytest.raises(ServerFailed, match="does not answer") as failed:
        said(HttpPartner("http://127.0.0.1:9", "", 8), ["one"])
    assert "--mode serve --start" in failed.value.hint


def test_two_addresses_are_refused(make_config):
    with pytest.raises(ConfigError, match="--url and --model-uri"):
        open_partner(make_config(), ChatSettings(url="http://127.0.0.1:1", model_uri="models:/m/1"))
