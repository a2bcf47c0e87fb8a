"""Around every request: its id, the versions on every answer, its line in the log and in the metrics."""

from __future__ import annotations

import logging
import re
import threading

import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_version="7", prompt="qa-simple/3")
KEY = {"x-api-key": "secret-key-1"}


class Pyfunc:
    """Answers with the question; fails where it is told to."""

    def predict(self, questions, params):
        (item,) = questions
        if item["question"] == "refuse":
            raise MlflowException.invalid_parameter_value("refused")
        if item["question"] == "break":
            raise ZeroDivisionError("broken")
        return [item["question"]]


def app_of(load=None) -> TestClient:
    load = load or (lambda *_: LoadedModel(ThreadAnswerer(Pyfunc()), INFO))
    settings = ServerSettings(api_keys=("secret-key-1",), max_body_bytes=1000)
    return TestClient(create_app(settings, load), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client():
    with app_of() as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client


# Every way that a request can end: (method, path, body, headers, status).
ENDS = [
    ("POST", "/ask", {"question": "a"}, KEY, 200),
    ("POST", "/ask/stream", {"question": "a"}, KEY, 200),
    ("GET", "/health/live", None, {}, 200),
    ("GET", "/static/swagger/swagger-ui.css", None, KEY, 200),
    ("POST", "/ask", {"question": "refuse"}, KEY, 400),
    ("POST", "/ask", {"question": "a"}, {}, 401),
    ("GET", "/nothing", None, KEY, 404),
    ("GET", "/ask", None, KEY, 405),
    ("POST", "/ask", {"question": "a" * 2000}, KEY, 413),
    ("POST", "/ask", {}, KEY, 422),
    ("POST", "/ask", {"question": "break"}, KEY, 500),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ENDS)
def test_every_answer_has_the_callers_id_and_the_versions(client, method, path, body, headers, status):
    response = client.request(method, path, json=body, headers={**headers, "X-Request-ID": "mine-1"})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert response.headers["x-model-version"] == "7" and response.headers["x-prompt-version"] == "qa-simple/3"


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ENDS)
def test_every_request_is_one_line_in_the_log(client, caplog, method, path, body, headers, status):
    caplog.set_level(logging.INFO, "genai_server.access")
    client.request(method, path, json=body, headers={**headers, "X-Request-ID": "mine-2"})
    (fields,) = [record.fields for record in caplog.records if record.name == "genai_server.access"]
    assert (fields["method"], fields["status"], fields["request_id"]) == (method, status, "mine-2")
    assert 0 <= fields["seconds"] < 30


def test_a_request_without_an_id_gets_one_of_its_own(client):
    made = {client.get("/health/live").headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20 and all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


@pytest.mark.parametrize("given", ["", "two words", "a" * 129, "tab\there", "caf\u00e9".encode("latin-1"), "\x7f"])
def test_an_id_that_is_no_plain_one_is_replaced(client, given):
    answered = client.get("/health/live", headers={"X-Request-ID": given})
    assert re.fullmatch("[0-9a-f]{32}", answered.headers["x-request-id"])


def test_any_plain_id_is_taken(client):
    for given in ("a" * 128, "req_1/2:3", "0"):
        assert client.get("/health/live", headers={"X-Request-ID": given}).headers["x-request-id"] == given


def test_no_versions_while_nobody_answers():
    go_on = threading.Event()

    def slow(uri, tracking_uri):
        go_on.wait(20)
        return LoadedModel(ThreadAnswerer(Pyfunc()), INFO)

    with app_of(slow) as client:
        response = client.get("/health/ready")
        assert "x-model-version" not in response.headers and response.headers["x-request-id"]
        go_on.set()


def test_a_route_is_named_by_its_pattern_never_by_what_was_asked(client, caplog):
    caplog.set_level(logging.INFO, "genai_server.access")
    client.get("/v1/models/a-name-of-mine", headers=KEY)
    client.get("/a-path-of-mine?q=my-question", headers=KEY)
    client.get("/a-path-of-mine")  # without a key
    records = [record for record in caplog.records if record.name == "genai_server.access"]
    assert [record.fields["route"] for record in records] == ["/v1/models/{name:path}", "unmatched", "unmatched"]
    assert "mine" not in caplog.text and "my-question" not in caplog.text


def test_a_method_that_nobody_knows_is_not_told_on(client, caplog):
    """Labels of metrics stay for ever: a stranger must not be able to make new ones."""
    caplog.set_level(logging.INFO, "genai_server.access")
    for i in range(3):
        client.request(f"BREW{i}", "/ask")
    assert "BREW" not in client.get("/metrics", headers=KEY).text
    assert "BREW" not in caplog.text
