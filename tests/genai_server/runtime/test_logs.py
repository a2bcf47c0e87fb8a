"""The log: one JSON object a line, and never a key or a text of a caller in it."""

from __future__ import annotations

import base64
import json
import logging
import re

import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException

from genai_server.http.app import create_app
from genai_server.runtime.logs import JsonLines, Outage, set_up
from genai_server.settings import ServerSettings

KEY, WRONG_KEY, SECRET = "the-right-key-1", "the-wrong-key-1", "zebra-in-my-question"


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_json_lines_are_one_object_each_with_the_fields_that_came_along(root, capsys):
    set_up("json", "info")
    logging.getLogger("a.b").info("two\nlines, %s", "é", extra={"fields": {"status": 200}})
    logging.getLogger("a.b").warning("second")
    first, second = capsys.readouterr().err.splitlines()
    entry = json.loads(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {"level": "info", "logger": "a.b", "message": "two\nlines, é", "status": 200}
    assert json.loads(second)["level"] == "warning"


def test_an_exception_is_inside_the_line(root, capsys):
    set_up("json", "info")
    try:
        raise ZeroDivisionError("broken")
    except ZeroDivisionError:
        logging.getLogger("a").exception("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: broken" in json.loads(line)["exception"]


def test_text_is_the_message_alone(root, capsys):
    set_up("text", "info")
    logging.getLogger("a.b").info("hello", extra={"fields": {"status": 200}})
    assert capsys.readouterr().err == "hello\n"


def test_what_came_from_outside_looks_like_no_line_of_ours(root, capsys):
    for log_format in ("text", "json"):
        set_up(log_format, "info")
        logging.getLogger("a").info("found %s", "x\nERROR all is lost\x1b[31m\0 \x85\u2028 \ud800 é")
        (line,) = capsys.readouterr().err.split("\n")[:-1]
        assert not re.search("[\x00-\x1f\x7f-\x9f]", line) if log_format == "text" else json.loads(line)
        assert "é" in line and "\\nERROR all" in line


def test_a_password_in_an_address_is_not_told(root, capsys):
    for log_format in ("text", "json"):
        set_up(log_format, "info")
        try:
            raise ValueError("API request to https://me:secret-1@host:5000/api failed")
        except ValueError as exc:
            logging.getLogger("a").exception("it failed: %s, http://secret-1@b/c, not http://d/e@f", exc)
        told = capsys.readouterr().err
        assert "secret-1" not in told and "https://***@host:5000/api" in told and "http://d/e@f" in told


def test_a_fault_is_told_once_and_so_is_its_end(root, capsys):
    set_up("text", "info")
    outage = Outage(logging.getLogger("a"), "it works again")
    for sentence in ("first", "second"):
        outage.begin(sentence)
    outage.end()
    outage.end()
    outage.begin("third")
    assert capsys.readouterr().err.splitlines() == ["first", "it works again", "third"]


def test_the_level_holds_and_libraries_are_quieter(root, capsys):
    set_up("text", "warning")
    logging.getLogger("a").info("not told")
    logging.getLogger("a").warning("told")
    set_up("text", "debug")
    logging.getLogger("httpx").info("not told")
    logging.getLogger("a").debug("told too")
    assert capsys.readouterr().err == "told\ntold too\n"


# --- what is never in it ---


@pytest.fixture(scope="module")
def client(tmp_path_factory, saved_tiny):
    base = tmp_path_factory.mktemp("logs")
    settings = ServerSettings(
        model_uri=str(saved_tiny), admin_keys=(KEY,), feedback_file=str(base / "feedback.jsonl"),
        max_body_bytes=10_000,
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client


GOOD = {"x-api-key": KEY}


def all_kinds_of_requests(client: TestClient) -> list[int]:
    """Statuses of requests that hold the key, a wrong one, or the secret text, wherever a caller can put it."""
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()
    chat = {"model": "saved", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
    asked = [
        ("/ask", {"question": SECRET, "max_new_tokens": 3}),
        ("/ask", {"question": "a", "history": [SECRET], "max_new_tokens": 3}),
        ("/ask", {"question": "a", "stop": [SECRET], "max_new_tokens": 3}),
        ("/ask", {"question": [SECRET]}),
        ("/ask", {"question": SECRET, "temperature": SECRET}),
        ("/ask", {SECRET: SECRET}),
        ("/ask", {"question": f"  {SECRET * 1000}"}),
        ("/ask/batch", {"questions": [{"question": SECRET, "max_new_tokens": 3}, {"question": "  "}]}),
        ("/ask/stream", {"question": SECRET, "max_new_tokens": 3}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", chat | {"stream": True}),
        ("/v1/chat/completions", chat | {"model": SECRET}),
        ("/v1/completions", {"model": "saved", "prompt": SECRET, "max_tokens": 3}),
        ("/invocations", {"inputs": [SECRET], "params": {"max_new_tokens": 3}}),
        ("/invocations", {"inputs": [SECRET], "params": {"max_new_tokens": SECRET}}),
        ("/invocations", {SECRET: [SECRET]}),
        ("/feedback", {"request_id": SECRET, "comment": SECRET}),
        ("/admin/reload", {"alias": SECRET}),
        ("/admin/reload", {"model_uri": f"/{SECRET}"}),
        (f"/{SECRET}", {}),
    ]
    sent = [client.post(path, json=body, headers=GOOD) for path, body in asked]
    sent += [client.post("/ask", content=f'{{"question": "{SECRET}', headers=GOOD)]
    sent += [client.post(f"/ask?{SECRET}={SECRET}", json={}, headers=GOOD | {"cookie": SECRET, "user-agent": SECRET})]
    for headers in (
        {"authorization": f"Bearer {KEY}"}, {"authorization": f"Basic {basic}"}, {"authorization": KEY},
        {"authorization": f"Bearer {WRONG_KEY}"}, {"x-api-key": WRONG_KEY},
    ):  # fmt: skip
        sent.append(client.post("/ask", json={"question": SECRET, "max_new_tokens": 3}, headers=headers))
    sent.append(client.get("/metrics", params={"key": KEY}))
    return [response.status_code for response in sent]


def test_no_key_and_no_text_of_a_caller_is_ever_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    statuses = all_kinds_of_requests(client)
    assert {200, 400, 401, 404, 409, 422} <= set(statuses)
    assert len([record for record in caplog.records if record.name == "genai_server.access"]) == len(statuses)
    of_the_server = [record for record in caplog.records if not record.name.startswith("httpx")]  # the test's client
    lines = [JsonLines().format(record) for record in of_the_server]
    for told in (KEY, WRONG_KEY, SECRET, base64.b64encode(f"me:{KEY}".encode()).decode()):
        assert not [line for line in lines if told in line]


def test_settings_do_not_show_their_keys():
    assert KEY not in repr(ServerSettings(api_keys=(KEY,))) + repr(ServerSettings(admin_keys=(KEY,)))


def test_a_fault_of_ours_is_one_line_with_the_requests_id(client, caplog, monkeypatch):
    async def broken(question, params, group):
        raise ZeroDivisionError

    monkeypatch.setattr(client.app.state.serving.predictor.model.answerer, "ask", broken)
    caplog.set_level(logging.INFO, "genai_server.access")
    failed = client.post("/ask", json={"question": "a"}, headers=GOOD | {"X-Request-ID": "mine-1"})
    (record,) = [record for record in caplog.records if record.name == "genai_server.access"]
    assert failed.status_code == record.fields["status"] == 500 and record.fields["request_id"] == "mine-1"


def test_a_models_refusal_that_repeats_the_question_is_for_the_caller_only(client, caplog, monkeypatch):
    async def refusing(question, params, group):
        raise MlflowException(f"Failed on {question['question']}")

    monkeypatch.setattr(client.app.state.serving.predictor.model.answerer, "ask", refusing)
    caplog.set_level(logging.DEBUG, "genai_server")
    refused = client.post("/ask", json={"question": SECRET}, headers=GOOD)
    assert refused.status_code == 503 and SECRET in refused.text and SECRET not in caplog.text
