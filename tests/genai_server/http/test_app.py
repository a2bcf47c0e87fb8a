"""The app in memory on a real tiny model: answers, batches, streams, readiness, and what stands around the routes."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from conftest import StandIn
from fastapi.testclient import TestClient

from genai_server import __version__
from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.model_loader import load_from_mlflow
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_version="7", prompt="qa-simple/3")


@pytest.fixture(scope="module")
def model_folder(saved_tiny):
    return saved_tiny


@pytest.fixture(scope="module")
def client(model_folder):
    with TestClient(create_app(ServerSettings(model_uri=str(model_folder)))) as client:
        wait_for(client, 200)
        yield client


def wait_for(client: TestClient, status: int) -> None:
    deadline = time.monotonic() + 60
    while client.get("/health/ready").status_code != status:
        assert time.monotonic() < deadline, client.get("/health/ready").text
        time.sleep(0.02)


class Pyfunc:
    """Answers with the question, once it is let go."""

    def __init__(self):
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def predict(self, questions, params):
        self.started.set()
        assert self.go_on.wait(20)
        return [item["question"] for item in questions]


def app_of(pyfunc: Pyfunc | None = None, **settings) -> TestClient:
    """A client of an app on a model that only says the question again."""
    return TestClient(
        create_app(ServerSettings(**settings), lambda *_: LoadedModel(ThreadAnswerer(pyfunc or Pyfunc()), INFO))
    )


def events(text: str) -> list[tuple[str, dict]]:
    """(name, data) of every event of a stream."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block and not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [(field.get("event", "message"), json.loads(field["data"])) for field in fields]


# --- /ask ---


def test_an_answer_says_who_gave_it_and_what_it_cost(client, model_folder):
    response = client.post("/ask", json={"question": "What is MLflow?", "max_new_tokens": 5})
    answer = response.json()
    assert answer["completion_tokens"] == 5 and answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] > 3 and 0 < answer["first_token_s"] <= answer["total_s"]
    assert (answer["model"], answer["model_version"], answer["prompt"]) == ("saved", None, "qa-simple/3")
    assert answer["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-prompt-version"] == "qa-simple/3"


def test_the_same_question_gets_the_same_greedy_answer_as_the_model(client, model_folder):
    loaded = load_from_mlflow(str(model_folder), None)
    direct = asyncio.run(loaded.answerer.ask({"question": "What is MLflow?"}, {})).text
    loaded.answerer.close()
    assert direct and client.post("/ask", json={"question": "What is MLflow?"}).json()["answer"] == direct


def test_every_parameter_reaches_the_model(client):
    def ask(**params):
        return client.post("/ask", json={"question": "What is MLflow?", "max_new_tokens": 12, **params}).json()

    drawn = ask(temperature=3.0, seed=5, top_p=0.95, top_k=200)
    assert drawn["answer"] == ask(temperature=3.0, seed=5, top_p=0.95, top_k=200)["answer"] != ask()["answer"]
    assert ask(repetition_penalty=5.0)["answer"] != ask()["answer"]
    stopped = ask(stop=["a"])
    assert stopped["finish_reason"] == "stop" and "a" not in stopped["answer"]
    assert ask(timeout_s=0.000001, max_new_tokens=200)["finish_reason"] == "timeout"


def test_earlier_turns_are_part_of_the_prompt(client):
    alone = client.post("/ask", json={"question": "And why?"}).json()
    turns = ["What is overfitting?", "Learning the data too closely. " * 4]
    later = client.post("/ask", json={"question": "And why?", "history": turns}).json()
    assert later["prompt_tokens"] > alone["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "question: Field required"),
        ({"question": ""}, "question"),
        ({"question": 5}, "question"),
        ({"question": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ({"question": "a", "temperature": -1}, "temperature"),
        ({"question": "a", "history": ["b", 5]}, "history.1"),
        ({"question": "a", "unknown": 1}, "unknown: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_request_gets_one_sentence(client, body, said):
    for path in ("/ask", "/ask/stream"):
        response = client.post(path, json=body)
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert said in response.json()["detail"]


def test_a_question_of_spaces_is_refused_by_the_model_as_400(client):
    response = client.post("/ask", json={"question": "   "})
    assert response.status_code == 400 and "empty" in response.json()["detail"]


# --- /ask/batch ---


def test_a_batch_keeps_order_and_one_bad_item_does_not_spoil_the_rest(client):
    sizes = [30, 1, 9, 4]
    questions = [{"question": f"Question {n}?", "max_new_tokens": n} for n in sizes]
    questions.insert(2, {"question": "   "})
    response = client.post("/ask/batch", json={"questions": questions})
    items = response.json()["answers"]
    assert response.status_code == 200 and response.json()["failed"] == 1
    assert [item["index"] for item in items] == [0, 1, 2, 3, 4]
    bad = items.pop(2)
    assert bad["answer"] is None and (bad["error"]["status"], bad["error"]["code"]) == (400, "invalid_request")
    assert [item["answer"]["completion_tokens"] for item in items] == sizes
    assert all(item["error"] is None for item in items)
    assert items[2]["answer"]["answer"] == client.post("/ask", json=questions[3]).json()["answer"]


@pytest.mark.parametrize("questions", [[], [{"question": "a"}] * 257, [{"question": "a"}, {"question": ""}]])
def test_a_batch_that_is_malformed_is_refused_as_a_whole(client, questions):
    assert client.post("/ask/batch", json={"questions": questions}).status_code == 422


# --- /ask/stream ---


def test_a_stream_is_pieces_and_then_the_whole_answer(client):
    asked = {"question": "What is MLflow?", "max_new_tokens": 12}
    response = client.post("/ask/stream", json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
    *deltas, (name, whole) = events(response.text)
    assert len(deltas) > 2 and {name for name, _ in deltas} == {"message"} and name == "end"
    assert "".join(data["delta"] for _, data in deltas) == whole["answer"]
    assert whole["request_id"] == response.headers["x-request-id"]
    alone = client.post("/ask", json=asked).json()
    changing = {"request_id", "first_token_s", "total_s", "queued_s"}
    assert {k: v for k, v in whole.items() if k not in changing} == {
        k: v for k, v in alone.items() if k not in changing
    }


def test_what_is_refused_is_refused_before_the_stream_begins(client):
    response = client.post("/ask/stream", json={"question": "   "})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


# --- who answers, and from when on ---


def test_who_answers(client, model_folder):
    info = client.get("/model/info").json()
    assert (info["model"], info["model_uri"], info["prompt"]) == ("saved", str(model_folder), "qa-simple/3")
    assert info["engine"]["name"] == "torch" and info["engine"]["reason"] == "a test wants the torch engine"


def test_live_at_once_and_ready_only_after_loading():
    go_on = threading.Event()

    def slow(uri, tracking_uri):
        go_on.wait(30)
        return LoadedModel(ThreadAnswerer(Pyfunc()), INFO)

    with TestClient(create_app(ServerSettings(), slow)) as client:
        assert client.get("/health/live").status_code == client.get("/livez").status_code == 200
        for path in ("/health", "/health/ready", "/readyz", "/healthz", "/startupz", "/ping"):
            not_yet = client.get(path)
            assert not_yet.status_code == 503 and not_yet.headers["retry-after"] == "1"
        for path in ("/ask", "/ask/stream"):
            refused = client.post(path, json={"question": "a"})
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        item = client.post("/ask/batch", json={"questions": [{"question": "a"}]}).json()["answers"][0]
        assert (item["error"]["status"], item["error"]["code"]) == (503, "not_ready")
        assert client.get("/model/info").status_code == 503
        go_on.set()
        wait_for(client, 200)
        for path in ("/health", "/readyz", "/healthz", "/startupz", "/ping"):
            assert client.get(path).status_code == 200 and "retry-after" not in client.get(path).headers


def test_another_answer_to_a_golden_question_is_never_ready():
    failed = threading.Event()
    golden = [{"question": "What is MLflow?", "token_ids": [1, 2, 3], "max_new_tokens": 8}]

    def changed(uri, tracking_uri):
        return LoadedModel(StandIn({"token_ids": [1, 2, 4]}, golden), INFO)

    with TestClient(create_app(ServerSettings(), changed, on_failure=failed.set)) as client:
        assert failed.wait(10)
        health = client.get("/health/ready")
        assert client.get("/health/live").status_code == 503, "it cannot mend itself"
    assert health.status_code == 503 and health.json()["status"] == "failed"
    assert "What is MLflow?" in health.json()["detail"]


def test_an_engine_that_has_failed_for_good_ends_the_server():
    model, failed = StandIn({}), threading.Event()
    with TestClient(create_app(ServerSettings(), lambda *_: LoadedModel(model, INFO), on_failure=failed.set)) as client:
        wait_for(client, 200)
        assert not failed.is_set()
        model.healthy, model.broken = False, "The engine failed 3 times in a row."
        assert failed.wait(10)
        live = client.get("/health/live")
        assert (live.status_code, live.json()["detail"]) == (503, model.broken)
        refused = client.post("/ask", json={"question": "a"})
        assert refused.status_code == 503 and model.broken in refused.json()["detail"]


def test_an_engine_that_is_down_is_live_and_not_ready():
    model = StandIn({})
    with TestClient(create_app(ServerSettings(), lambda *_: LoadedModel(model, INFO))) as client:
        wait_for(client, 200)
        model.healthy = False
        assert client.get("/health/ready").json() == {"status": "loading", "detail": ""}
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
    assert model.closed


def test_after_the_stop_nothing_new_is_taken_and_what_runs_is_finished():
    pyfunc, answers = Pyfunc(), []
    with app_of(pyfunc) as client:
        wait_for(client, 200)
        pyfunc.go_on.clear()
        asking = threading.Thread(target=lambda: answers.append(client.post("/ask", json={"question": "a"})))
        asking.start()
        assert pyfunc.started.wait(10)
        client.app.state.serving.predictor.stop()
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/ready").json()["status"] == "stopping"
        refused = client.post("/ask", json={"question": "b"})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        pyfunc.go_on.set()
        asking.join(10)
    assert answers[0].status_code == 200 and answers[0].json()["answer"] == "a"


# --- around the routes ---


def test_more_questions_than_may_wait_get_429():
    pyfunc = Pyfunc()
    with app_of(pyfunc, queue_limit=1) as client:
        wait_for(client, 200)
        pyfunc.go_on.clear()
        asking = threading.Thread(target=client.post, args=("/ask",), kwargs={"json": {"question": "a"}})
        asking.start()
        assert pyfunc.started.wait(10)
        for path in ("/ask", "/ask/stream"):
            refused = client.post(path, json={"question": "b"})
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["detail"] == "Too many questions wait already (1, at most 1). Ask again in a second."
        assert client.get("/health/ready").status_code == 200
        pyfunc.go_on.set()
        asking.join(10)
        assert client.post("/ask", json={"question": "c"}).status_code == 200


def chunked(size: int):
    """A body without a declared length."""
    body = json.dumps({"question": "a" * size}).encode()
    yield from (body[start : start + 400] for start in range(0, len(body), 400))


def test_a_body_beyond_the_limit_is_refused_by_its_length_and_while_it_is_read():
    with app_of(max_body_bytes=1000) as client:
        wait_for(client, 200)
        assert client.post("/ask", json={"question": "a" * 900}).status_code == 200
        by_length = client.post("/ask", json={"question": "a" * 1000})
        json_type = {"content-type": "application/json"}
        assert client.post("/ask", content=chunked(900), headers=json_type).status_code == 200
        by_count = client.post("/ask", content=chunked(1000), headers=json_type)
        for refused in (by_length, by_count):
            assert refused.status_code == 413 and refused.json()["code"] == "request_too_large"
            assert refused.headers["content-type"] == "application/problem+json"
        assert "1000" in by_length.json()["detail"] and "MAX_BODY_BYTES" in by_length.json()["detail"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("example.com", 200), ("example.com:5001", 200), ("EXAMPLE.com:80", 200), ("a.example.org", 200),
        ("example.org", 400), ("evil.com", 400), ("evil.com:5001", 400), ("example.com.evil.com", 400), ("", 400),
    ],
)  # fmt: skip
def test_hosts_are_compared_without_their_port(host, status):
    with app_of(allowed_hosts=("example.com", "*.example.org")) as client:
        assert client.get("/health/live", headers={"host": host}).status_code == status


@pytest.mark.parametrize(("host", "status"), [("[::1]:5001", 200), ("[::1]", 200), ("[::2]", 400), ("[::1", 200)])
def test_a_host_may_be_an_address_in_brackets(host, status):
    with app_of(allowed_hosts=("[::1]",)) as client:
        assert client.get("/health/live", headers={"host": host}).status_code == status


def test_pages_of_other_origins_may_ask_only_where_it_is_set():
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with app_of() as client:
        assert "access-control-allow-origin" not in client.get("/health/live", headers=asked).headers
        assert client.options("/ask", headers=asked).status_code == 405
    with app_of(cors_origins=("https://a.example",), api_keys=("secret-key-1",)) as client:
        allowed = client.options("/ask", headers=asked)  # a browser asks this first, and without a key
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert client.options("/ask", headers=asked | {"origin": "https://b.example"}).status_code == 400
        # a page can read the refusal, and the id to name
        refused = client.post("/ask", json={"question": "a"}, headers={"origin": "https://a.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://a.example"
        assert "X-Request-ID" in refused.headers["access-control-expose-headers"]


def test_every_example_in_swagger_runs_as_it_stands(client):
    document = client.get("/openapi.json").json()
    assert {"/ask", "/ask/batch", "/ask/stream", "/health/live", "/health/ready", "/model/info", "/metrics"} <= set(
        document["paths"]
    )
    for path, schema in (("/ask", "QuestionRequest"), ("/ask/batch", "BatchQuestionRequest")):
        (example,) = document["components"]["schemas"][schema]["examples"]
        assert client.post(path, json=example).status_code == 200


def test_swagger_says_which_version_of_the_server_and_which_model(client):
    told = client.get("/openapi.json").json()["info"]
    assert told["version"] == __version__ != "0.1.0" and told["description"].endswith("Now answering: saved.")
    with app_of() as other:
        wait_for(other, 200)
        assert "Now answering: m version 7." in other.get("/openapi.json").json()["info"]["description"]
        other.app.state.serving.predictor.model = None
        assert "answering" not in other.get("/openapi.json").json()["info"]["description"]


def test_swagger_and_the_page_load_nothing_from_elsewhere(client):
    for path in ("/docs", "/"):
        page = client.get(path)
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert 'src="http' not in page.text and 'href="http' not in page.text
    for path in ("/static/swagger/swagger-ui-bundle.js", "/static/swagger/swagger-ui.css"):
        assert path.removeprefix("/") in client.get("/docs").text and client.get(path).status_code == 200
