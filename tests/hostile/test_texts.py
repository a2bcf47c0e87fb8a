"""Lone surrogates and control characters in every text that a caller can send: refused with a sentence, or made
harmless before they are stored. One record never keeps others from being stored."""

from __future__ import annotations

import json
import time

import mlflow
import pytest
from conftest import StandIn
from fastapi.testclient import TestClient
from stand_in_server import wait_until
from trace_writers import forked_writers

from genai_server.answer import Answer, AnswerVersions
from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.model_output import answer_of
from genai_server.answering.predictor import LoadedModel
from genai_server.http import problems
from genai_server.http.app import create_app
from genai_server.http.schemas.ask import FeedbackRequest
from genai_server.model_info import ModelInfo
from genai_server.runtime.metrics import Metrics
from genai_server.settings import ServerSettings
from genai_server.tracing.spool import Spool
from genai_server.tracing.tracer import Tracer
from genai_server.tracing.writer import Writer

INFO = ModelInfo(model="tiny", model_version="7", prompt="qa/3")
VERSIONS = AnswerVersions("tiny", "7", "qa/3", "model")
KEY = "a-key-of-this-test"
LONE, NUL = "half \ud800 a character", "nothing \0 here"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
FEEDBACK = {"request_id": "r-1", "value": True}
PROMPT = {"name": "a", "template": "{{question}}"}


class Echo:
    """A model that repeats what it was asked, whatever that is, and says anything of its end."""

    class metadata:
        get_input_schema = get_params_schema = staticmethod(lambda: None)

    def predict(self, data, params=None):
        rows = data.to_dict("records") if hasattr(data, "to_dict") else data
        rows = rows if isinstance(rows, list) else [rows]
        return [{"answer": str(row), "finish_reason": str(row)[:5], "total_s": 0.1, "first_token_s": 0.1,
                 "prompt_tokens": 1, "completion_tokens": 1} for row in rows]  # fmt: skip


def app_of(model, base, **settings):
    settings = {"feedback_file": str(base / "feedback.jsonl"), "prompt_file": str(base / "prompt.json")} | settings
    return create_app(ServerSettings(**settings), lambda *_: LoadedModel(model, INFO))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    base = tmp_path_factory.mktemp("texts")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    mlflow.MlflowClient(uri, uri).search_registered_models()  # makes the tables, for which a caller would not wait
    app = app_of(StandIn({"answer": "b"}), base, admin_keys=(KEY,), tracking_uri=uri)
    with TestClient(app, raise_server_exceptions=False, headers={"x-api-key": KEY}) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


BODIES = {
    "question": ("/ask", lambda text: {"question": text}),
    "history": ("/ask", lambda text: {"question": "a", "history": [text]}),
    "stop": ("/ask", lambda text: {"question": "a", "stop": [text]}),
    "prompt name": ("/ask", lambda text: {"question": "a", "prompt_name": text}),
    "prompt alias": ("/ask", lambda text: {"question": "a", "prompt_alias": text}),
    "variable": ("/ask", lambda text: {"prompt_name": "qa", "variables": {"a": text}}),
    "name of a variable": ("/ask", lambda text: {"prompt_name": "qa", "variables": {text: "a"}}),
    "unknown field": ("/ask", lambda text: {"question": "a", text: 1}),
    "batch": ("/ask/batch", lambda text: {"questions": [{"question": text}]}),
    "stream": ("/ask/stream", lambda text: {"question": text}),
    "chat": ("/v1/chat/completions", lambda text: CHAT | {"messages": [{"role": "user", "content": text}]}),
    "chat part": (
        "/v1/chat/completions",
        lambda text: CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    ),
    "role": ("/v1/chat/completions", lambda text: CHAT | {"messages": [{"role": text, "content": "a"}]}),
    "chat stop": ("/v1/chat/completions", lambda text: CHAT | {"stop": text}),
    "chat model": ("/v1/chat/completions", lambda text: CHAT | {"model": text}),
    "chat user": ("/v1/chat/completions", lambda text: CHAT | {"user": text, "metadata": {text: text}}),
    "chat tools": ("/v1/chat/completions", lambda text: CHAT | {"tools": [text]}),
    "completion": ("/v1/completions", lambda text: {"model": "tiny", "prompt": [text]}),
    "suffix": ("/v1/completions", lambda text: {"model": "tiny", "prompt": "a", "suffix": text}),
    "feedback id": ("/feedback", lambda text: FEEDBACK | {"request_id": text}),
    "feedback name": ("/feedback", lambda text: FEEDBACK | {"name": text}),
    "feedback value": ("/feedback", lambda text: FEEDBACK | {"value": text}),
    "feedback comment": ("/feedback", lambda text: FEEDBACK | {"comment": text}),
    "feedback source": ("/feedback", lambda text: FEEDBACK | {"source": text}),
    "reload": ("/admin/reload", lambda text: {"alias": text}),
    "new prompt": ("/prompts", lambda text: PROMPT | {"name": text}),
    "template": ("/prompts", lambda text: PROMPT | {"template": text}),
    "commit message": ("/prompts", lambda text: PROMPT | {"commit_message": text}),
    "tag": ("/prompts", lambda text: PROMPT | {"tags": {"a": text}}),
    "name of a tag": ("/prompts", lambda text: PROMPT | {"tags": {text: "a"}}),
}
# nobody reads these, and a question of any bytes is one for the model
TAKEN = {LONE: {"chat user"}, NUL: {"chat user", "question", "history", "stop", "batch", "stream", "chat", "chat part",
                                    "chat stop", "completion"}}  # fmt: skip


def posted(client: TestClient, path: str, body: dict):
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@pytest.mark.parametrize("text", [LONE, NUL], ids=["surrogate", "NUL"])
@pytest.mark.parametrize("name", BODIES)
def test_a_text_that_is_none_is_refused_with_a_sentence(client, name, text):
    path, body_of = BODIES[name]
    response = posted(client, path, body_of(text))
    told = response.content.decode()  # strictly
    if name in TAKEN[text]:
        assert response.status_code == 200, told
    else:
        assert response.status_code in (400, 404, 422), told
        assert response.headers["content-type"].partition(";")[0] in ("application/json", "application/problem+json")
        if text == LONE and response.status_code == 422 and "unknown" not in name and " of a " not in name:
            assert "surrogate" in told or "pattern" in told or "has to be" in told


@pytest.mark.parametrize("text", [LONE, NUL, "a\nb", "é", "a" * 200], ids=["surrogate", "NUL", "line", "é", "long"])
def test_headers_of_any_bytes_do_no_harm(client, text):
    raw = text.encode("utf-8", "surrogatepass").replace(b"\0", b"\x01").replace(b"\n", b"\t")
    headers = {"x-request-id": raw, "traceparent": raw, "content-type": "application/json", "origin": raw}
    response = client.post("/ask", content=b'{"question": "a"}', headers=headers)
    assert response.status_code == 200 and response.headers["x-request-id"].isascii()


VALUES = [float("inf"), float("nan"), 10**400, -(2**60), "a" * 1001, [1], {"a": 1}]


@pytest.mark.parametrize("value", VALUES, ids=["inf", "nan", "huge", "large", "long", "list", "object"])
def test_a_value_that_mlflow_cannot_hold_is_refused_in_one_sentence(client, value):
    response = posted(client, "/feedback", FEEDBACK | {"value": value})
    assert response.status_code == 422 and "a number up to 2^53" in response.json()["detail"]
    assert len(response.json()["errors"]) == 1


def test_a_body_that_is_all_errors_gets_a_short_answer(client):
    body = {f"{number} {'a' * 1000}": 1 for number in range(900)}
    response = posted(client, "/feedback", body)
    assert response.status_code == 422 and len(response.content) < 20_000


def test_whatever_an_error_repeats_its_body_can_be_sent():
    for path in ("/ask", "/v1/completions", "/invocations"):
        error = problems.ServerError(f"no {LONE}", param=LONE)
        assert "no half ? a" in problems.response_for(path, error).body.decode()


def test_a_model_that_is_not_ours_cannot_break_the_metrics():
    metrics = Metrics(lambda: "tiny", lambda: None)
    counts = {"completion_tokens": 1, "prompt_tokens": 1, "total_s": 0.1, "first_token_s": 0.1}
    for number in range(50):
        metrics.answer(answer_of({"answer": "a", "finish_reason": f"{number} {LONE}", **counts}))
    assert "genai_request_success_total{" not in metrics.text().decode()


def test_every_text_of_feedback_has_a_border():
    """One that is added later is in the test above too."""
    assert set(FeedbackRequest.model_fields) == {"request_id", "name", "value", "comment", "source"}


# --- into a real MLflow ---

JSON, CSV = "application/json", "text/csv"
SENT = {
    "stop": (JSON, {"inputs": ["a"], "params": {"stop": [LONE, NUL]}}),
    "params of any shape": (JSON, {"inputs": ["a"], "params": {"seed": {LONE: [LONE]}, "temperature": 1e999}}),
    "inputs": (JSON, {"inputs": [{"question": LONE, "history": [NUL, LONE]}]}),
    "instances": (JSON, {"instances": [LONE]}),
    "records": (JSON, {"dataframe_records": [{"question": LONE, "history": 3}]}),
    "split": (JSON, {"dataframe_split": {"columns": ["question"], "data": [[LONE], [NUL]]}}),
    "csv": (CSV, b"question\nhalf \xed\xa0\x80\n"),
    "csv with NUL": (CSV, b"question\nnothing \0 here\n"),
    "deep": (JSON, b'{"inputs": ' + b"[" * 400 + b"1" + b"]" * 400 + b"}"),
    "plain": (JSON, {"inputs": ["a good question"]}),
}


def test_no_text_keeps_the_traces_of_others_from_mlflow(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = mlflow.MlflowClient(uri)
    experiment = store.create_experiment("answers")
    settings = {"tracking_uri": uri, "trace_experiment": "answers", "trace_sampling_ratio": 1.0, "trace_texts": True}
    app = app_of(ThreadAnswerer(Echo()), tmp_path, **settings)
    sent = []
    with forked_writers(), TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for name, (kind, body) in SENT.items():
            content = body if isinstance(body, bytes) else json.dumps(body)
            headers = {"content-type": kind, "x-request-id": name.replace(" ", "-"), "traceparent": b"\xe9"}
            response = client.post("/invocations", content=content, headers=headers)
            assert response.status_code in (200, 400), response.text
            response.content.decode()
            sent += [headers["x-request-id"]] if response.status_code == 200 else []
        assert {"stop", "inputs", "plain"} <= set(sent)

        def stored() -> set:
            every = store.search_traces(locations=[experiment])
            return {trace.info.tags.get("request_id") for trace in every}

        wait_until(lambda: set(sent) <= stored(), 90)
        wait_until(lambda: "genai_traces_waiting 0.0" in client.get("/metrics").text)
        assert "genai_traces_dropped_total 0.0" in client.get("/metrics").text
    mlflow.set_tracking_uri(None)


def good_record(request_id: str) -> dict:
    asked = AnswerRequest({"question": "a", "history": []}, {}, request_id, "ask")
    now_ns = time.time_ns()
    return Tracer(1.0, True)._record(asked, Answer("b"), VERSIONS, now_ns, now_ns + 10**6)


def test_what_another_version_left_in_the_spool_blocks_nothing(tmp_path, monkeypatch, caplog):
    """Lone surrogates as an escape, records that lack something, and lines that are no JSON; among good ones."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "answers")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    lone = good_record("lone") | {"inputs": {"question": LONE}}
    lines = [json.dumps(record) for record in (good_record("first"), lone, {"trace_id": "x"}, [1], good_record("last"))]
    spool = Spool(tmp_path / "traces.db")
    spool.put([*lines[:3], "no JSON", *lines[3:]])
    assert Writer(tmp_path / "traces.db").write_first(100)
    experiment = mlflow.get_experiment_by_name("answers").experiment_id
    every = mlflow.MlflowClient().search_traces(locations=[experiment])
    assert {trace.info.tags.get("request_id") for trace in every} == {"first", "last"}
    assert (len(spool), spool.dropped) == (0, 4) and caplog.text.count("A trace was dropped") == 1
    mlflow.set_tracking_uri(None)
