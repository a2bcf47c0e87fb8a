"""Reload and rollback over HTTP: another version of the same model, no request dropped, closed without an admin key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import StandIn
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

KEY = "secret-key-1"
FIRST, SECOND, CHANGED = "models:/m/1", "models:/m/2", "models:/m/3"


class Pyfunc:
    """Answers with its version, once it is let go."""

    def __init__(self, version: str):
        self.version, self.started, self.go_on = version, threading.Event(), threading.Event()
        self.go_on.set()

    def predict(self, questions, params):
        self.started.set()
        assert self.go_on.wait(20)
        return [f"version {self.version}" for _ in questions]


def info(uri: str) -> ModelInfo:
    version = uri[-1]
    return ModelInfo("m", uri, version, prompt=f"p/{version}", engine={"name": "pyfunc"})


class Registry:
    """Two versions that answer, the second by an alias too, and one whose golden answer changed."""

    def __init__(self):
        self.models = {uri: Pyfunc(uri[-1]) for uri in (FIRST, SECOND)}
        self.models["models:/m@champion"] = self.models[SECOND]
        self.asked: list[str] = []  # addresses
        self.before_loading: Callable[[], object] = lambda: None

    def load(self, uri: str, tracking_uri: str | None) -> LoadedModel:
        self.asked.append(uri)
        if uri != FIRST:
            self.before_loading()
        if uri == CHANGED:
            golden = [{"question": "What is MLflow?", "token_ids": [1], "max_new_tokens": 8}]
            return LoadedModel(StandIn({"token_ids": [2]}, golden), info(uri))
        if uri not in self.models:
            raise MlflowException(f"{uri} was not found")
        return LoadedModel(ThreadAnswerer(self.models[uri]), replace(info(self.resolve(uri)), model_uri=uri))

    def resolve(self, uri: str, tracking_uri: str | None = None) -> str:
        return SECOND if uri == "models:/m@champion" else uri


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def client(registry):
    settings = ServerSettings(model_uri=FIRST, admin_keys=(KEY,))
    app = create_app(settings, registry.load, resolve_model=registry.resolve)
    with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client


def asked(client: TestClient) -> tuple[str, str]:
    """The answer, and the version that its header names."""
    response = client.post("/ask", json={"question": "Who are you?"})
    assert response.status_code == 200 and response.json()["model_version"] == response.headers["x-model-version"]
    return response.json()["answer"], response.headers["x-prompt-version"]


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list]:
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_reload_swaps_the_version_and_a_rollback_swaps_back(client):
    assert asked(client) == ("version 1", "p/1")
    response = client.post("/admin/reload", json={"version": "2"})
    assert response.status_code == 200 and response.json()["model_version"] == "2"
    assert asked(client) == ("version 2", "p/2") and client.get("/model/info").json()["model_uri"] == SECOND
    assert client.post("/admin/rollback").json()["model_version"] == "1"
    assert asked(client) == ("version 1", "p/1")
    assert client.post("/admin/rollback").json()["model_version"] == "2"


def test_without_an_address_the_first_one_is_loaded_again(client):
    client.post("/admin/reload", json={"version": "2"})
    assert client.post("/admin/reload", json={}).json()["model_uri"] == FIRST


def test_a_running_request_is_answered_by_the_version_that_took_it(client, registry):
    registry.models[FIRST].go_on.clear()
    running, answers = in_background(lambda: client.post("/ask", json={"question": "a"}))
    assert registry.models[FIRST].started.wait(10)
    for _ in range(2):  # the second one closes the first version: after the request
        assert client.post("/admin/reload", json={"version": "2"}).status_code == 200
    assert asked(client) == ("version 2", "p/2") and not answers
    registry.models[FIRST].go_on.set()
    running.join(10)
    (answer,) = answers
    assert answer.status_code == 200
    assert (answer.json()["answer"], answer.json()["model_version"]) == ("version 1", "1")


def test_questions_are_answered_while_another_version_loads(client, registry):
    loading, go_on = threading.Event(), threading.Event()
    registry.before_loading = lambda: (loading.set(), go_on.wait(20))
    reloading, responses = in_background(lambda: client.post("/admin/reload", json={"version": "2"}))
    assert loading.wait(10)
    assert asked(client) == ("version 1", "p/1") and client.get("/health/ready").status_code == 200
    again = client.post("/admin/reload", json={"version": "2"})
    assert again.status_code == 409 and again.json()["code"] == "conflict" and "under way" in again.json()["detail"]
    go_on.set()
    reloading.join(10)
    assert responses[0].status_code == 200 and asked(client) == ("version 2", "p/2")


@pytest.mark.parametrize(("version", "said"), [("3", "What is MLflow?"), ("9", "was not found")])
def test_a_version_that_cannot_be_served_keeps_the_old_one(client, version, said):
    response = client.post("/admin/reload", json={"version": version})
    assert response.status_code == 409 and said in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert asked(client) == ("version 1", "p/1") and client.get("/health/ready").status_code == 200
    assert client.post("/admin/rollback").status_code == 409  # nothing was put aside
    assert client.post("/admin/reload", json={"version": "2"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"model_uri": SECOND}, {"model_uri": "/tmp/theirs"}, {"uri": SECOND}, {"version": "2", "model_uri": SECOND},
        {"version": "2", "alias": "champion"}, {"version": 2}, {"version": "0"}, {"version": ""}, {"version": None},
        {"version": "2/../3"}, {"version": "../n/2"}, {"version": "2\n"}, {"version": "latest"}, {"version": "\u0662"},
        {"alias": ""}, {"alias": "a/b"}, {"alias": "a@b"}, {"alias": "a" * 256}, {"alias": None}, [], "2", 2, None,
    ],
)  # fmt: skip
def test_what_is_no_version_of_the_model_is_refused_before_anything_is_loaded(client, registry, body):
    assert client.post("/admin/reload", json=body).status_code == 422
    assert registry.asked == [FIRST]


def test_a_version_is_named_by_its_number_or_an_alias(client, registry):
    for body, uri in (({"alias": "champion"}, "models:/m@champion"), ({}, FIRST), ({"version": "2"}, SECOND)):
        assert client.post("/admin/reload", json=body).status_code == 200
        assert registry.asked[-1] == uri


def test_a_model_from_a_folder_has_no_versions(tmp_path):
    answering = LoadedModel(ThreadAnswerer(Pyfunc("1")), info("folder-1"))
    settings = ServerSettings(model_uri=str(tmp_path), admin_keys=(KEY,))
    with TestClient(create_app(settings, lambda *_: answering), headers={"x-api-key": KEY}) as client:
        for body in ({"version": "2"}, {"alias": "champion"}):
            refused = client.post("/admin/reload", json=body)
            assert refused.status_code == 409 and "no versions" in refused.json()["detail"]
        assert client.post("/admin/reload", json={}).status_code == 200


def test_another_key_or_none_changes_nothing(client):
    for path in ("/admin/reload", "/admin/rollback"):
        for key in ("", "another-key-1"):
            refused = client.post(path, json={}, headers={"authorization": f"Bearer {key}"})
            assert refused.status_code == 401
    assert asked(client) == ("version 1", "p/1")


def test_without_keys_nobody_may(registry):
    with TestClient(create_app(ServerSettings(model_uri=FIRST), registry.load)) as client:
        for path in ("/admin/reload", "/admin/rollback"):
            refused = client.post(path, json={"version": "2"})
            assert refused.status_code == 403 and "Set ADMIN_KEYS" in refused.json()["detail"]
        while client.get("/health/ready").status_code != 200:
            pass
        assert asked(client)[0] == "version 1"
