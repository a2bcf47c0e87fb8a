"""The app in memory on a real tiny model: answers, refusals, readiness, overload."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from conftest import StandIn, saved_model
from fastapi.testclient import TestClient

from genai_server.app import create_app
from genai_server.errors import Overloaded
from genai_server.predictor import LoadedModel, load_from_mlflow
from genai_server.settings import ServerSettings


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_gpt2):
    return saved_model(tmp_path_factory.mktemp("served"), tiny_gpt2)


@pytest.fixture(scope="module")
def client(model_folder):
    with TestClient(create_app(ServerSettings(model_uri=str(model_folder)))) as client:
        wait_for(client, 200)
        yield client


def wait_for(client: TestClient, status: int) -> None:
    deadline = time.monotonic() + 60
    while client.get("/health/ready").status_code != status:
        assert time.monotonic() < deadline, client.get("/health/ready").text
        time.sleep(0.05)


def test_an_answer_has_its_metadata(client):
    answer = client.post("/ask", json={"question": "What is MLflow?", "max_new_tokens": 5}).json()
    assert answer["completion_tokens"] <= 5 and answer["finish_reason"] in ("length", "stop")
    assert answer["prompt"] == "qa-simple/3" and answer["prompt_tokens"] > 3


def test_the_same_question_gets_the_same_greedy_answer_as_the_model(client, model_folder):
    loaded = load_from_mlflow(str(model_folder), None)
    direct = asyncio.run(loaded.answerer.ask({"question": "What is MLflow?"}, {}))["answer"]
    assert client.post("/ask", json={"question": "What is MLflow?"}).json()["answer"] == direct


def test_the_golden_answers_recorded_at_deploy_are_replayed(client, model_folder):
    golden = load_from_mlflow(str(model_folder), None).answerer.golden
    assert [item["question"] for item in golden] == ["What is MLflow?"] and golden[0]["token_ids"]


def test_who_answers(client):
    info = client.get("/model/info").json()
    assert info["prompt"] == "qa-simple/3"
    assert info["engine"]["name"] == "torch" and info["engine"]["reason"] == "a test wants the torch engine"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "question: Field required"),
        ({"question": ""}, "question"),
        ({"question": 5}, "question"),
        ({"question": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ({"question": "a", "temperature": -1}, "temperature"),
        ({"question": "a", "unknown": 1}, "unknown: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_request_gets_one_sentence(client, body, said):
    answer = client.post("/ask", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_a_question_of_spaces_is_refused_by_the_model_as_400(client):
    answer = client.post("/ask", json={"question": "   "})
    assert answer.status_code == 400 and "empty" in answer.json()["detail"]


def test_live_at_once_and_ready_only_after_loading():
    go_on = threading.Event()

    def slow(uri, tracking_uri):
        go_on.wait(30)
        return LoadedModel(StandIn({}), {"model": "m", "model_version": None, "prompt": ""})

    with TestClient(create_app(ServerSettings(), slow)) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.post("/ask", json={"question": "a"}).status_code == 503
        go_on.set()
        wait_for(client, 200)


def test_another_answer_to_a_golden_question_is_never_ready():
    failed = threading.Event()
    golden = [{"question": "What is MLflow?", "token_ids": [1, 2, 3], "max_new_tokens": 8}]

    def changed(uri, tracking_uri):
        return LoadedModel(StandIn({"token_ids": [1, 2, 4]}, golden), {"model": "m"})

    with TestClient(create_app(ServerSettings(), changed, on_failure=failed.set)) as client:
        assert failed.wait(10)
        health = client.get("/health/ready")
    assert health.status_code == 503 and "What is MLflow?" in health.json()["detail"]


def test_more_questions_than_may_wait_get_429(client, monkeypatch):
    async def full(question, params):
        raise Overloaded("Too many questions wait already.", "Ask again in a second.")

    monkeypatch.setattr(client.app.state.predictor, "answer", full)
    refused = client.post("/ask", json={"question": "a"})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert refused.json()["detail"] == "Too many questions wait already. Ask again in a second."


def test_swagger_knows_the_routes_with_an_example(client):
    document = client.get("/openapi.json").json()
    assert {"/ask", "/health", "/health/live", "/health/ready", "/model/info"} <= set(document["paths"])
    example = document["components"]["schemas"]["QuestionRequest"]["examples"][0]
    assert client.post("/ask", json=example).status_code == 200
