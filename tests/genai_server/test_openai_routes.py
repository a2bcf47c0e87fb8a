"""OpenAI's routes in memory: the chat template, the bytes of a stream, the error object."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import fields

import pytest
from conftest import REPO, StandIn
from fastapi.testclient import TestClient

from genai_server.answer import Answer
from genai_server.answering.predictor import LoadedModel
from genai_server.errors import BadQuestion
from genai_server.http.app import create_app
from genai_server.http.routes.openai import chat_question, finish_reason
from genai_server.http.schemas.openai import ChatCompletionRequest, Message
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_version="3", prompt="qa/1")
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Count."}]}
COUNTED = {"answer": "one two", "finish_reason": "length", "prompt_tokens": 5, "completion_tokens": 2}
TIMES = {"first_token_s": 0.1, "total_s": 0.2}


class Speaker(StandIn):
    """Keeps what it was asked, and streams its answer in two pieces; a text `slow` is never answered."""

    def __init__(self):
        super().__init__(COUNTED | TIMES)
        self.asked: list[tuple[dict, dict]] = []
        self.stopped = threading.Event()

    async def ask(self, question: dict, params: dict, group: int = 0) -> Answer:
        self.asked.append((dict(question), dict(params)))
        if question.get("text") == "bad":
            raise BadQuestion("This text is bad.")
        if question.get("text") == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                self.stopped.set()
        return self.said

    async def stream(self, question: dict, params: dict):
        yield "one"
        yield " two"
        yield await self.ask(question, params)


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def client(speaker):
    with TestClient(create_app(ServerSettings(), lambda uri, tracking_uri: LoadedModel(speaker, INFO))) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.01)
        yield client


# --- the chat template ---


def talk(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


@pytest.mark.parametrize(
    ("turns", "question", "history"),
    [
        ([("user", "a")], "a", []),
        ([("system", "be brief"), ("user", "a")], "be brief\na", []),
        ([("system", "one"), ("developer", "two"), ("user", "a")], "one\ntwo\na", []),
        ([("system", " "), ("user", "a")], "a", []),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "c", ["a", "b"]),
        ([("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")], "c", ["s\na", "b"]),
        ([("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c")], "c", ["s\na", "b"]),
        ([("system", "s"), ("assistant", "hello"), ("user", "a")], "s\na", ["hello"]),
    ],
)
def test_a_conversation_becomes_question_and_history(turns, question, history):
    assert chat_question(talk(*turns)) == {"question": question, "history": history}


@pytest.mark.parametrize("turns", [[("user", " ")], [("user", "a"), ("assistant", ""), ("user", "b")]])
def test_an_empty_message_is_refused(turns):
    with pytest.raises(BadQuestion, match="A message is empty"):
        chat_question(talk(*turns))


@pytest.mark.parametrize(
    ("ours", "openais"), [("stop", "stop"), ("length", "length"), ("timeout", "length"), ("cancelled", "length")]
)
def test_whatever_was_cut_off_ended_by_length(ours, openais):
    assert finish_reason(Answer("a", ours)) == openais


# --- parameters ---


def test_parameters_reach_the_model_in_its_own_words(client, speaker):
    given = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4, "stop": "x", "repetition_penalty": 1.1}
    client.post("/v1/chat/completions", json=ASKED | given | {"max_completion_tokens": 7})
    question, params = speaker.asked[-1]
    assert question == {"question": "Count.", "history": []}
    assert params == {
        "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 4, "stop": ["x"], "repetition_penalty": 1.1,
        "timeout_s": 60.0,
    }  # fmt: skip


def test_what_is_null_or_empty_is_left_to_the_model(client, speaker):
    client.post("/v1/chat/completions", json=ASKED | {"temperature": None, "stop": "", "max_tokens": None})
    assert speaker.asked[-1][1] == {"timeout_s": 60.0}


def test_several_texts_are_stopped_when_one_of_them_is_refused(client, speaker):
    refused = client.post("/v1/completions", json={"model": "m", "prompt": ["slow", "bad"]})
    assert refused.status_code == 400 and refused.json()["error"]["message"] == "This text is bad."
    assert speaker.stopped.wait(5)


# --- the bytes ---


def test_the_events_of_a_chat_stream(client):
    asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    answer = client.post("/v1/chat/completions", json=asked, headers={"X-Request-ID": "r1"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert (answer.headers["x-request-id"], answer.headers["x-model-version"]) == ("r1", "3")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    head = {"id": "chatcmpl-r1", "created": chunks[0]["created"], "model": "m", "object": "chat.completion.chunk"}
    said = [({"role": "assistant", "content": ""}, None), ({"content": "one"}, None), ({"content": " two"}, None)]
    assert chunks == [
        *(
            head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end, "logprobs": None}]} | {"usage": None}
            for delta, end in [*said, ({}, "length")]
        ),
        head | {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}},
    ]


def test_the_events_of_a_text_stream(client):
    answer = client.post("/v1/completions", json={"model": "m", "prompt": "a", "stream": True})
    *events, done, _ = answer.text.split("\n\n")
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        ("one", None), (" two", None), ("", "length"),
    ]  # fmt: skip
    assert done == "data: [DONE]"


# --- refusals ---


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "model", "Field required"),
        (ASKED | {"n": 2}, "n", "n: not supported here; leave it out."),
        (ASKED | {"temperature": 3}, "temperature", "less than or equal to 2"),
        (ASKED | {"max_tokens": 5000}, "max_tokens", "less than or equal to 1024"),
        (ASKED | {"stop": [""]}, "stop.0", "at least 1 character"),
        (ASKED | {"messages": []}, "messages", "at least 1 item"),
        (ASKED | {"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'system', 'developer'"),
        (ASKED | {"messages": [{"role": "assistant", "content": "a"}]}, "messages", "must be the user's"),
        (ASKED | {"messages": [{"role": "user", "content": None}]}, "messages.0.content", "valid string"),
        (
            ASKED | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
            "only text is read",
        ),
    ],
)
def test_a_wrong_request_gets_openais_error_object_with_the_fields_name(client, body, param, said):
    refused = client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400 and refused.headers["content-type"] == "application/json"
    error = refused.json()["error"]
    assert set(refused.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]


@pytest.mark.parametrize("prompt", [[], "", [""], [1, 2], None, {"a": 1}])
def test_a_prompt_must_be_text(client, prompt):
    refused = client.post("/v1/completions", json={"model": "m", "prompt": prompt})
    assert refused.status_code == 400 and refused.json()["error"]["param"].startswith("prompt")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ],
)
def test_every_refusal_below_v1_is_openais(client, method, path, status, code):
    refused = client.request(method, path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_before_the_model_is_there_the_list_is_empty_and_an_answer_is_a_503():
    go_on = threading.Event()

    def slow(uri, tracking_uri):
        go_on.wait(30)
        return LoadedModel(StandIn({}), INFO)

    with TestClient(create_app(ServerSettings(), slow)) as client:
        assert client.get("/v1/models").json() == {"object": "list", "data": []}
        for stream in (False, True):
            refused = client.post("/v1/chat/completions", json=ASKED | {"stream": stream})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            assert refused.headers["retry-after"] == "1"
        go_on.set()


def test_the_schema_says_what_is_taken(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    chat = schemas["ChatCompletionRequest"]
    assert chat["properties"]["n"]["enum"] == [1, None] and chat["properties"]["tools"]["enum"] == [[], None]
    assert {kind.get("type") for kind in chat["properties"]["stop"]["anyOf"]} == {"string", "array", "null"}
    for name in ("ChatCompletionRequest", "CompletionRequest"):
        path = "/v1/chat/completions" if name.startswith("Chat") else "/v1/completions"
        example = schemas[name]["examples"][0] | {"model": "m"}
        assert client.post(path, json=example).status_code == 200
    assert ChatCompletionRequest(**chat["examples"][0]).params() == {}


# --- docs/http_api.md ---


def test_the_docs_have_every_route_setting_and_refused_field(client):
    document = client.get("/openapi.json").json()
    said = (REPO / "docs" / "http_api.md").read_text("utf-8")
    settings = [setting.metadata["env"] for setting in fields(ServerSettings)]
    schemas = [document["components"]["schemas"][name] for name in ("ChatCompletionRequest", "CompletionRequest")]
    refused = {
        name
        for schema in schemas
        for name, field in schema["properties"].items()
        if field.get("description", "").startswith("Not followed")
    }
    assert len(settings) > 15 and len(refused) > 15
    assert not [name for name in {*document["paths"], *settings, *refused} if f"{name}`" not in said]
