"""Traces: real ones in a real SQLite MLflow, by OpenTelemetry's names, and no harm where MLflow is dead or slow."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
from conftest import free_port
from fastapi.testclient import TestClient

from genai_server import tracing
from genai_server.answerers import ThreadAnswerer
from genai_server.app import create_app
from genai_server.predictor import LoadedModel
from genai_server.serving import Asked
from genai_server.settings import ServerSettings
from genai_server.trace_writer import _phases
from genai_server.tracing import Tracer, attributes

INFO = {"model": "tiny", "model_version": "7", "prompt": "qa-simple/3"}
ANSWER = {
    "answer": "zebra in the answer", "finish_reason": "length", "prompt_tokens": 20, "completion_tokens": 5,
    "first_token_s": 0.01, "total_s": 0.05,
}  # fmt: skip
CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Pyfunc:
    def predict(self, questions, params):
        time.sleep(0.05)
        if questions[0]["question"] == "break":
            raise ZeroDivisionError("zebra in the error")
        return [ANSWER for _ in questions]


def app_of(**settings) -> TestClient:
    return TestClient(
        create_app(
            ServerSettings(trace_sampling_ratio=1.0, **settings),
            lambda *_: LoadedModel(ThreadAnswerer(Pyfunc()), INFO),
        )
    )


def wait_until(is_so, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.1)


# --- in a real MLflow ---


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> dict:
    """The traces of five requests, by the id of the request; one more asked not to be traced."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('traces') / 'mlflow.db'}"
    store = mlflow.MlflowClient(uri)
    experiment = store.create_experiment("answers")
    requests = {
        "plain": {}, "broken": {"traceparent": "00-nonsense"},
        "zero": {"traceparent": f"00-{'0' * 32}-{CALLERS_SPAN}-01"},
        "continued": {"traceparent": f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"},
        "not wanted": {"traceparent": f"00-{'1' * 32}-{CALLERS_SPAN}-00"},
    }  # fmt: skip
    with app_of(tracking_uri=uri, trace_experiment="answers") as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for name, headers in requests.items():
            body = {"question": "zebra in the question", "temperature": 0.5, "seed": 3, "max_new_tokens": 9}
            named = {"X-Request-ID": name.replace(" ", "-"), **headers}
            assert client.post("/ask", json=body, headers=named).status_code == 200
        stream = client.post("/ask/stream", json={"question": "a"}, headers={"X-Request-ID": "stream"})
        assert "event: end" in stream.text
        for name, header in (("failed", "nonsense"), ("failed-continued", f"00-{'2' * 32}-{CALLERS_SPAN}-01")):
            named = {"X-Request-ID": name, "traceparent": header}
            assert client.post("/ask", json={"question": "break"}, headers=named).status_code == 500

        def found() -> dict:
            every = store.search_traces(locations=[experiment])
            return {trace.info.tags.get("request_id"): trace for trace in every}

        names = {"plain", "broken", "zero", "continued", "stream", "failed", "failed-continued"}
        wait_until(lambda: set(found()) == names)
        wait_until(lambda: all(trace.info.state != "IN_PROGRESS" for trace in found().values()))
        return found()


def root_of(trace):
    (root,) = [span for span in trace.data.spans if span.name == "ask tiny"]
    return root


def test_a_request_is_a_trace_with_two_spans_below(traces):
    for name in ("plain", "stream"):
        root = root_of(traces[name])
        assert root.parent_id is None and len(traces[name].data.spans) == 3
        below = {span.name: span for span in traces[name].data.spans if span.parent_id == root.span_id}
        prefill, decode = below["prefill"], below["decode"]
        assert root.start_time_ns == prefill.start_time_ns < prefill.end_time_ns == decode.start_time_ns
        assert decode.start_time_ns < decode.end_time_ns == root.end_time_ns
        assert (
            root.end_time_ns - root.start_time_ns >= 50_000_000 > 10_000_000 == prefill.end_time_ns - root.start_time_ns
        )


def test_it_is_found_by_the_requests_id_and_names_the_versions(traces):
    for trace in traces.values():
        assert trace.info.tags["model_version"] == "7" and trace.info.tags["prompt"] == "qa-simple/3"


def test_it_has_opentelemetrys_attributes(traces):
    every = root_of(traces["plain"]).attributes.items()
    assert {name: value for name, value in every if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "ask",
        "gen_ai.provider.name": "mlflow.pyfunc",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": "plain",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.response.time_to_first_chunk": 0.01,
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.prompt.name": "qa-simple/3",
    }  # fmt: skip


def test_a_callers_trace_is_continued(traces):
    root = root_of(traces["continued"])
    assert traces["continued"].info.trace_id == f"tr-{CALLERS_TRACE}" and root.parent_id == CALLERS_SPAN
    assert {span.name for span in traces["continued"].data.spans if span.parent_id == root.span_id} == {
        "prefill", "decode",
    }  # fmt: skip


def test_a_request_that_failed_is_a_trace_with_its_error(traces):
    for name in ("failed", "failed-continued"):
        trace, root = traces[name], root_of(traces[name])
        assert trace.info.state == "ERROR" and root.status.status_code == "ERROR"
        assert root.attributes["error.type"] == "model_failed" and len(trace.data.spans) == 1
        assert root.attributes["gen_ai.response.finish_reasons"] == ["error"]
        assert root.end_time_ns - root.start_time_ns >= 50_000_000


def test_every_trace_has_ended_also_one_whose_root_never_comes(traces):
    for name in ("plain", "broken", "zero", "continued", "stream"):
        assert traces[name].info.state == "OK"


def test_the_time_in_the_queue_is_a_span_of_its_own():
    record = Tracer(1.0)._record(asked(), {**ANSWER, "queued_s": 0.004}, INFO, 10**9, 2 * 10**9)
    assert _phases(record) == [
        ("queue", "start_ns", "begun_ns"), ("prefill", "begun_ns", "first_token_ns"),
        ("decode", "first_token_ns", "end_ns"),
    ]  # fmt: skip
    assert record["begun_ns"] == 10**9 + 4_000_000


def test_a_header_that_is_no_trace_starts_a_new_one(traces):
    for name in ("broken", "zero"):
        assert root_of(traces[name]).parent_id is None and len(traces[name].data.spans) == 3
        assert "0" * 32 not in traces[name].info.trace_id


def test_no_text_is_in_it_unless_asked(traces):
    for trace in traces.values():
        assert "zebra" not in trace.to_json()  # not of the error either


# --- what is handed over ---


def asked(text: str = "zebra in the question") -> Asked:
    return Asked({"question": text, "history": []}, {"stop": ["x"], "top_p": 0.9, "timeout_s": 5}, "id-1", "chat")


def test_texts_are_handed_over_only_on_request():
    for with_texts in (False, True):
        record = Tracer(1.0, with_texts)._record(asked(), ANSWER, INFO, 1, 10**9)
        assert ("zebra in the question" in json.dumps(record)) == with_texts
        assert ("zebra in the answer" in json.dumps(record)) == with_texts


def test_a_model_that_counts_nothing_has_empty_attributes_and_no_wrong_ones():
    told = attributes(asked(), {"answer": "a"}, INFO)
    assert told["gen_ai.usage.output_tokens"] is told["gen_ai.response.time_to_first_chunk"] is None
    assert told["gen_ai.operation.name"] == "chat"
    assert (told["gen_ai.request.stop_sequences"], told["gen_ai.request.top_p"]) == (["x"], 0.9)
    assert not [name for name in told if "timeout" in name]


@pytest.fixture
def writer(tmp_path, monkeypatch):
    """Puts a program in the place of the writer."""

    def put(program: str) -> Path:
        path = tmp_path / "writer.py"
        path.write_text(program)
        monkeypatch.setattr(tracing, "WRITER", path)
        return path

    return put


@pytest.fixture
def started():
    """Makes started tracers; none of their writers outlives the test."""
    tracers: list[Tracer] = []

    def start(*args, **kwargs) -> Tracer:
        tracers.append(Tracer(*args, **kwargs))
        tracers[-1].start()
        return tracers[-1]

    yield start
    for tracer in tracers:
        tracer._writer.kill()
        tracer._writer.wait()


def answer_times(tracer: Tracer, count: int) -> float:
    """Seconds that the slowest of so many calls took."""
    slowest = 0.0
    for _ in range(count):
        started = time.perf_counter()
        tracer.answered(asked("a" * 2000), ANSWER, INFO, 1, 10**9)
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


def test_a_share_of_the_requests_is_sampled(writer, started, tmp_path, monkeypatch):
    writer(f"import sys\nopen({str(tmp_path / 'got')!r}, 'w').write(str(len(sys.stdin.readlines())))\n")
    monkeypatch.setattr(tracing, "QUEUE_LIMIT", 5000)
    tracing.random.seed(1)
    tracer = started(0.25)
    answer_times(tracer, 2000)
    tracer.stop()
    assert 400 < int((tmp_path / "got").read_text()) < 600 and tracer.dropped == 0


def test_without_a_share_there_is_no_writer(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # nobody may call it
    tracer = Tracer(0.0)
    tracer.start()
    answer_times(tracer, 3)
    tracer.stop()


def test_what_a_stuck_writer_does_not_take_is_dropped_and_counted(writer, started, monkeypatch):
    writer("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(tracing, "QUEUE_LIMIT", 20)
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.5)
    tracer = started(1.0, with_texts=True)
    assert answer_times(tracer, 500) < 0.2  # nobody waits for it
    assert 300 < tracer.dropped <= 480  # a queue of 20 and a pipe took the others
    started = time.monotonic()
    tracer.stop()
    assert time.monotonic() - started < 5 and tracer._writer.poll() is not None


def test_a_writer_that_has_ended_is_told_once_and_harms_nothing(writer, started, caplog):
    writer("raise SystemExit(1)\n")
    tracer = started(1.0, with_texts=True)
    tracer._writer.wait(10)
    assert answer_times(tracer, 200) < 0.2
    wait_until(lambda: "The trace writer has ended" in caplog.text, 10)
    started = time.monotonic()
    tracer.stop()
    assert time.monotonic() - started < 5 and caplog.text.count("The trace writer has ended") == 1


# --- with a tracking server that is dead, or that never answers ---


@pytest.mark.parametrize("silent", [False, True])
def test_answers_come_and_the_server_ends_in_seconds(silent, monkeypatch):
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 2.0)
    hole = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    port = hole.getsockname()[1] if silent else free_port()
    times = []
    with app_of(tracking_uri=f"http://127.0.0.1:{port}") as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for _ in range(10):
            started = time.monotonic()
            assert client.post("/ask", json={"question": "a"}).status_code == 200
            times.append(time.monotonic() - started)
        stopping = time.monotonic()
    assert max(times) < 1.0 and time.monotonic() - stopping < 6.0
    hole.close()
