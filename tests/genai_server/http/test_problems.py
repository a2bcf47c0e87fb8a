"""Errors in the shape of each family: OpenAI's under /v1, MLflow's under /invocations, problem+json elsewhere."""

from __future__ import annotations

import threading

import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_version="7", prompt="")
KEY = "secret-key-1"


class Metadata:
    @staticmethod
    def get_input_schema():
        return None


class Pyfunc:
    """Answers with the question; fails where it is told to."""

    metadata = Metadata()

    def predict(self, questions, params=None):
        if "break" in str(questions):
            raise ZeroDivisionError("of no use to a caller")  # as another one's model may
        if "down" in str(questions):
            raise MlflowException("The engine has ended.")
        return [item["question"] for item in questions]


class Held(Pyfunc):
    def __init__(self):
        self.started, self.go_on = threading.Event(), threading.Event()

    def predict(self, questions, params=None):
        self.started.set()
        assert self.go_on.wait(20)
        return super().predict(questions, params)


def app_of(pyfunc: Pyfunc, **settings) -> TestClient:
    given = {"api_keys": (KEY,), "max_body_bytes": 2000} | settings
    load = lambda *_: LoadedModel(ThreadAnswerer(pyfunc), INFO)  # noqa: E731
    return TestClient(
        create_app(ServerSettings(**given), load), headers={"x-api-key": KEY}, raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def client():
    with app_of(Pyfunc()) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client


def asked(path: str, text: str) -> dict:
    """A well-formed body for one of the three families."""
    if path == "/v1/chat/completions":
        return {"model": "m", "messages": [{"role": "user", "content": text}]}
    return {"inputs": [{"question": text}]} if path == "/invocations" else {"question": text}


def check_openai(response, status: int, kind: str, code: str) -> None:
    assert response.status_code == status and response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert list(response.json()) == ["error"] and set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, code) and len(error["message"]) > 5


def check_mlflow(response, status: int, code: str) -> None:
    assert response.status_code == status and response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error_code", "message"} and response.json()["error_code"] == code


def check_problem(response, status: int, code: str, path: str) -> None:
    assert response.status_code == status and response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert {"type", "title", "status", "detail", "instance", "code"} <= set(body)
    assert (body["status"], body["code"], body["instance"]) == (status, code, path)
    assert isinstance(body["detail"], str) and body["detail"].endswith(".")


def check(path: str, response, status: int, openai: tuple[str, str], mlflow: str, ours: str) -> None:
    if path.startswith("/v1/"):
        check_openai(response, status, *openai)
    elif path == "/invocations":
        check_mlflow(response, status, mlflow)
    else:
        check_problem(response, status, ours, path)


FAMILIES = ["/v1/chat/completions", "/invocations", "/ask"]


@pytest.mark.parametrize("path", FAMILIES)
def test_no_key(client, path):
    response = client.post(path, json=asked(path, "a"), headers={"x-api-key": ""})
    check(path, response, 401, ("authentication_error", "invalid_api_key"), "UNAUTHENTICATED", "invalid_api_key")


@pytest.mark.parametrize("path", FAMILIES)
def test_the_wrong_method(client, path):
    response = client.get(path)
    check(path, response, 405, ("invalid_request_error", "method_not_allowed"), "BAD_REQUEST", "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/v1", "/ask/nothing", "/static/nothing"])
def test_an_unknown_path(client, path):
    check(path, client.get(path), 404, ("invalid_request_error", "not_found"), "", "not_found")


def test_an_unknown_model_has_openais_own_code(client):
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "a"}]}
    check_openai(
        client.post("/v1/chat/completions", json=body), 404, "invalid_request_error", "model_not_found"
    )  # fmt: skip
    check_openai(client.get("/v1/models/gpt-5"), 404, "invalid_request_error", "model_not_found")


@pytest.mark.parametrize("path", FAMILIES)
@pytest.mark.parametrize("by_length", [True, False])
def test_too_large_a_body(client, path, by_length):
    body = b'{"question": "' + b"a" * 3000 + b'"}'
    content = body if by_length else (body[start : start + 500] for start in range(0, len(body), 500))
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    check(path, response, 413, ("invalid_request_error", "request_too_large"), "BAD_REQUEST", "request_too_large")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])  # the other: curl
@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"null"])
def test_a_body_that_is_no_object_says_what_to_send(client, content, kind):
    detail = client.post("/ask", content=content, headers={"content-type": kind}).json()["detail"]
    assert detail == "The body is no JSON object. Send one, with the header Content-Type: application/json."


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"null", b'{"question": 5}'])
def test_a_malformed_body(client, content):
    json_type = {"content-type": "application/json"}
    response = client.post("/v1/chat/completions", content=content, headers=json_type)
    check_openai(response, 400, "invalid_request_error", "malformed_request")
    response = client.post("/ask", content=content, headers=json_type)
    check_problem(response, 422, "malformed_request", "/ask")
    assert all(set(error) == {"loc", "msg", "type"} for error in response.json()["errors"])


def test_the_parameter_that_is_wrong_is_named_and_its_value_not_repeated(client):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": "my-secret-text"}
    response = client.post("/v1/chat/completions", json=body)
    assert response.json()["error"]["param"] == "temperature" and "my-secret-text" not in response.text
    response = client.post("/ask", json={"question": ["my-secret-text"]})
    assert response.json()["detail"].startswith("question: ") and "my-secret-text" not in response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/ask"])
def test_a_model_that_breaks_is_told_without_its_traceback(client, path):
    response = client.post(path, json=asked(path, "break"))
    check(path, response, 500, ("server_error", "model_failed"), "", "model_failed")
    assert "ZeroDivision" not in response.text and "of no use" not in response.text


def test_a_model_that_breaks_on_one_item_does_not_spoil_a_batch(client):
    response = client.post("/ask/batch", json={"questions": [asked("/ask", text) for text in ("a", "break", "b")]})
    first, broken, last = response.json()["answers"]
    assert response.status_code == 200 and response.json()["failed"] == 1
    assert (first["answer"]["answer"], last["answer"]["answer"]) == ("a", "b")
    assert (broken["error"]["status"], broken["error"]["code"]) == (500, "model_failed")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/ask"])
def test_a_fault_of_ours_is_told_without_its_traceback(path, monkeypatch):
    def faulty(*_):
        raise ZeroDivisionError("of no use to a caller")

    with app_of(Pyfunc()) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        monkeypatch.setattr(client.app.state.serving, "_finish", faulty)
        response = client.post(path, json=asked(path, "a"))
    check(path, response, 500, ("server_error", "internal_error"), "", "internal_error")
    assert "ZeroDivision" not in response.text and "of no use" not in response.text


@pytest.mark.parametrize("path", FAMILIES)
def test_another_host(path):
    with app_of(Pyfunc(), allowed_hosts=("example.com",)) as client:
        response = client.post(path, json=asked(path, "a"), headers={"host": "evil.com"})
    check(path, response, 400, ("invalid_request_error", "unknown_host"), "BAD_REQUEST", "unknown_host")
    assert "evil" not in response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/ask"])
def test_an_engine_that_fails(client, path):
    response = client.post(path, json=asked(path, "down"))
    check(path, response, 503, ("server_error", "engine_down"), "", "engine_down")
    assert response.headers["retry-after"] == "1" and "The engine has ended." in response.text


@pytest.mark.parametrize("path", FAMILIES)
def test_too_many_at_once(path):
    pyfunc = Held()
    with app_of(pyfunc, queue_limit=1) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        asking = threading.Thread(target=client.post, args=("/ask",), kwargs={"json": {"question": "a"}})
        asking.start()
        assert pyfunc.started.wait(10)
        response = client.post(path, json=asked(path, "b"))
        pyfunc.go_on.set()
        asking.join(10)
    check(path, response, 429, ("rate_limit_error", "overloaded"), "REQUEST_LIMIT_EXCEEDED", "overloaded")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", FAMILIES)
def test_still_loading(path):
    go_on = threading.Event()

    def slow(*_):
        go_on.wait(20)
        return LoadedModel(ThreadAnswerer(Pyfunc()), INFO)

    with TestClient(create_app(ServerSettings(), slow)) as client:
        response = client.post(path, json=asked(path, "a"))
        go_on.set()
    check(path, response, 503, ("server_error", "not_ready"), "TEMPORARILY_UNAVAILABLE", "not_ready")
    assert response.headers["retry-after"] == "1"


def test_closed_admin_routes():
    with app_of(Pyfunc(), api_keys=()) as client:
        check_problem(client.post("/admin/rollback"), 403, "forbidden", "/admin/rollback")
