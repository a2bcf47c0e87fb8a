"""Traces: real ones in a real SQLite MLflow, by OpenTelemetry's names, and no harm where MLflow is dead or slow."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import free_port
from fastapi.testclient import TestClient
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from trace_writers import forked_writers

from genai_server.answer import Answer, AnswerVersions
from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import Scoring, ThreadAnswerer
from genai_server.answering.model_output import answer_of
from genai_server.answering.predictor import LoadedModel
from genai_server.answering.queue_slots import QueueSlots
from genai_server.http.app import create_app
from genai_server.http.scoring_call import ScoringCall
from genai_server.model_info import ModelInfo
from genai_server.runtime.metrics import Metrics
from genai_server.settings import ServerSettings
from genai_server.tracing import tracer as tracing
from genai_server.tracing import writer as trace_writer
from genai_server.tracing.spool import Spool
from genai_server.tracing.tracer import Tracer, attributes
from genai_server.tracing.writer import Writer, _phases

INFO = ModelInfo("tiny", model_version="7", prompt="qa-simple/3")
VERSIONS = AnswerVersions("tiny", "7", "qa-simple/3", "model")
ANSWER = {
    "answer": "zebra in the answer", "finish_reason": "length", "prompt_tokens": 20, "completion_tokens": 5,
    "first_token_s": 0.01, "total_s": 0.05,
}  # fmt: skip
CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Pyfunc:
    metadata = SimpleNamespace(get_input_schema=lambda: None, get_params_schema=lambda: None)

    def predict(self, questions, params):
        time.sleep(0.05)
        if "break" in str(questions):
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
    """The traces of requests, by the id of the request; one of them asked not to be traced."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('traces') / 'mlflow.db'}"
    store = mlflow.MlflowClient(uri)
    experiment = store.create_experiment("answers")
    requests = {
        "plain": {}, "broken": {"traceparent": "00-nonsense"},
        "zero": {"traceparent": f"00-{'0' * 32}-{CALLERS_SPAN}-01"},
        "continued": {"traceparent": f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"},
        "not wanted": {"traceparent": f"00-{'1' * 32}-{CALLERS_SPAN}-00"},
    }  # fmt: skip
    ledger = str(tmp_path_factory.mktemp("spool") / "feedback.jsonl")
    with forked_writers(), app_of(tracking_uri=uri, trace_experiment="answers", feedback_file=ledger) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for name, headers in requests.items():
            body = {"question": "zebra in the question", "temperature": 0.5, "seed": 3, "max_new_tokens": 9}
            named = {"X-Request-ID": name.replace(" ", "-"), **headers}
            assert client.post("/ask", json=body, headers=named).status_code == 200
        for name, text, status in (("scored", "zebra in the question", 200), ("scored-failed", "break", 400)):
            body, named = {"inputs": [text], "params": {"temperature": 0.5}}, {"X-Request-ID": name}
            assert client.post("/invocations", json=body, headers=named).status_code == status
        stream = client.post("/ask/stream", json={"question": "a"}, headers={"X-Request-ID": "stream"})
        assert "event: end" in stream.text
        for name, header in (("failed", "nonsense"), ("failed-continued", f"00-{'2' * 32}-{CALLERS_SPAN}-01")):
            named = {"X-Request-ID": name, "traceparent": header}
            assert client.post("/ask", json={"question": "break"}, headers=named).status_code == 500

        def found() -> dict:
            every = store.search_traces(locations=[experiment])
            return {trace.info.tags.get("request_id"): trace for trace in every}

        names = {
            "plain",
            "broken",
            "zero",
            "continued",
            "stream",
            "failed",
            "failed-continued",
            "scored",
            "scored-failed",
        }
        wait_until(lambda: set(found()) == names)
        wait_until(lambda: all(trace.info.state != "IN_PROGRESS" for trace in found().values()))
        return found()


def root_of(trace):
    (root,) = [span for span in trace.data.spans if span.name in ("ask tiny", "invocations tiny")]
    return root


def test_a_request_is_a_trace_with_two_spans_below(traces):
    for name in ("plain", "stream", "scored"):
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


def test_a_scoring_names_its_route_and_mlflows_word_for_a_failure(traces):
    told, failed = root_of(traces["scored"]).attributes, root_of(traces["scored-failed"])
    assert told["gen_ai.operation.name"] == "invocations" and told["gen_ai.request.temperature"] == 0.5
    assert failed.attributes["error.type"] == "ZeroDivisionError" and failed.status.status_code == "ERROR"


def test_every_trace_has_ended_also_one_whose_root_never_comes(traces):
    for name in ("plain", "broken", "zero", "continued", "stream", "scored"):
        assert traces[name].info.state == "OK"


def test_the_time_in_the_queue_is_a_span_of_its_own():
    record = Tracer(1.0)._record(asked(), answer_of({**ANSWER, "queued_s": 0.004}), VERSIONS, 10**9, 2 * 10**9)
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


def asked(text: str = "zebra in the question") -> AnswerRequest:
    return AnswerRequest(
        {"question": text, "history": []}, {"stop": ["x"], "top_p": 0.9, "timeout_s": 5}, "id-1", "chat"
    )


def test_texts_are_handed_over_only_on_request():
    for with_texts in (False, True):
        record = Tracer(1.0, with_texts)._record(asked(), answer_of(ANSWER), VERSIONS, 1, 10**9)
        assert ("zebra in the question" in json.dumps(record)) == with_texts
        assert ("zebra in the answer" in json.dumps(record)) == with_texts


def test_a_model_that_counts_nothing_has_empty_attributes_and_no_wrong_ones():
    told = attributes(asked(), Answer("a"), VERSIONS)
    assert told["gen_ai.usage.output_tokens"] is told["gen_ai.response.time_to_first_chunk"] is None
    assert told["gen_ai.operation.name"] == "chat"
    assert (told["gen_ai.request.stop_sequences"], told["gen_ai.request.top_p"]) == (["x"], 0.9)
    assert not [name for name in told if "timeout" in name]


class Heard:
    """The metrics and the tracer of a server, which remember."""

    def __init__(self):
        self.metrics, self.tracer, self.traces, self.failures = self, self, [], []
        self.counted, self.gone = 0, 0

    def answer(self, answer):
        self.counted += 1

    def cancelled(self):
        self.gone += 1

    def answered(self, asked, answer, versions, started_ns, ended_ns):
        self.traces.append((asked.question, answer.text, ended_ns - started_ns))

    def failed(self, asked, error_type, versions, started_ns, ended_ns):
        self.failures.append(error_type)


class Model:
    """Gives back `answers`, or raises them."""

    metadata = Pyfunc.metadata

    def __init__(self, answers):
        self.answers = answers

    def predict(self, data, params):
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def scored(data, answers, is_stopped: bool = False) -> Heard:
    heard, scoring = Heard(), Scoring(Model(answers))
    heard.predictor = SimpleNamespace(slots=QueueSlots(8))
    scored = ScoringCall(scoring, heard, VERSIONS, AnswerRequest({}, {}, "id-1", "invocations"), 5.0)
    if is_stopped:
        scored.stop()
    with suppress(ZeroDivisionError, mlflow.MlflowException):
        scored.predict(data, None)
    return heard


QUESTIONS = [{"question": "a"}, {"question": "b"}]


@pytest.mark.parametrize(
    "data",
    [
        ["a", "b"],
        QUESTIONS,
        pd.DataFrame({"question": ["a", "b"], "other": [1, 2]}),
        np.array(["a", "b"]),
        {"question": ["a", "b"]},
        {"question": np.array(["a", "b"])},
    ],
)
def test_each_row_of_a_scoring_is_a_trace_with_its_own_end(data):
    heard = scored(data, [{**ANSWER, "total_s": 0.0}, {"answer": "no counts"}])
    assert [question for question, _, _ in heard.traces] == QUESTIONS and heard.counted == 2
    assert [answer for _, answer, _ in heard.traces] == [ANSWER["answer"], "no counts"]
    assert heard.traces[0][2] == 0 < heard.traces[1][2]


@pytest.mark.parametrize("answers", [None, 3, "text", [1, "b"], pd.DataFrame({"answer": ["x", "y"]}), np.zeros((2, 2))])
@pytest.mark.parametrize("data", [None, 1, ["a"], {"x": 1}, pd.DataFrame()])
def test_whatever_a_model_takes_and_returns_is_told_without_harm(data, answers):
    assert scored(data, answers).traces and not scored(data, answers).failures


def test_a_scoring_that_failed_or_whose_caller_left_is_one_trace_with_its_error():
    refused = mlflow.MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
    assert scored(["a"], ZeroDivisionError()).failures == ["ZeroDivisionError"]
    assert scored(["a", "b"], refused).failures == ["INVALID_PARAMETER_VALUE"]
    left = scored(["a"], [ANSWER], is_stopped=True)
    assert (left.failures, left.traces, left.counted, left.gone) == (["caller_left"], [], 0, 1)


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
def started(tmp_path):
    """Makes started tracers with a spool in tmp_path; none of their writers outlives the test."""
    tracers: list[Tracer] = []

    def start(ratio: float, with_texts: bool = False) -> Tracer:
        tracers.append(Tracer(ratio, with_texts, tmp_path / "traces.db"))
        tracers[-1].start()
        return tracers[-1]

    yield start
    for tracer in tracers:
        tracer._writer.kill()
        tracer.stop()


def answer_time(tracer: Tracer, count: int) -> float:
    """Seconds that one of so many calls took, the median: a writer that is waited for stops all, a busy machine few."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        tracer.answered(asked("a" * 2000), answer_of(ANSWER), VERSIONS, 1, 10**9)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


STUCK = "import time\ntime.sleep(600)\n"


def test_a_share_of_the_requests_is_sampled(writer, started, monkeypatch):
    writer("")
    monkeypatch.setattr(tracing, "MAX_RECORDS", 5000)
    tracing.random.seed(1)
    tracer = started(0.25)
    answer_time(tracer, 2000)
    tracer.stop()
    assert 400 < tracer.waiting < 600 and tracer.dropped == 0


def test_without_a_share_there_is_no_writer_and_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "Popen", None)  # nobody may call it
    tracer = Tracer(0.0, spool_file=tmp_path / "traces.db")
    tracer.start()
    answer_time(tracer, 3)
    tracer.stop()
    assert not list(tmp_path.iterdir())


def test_what_a_stuck_writer_does_not_take_waits_for_the_next_start(writer, started, monkeypatch, tmp_path, caplog):
    writer(STUCK)
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.5)
    tracer = started(1.0, with_texts=True)
    assert answer_time(tracer, 500) < 0.01  # nobody waits for it
    began = time.monotonic()
    tracer.stop()
    assert time.monotonic() - began < 5 and tracer._writer.poll() is not None
    assert "500 traces wait" in caplog.text and tracer.dropped == 0
    assert len(Spool(tmp_path / "traces.db").first(1000)) == 500


def test_the_end_does_not_wait_for_a_spool_that_another_program_holds(writer, started, monkeypatch, tmp_path):
    writer(STUCK)
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.5)
    tracer = started(1.0)
    with closing(sqlite3.connect(tmp_path / "traces.db")) as another:
        another.execute("BEGIN IMMEDIATE")
        answer_time(tracer, 3)
        began = time.monotonic()
        tracer.stop()
        assert time.monotonic() - began < 4 and tracer._writer.poll() is not None
    tracer._thread.join()


def test_what_a_full_spool_does_not_take_is_dropped_and_counted(writer, started, monkeypatch, caplog):
    writer(STUCK)
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(tracing, "MAX_RECORDS", 100)
    monkeypatch.setattr(tracing, "Spool", lambda file: Spool(file, 100_000))
    tracer = started(1.0, with_texts=True)
    for _ in range(3):
        answer_time(tracer, 100)
        tracer._put_all()
    assert tracer.dropped >= 100 and "The trace spool takes nothing" in caplog.text
    tracer.stop()


def test_a_writer_that_has_ended_is_told_once_and_harms_nothing(writer, started, caplog, monkeypatch):
    monkeypatch.setattr(tracing, "GATHER_S", 0.05)
    writer("raise SystemExit(1)\n")
    tracer = started(1.0, with_texts=True)
    tracer._writer.wait(10)
    assert answer_time(tracer, 200) < 0.01
    wait_until(lambda: "The trace writer has ended" in caplog.text, 10)
    began = time.monotonic()
    tracer.stop()
    assert time.monotonic() - began < 5 and caplog.text.count("The trace writer has ended") == 1


def test_a_writer_that_has_ended_is_started_again(writer, started, monkeypatch):
    monkeypatch.setattr(tracing, "GATHER_S", 0.05)
    monkeypatch.setattr(tracing, "RESTART_S", 0.1)
    path = writer("raise SystemExit(1)\n")
    tracer = started(1.0)
    first = tracer._writer
    first.wait(10)
    path.write_text(STUCK)
    wait_until(lambda: tracer._writer is not first and tracer._writer.poll() is None, 10)


def test_a_spool_that_cannot_be_used_is_told_and_requests_are_answered(tmp_path, caplog):
    (tmp_path / "traces.db").write_text("no database, whatever its name says" * 100)
    tracer = Tracer(1.0, spool_file=tmp_path / "traces.db")
    tracer.start()
    answer_time(tracer, 3)
    tracer.stop()
    assert "Requests are not traced" in caplog.text and "3 traces are lost" in caplog.text
    assert (tracer.waiting, tracer.dropped) == (0, 3)


def test_a_spool_that_can_be_used_later_is_taken_later(writer, tmp_path, monkeypatch, caplog):
    writer(STUCK)
    monkeypatch.setattr(tracing, "GATHER_S", 0.05)
    monkeypatch.setattr(tracing, "RESTART_S", 0.1)
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.5)
    (tmp_path / "folder").write_text("")  # a file where the folder belongs: not even root may write below it
    tracer = Tracer(1.0, spool_file=tmp_path / "folder" / "traces.db")
    tracer.start()
    answer_time(tracer, 3)
    (tmp_path / "folder").unlink()
    wait_until(lambda: (tmp_path / "folder" / "traces.db").exists() and tracer._writer is not None, 10)
    wait_until(lambda: "put into the spool again" in caplog.text, 10)
    tracer.stop()
    assert tracer.waiting == 3 and caplog.text.count("Requests are not traced") == 1


def test_the_writer_may_write_all_while_nobody_asks_and_else_few(writer, tmp_path, monkeypatch):
    """A tenth of a second a tick; the writer notes what it is told."""
    writer(f"import os\nwhile said := os.read(0, 4096): open({str(tmp_path / 'said')!r}, 'ab').write(said)\n")
    (tmp_path / "said").touch()
    monkeypatch.setattr(tracing, "GATHER_S", 0.1)
    busy = True
    tracer = Tracer(1.0, spool_file=tmp_path / "traces.db", is_busy=lambda: busy)
    tracer.start()
    answer_time(tracer, 900)
    wait_until(lambda: (tmp_path / "said").read_text().count("\n") >= 3)
    few = (tmp_path / "said").read_text().split()
    busy = False
    wait_until(lambda: (tmp_path / "said").read_text().split()[-1] != few[-1])
    tracer.stop()
    assert set(few) == {str(900 // tracing.BUSY_SHARE)}
    assert (tmp_path / "said").read_text().split()[-1] == str(tracing.QUIET_COUNT)


def test_the_metrics_tell_what_waits_and_what_found_no_room():
    metrics = Metrics(lambda: "tiny", lambda: None)
    metrics.traces(lambda: 7, lambda: 2)
    assert "genai_traces_waiting 7.0" in metrics.text().decode()
    assert "genai_traces_dropped_total 2.0" in metrics.text().decode()


def test_each_experiment_of_each_mlflow_has_a_spool_of_its_own_beside_the_ledger():
    places = [
        ServerSettings(tracking_uri=uri, trace_experiment=name, feedback_file="/data/feedback.jsonl").spool_file
        for uri in (None, "http://user:pass@host") for name in ("a", "b")
    ]  # fmt: skip
    assert len(set(places)) == 4 and {place.parent for place in places} == {Path("/data")}
    assert "pass" not in str(places)


# --- the writer ---


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture
def experiment(store, monkeypatch, request) -> str:
    """An experiment of the test's own, which is where the writer writes."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.tracking_uri)
    trace_writer._experiment_id.cache_clear()
    yield store.create_experiment(request.node.name)
    mlflow.set_tracking_uri(before)


def record(request_id: str, second: int = 0, traceparent: str | None = None) -> dict:
    asked = AnswerRequest({"question": "a", "history": []}, {}, request_id, "ask", traceparent)
    started_ns = (10**9 + second) * 10**9
    return Tracer(1.0)._record(asked, answer_of(ANSWER), VERSIONS, started_ns, started_ns + 10**9)


def stored(store, experiment: str) -> list[str]:
    every = store.search_traces(locations=[experiment], order_by=["timestamp_ms ASC"])
    return [trace.info.tags["request_id"] for trace in every]


@pytest.mark.slow
def test_what_waited_from_an_earlier_start_is_written_in_order_and_leaves_the_spool(
    store, experiment, tmp_path, monkeypatch
):
    """With the end of the input: the last words of a server."""
    spool = Spool(tmp_path / "traces.db")
    spool.put(json.dumps(record(str(number), number)) for number in range(25))
    with (tmp_path / "ended").open("w+") as ended:
        monkeypatch.setattr(sys, "stdin", ended)
        monkeypatch.setattr(trace_writer, "lower_priority", lambda: None)
        monkeypatch.setattr(trace_writer, "LAST_S", 120)
        trace_writer.main(tmp_path / "traces.db")
    assert stored(store, experiment) == [str(number) for number in range(25)] and len(spool) == 0


def spooled(tmp_path, records: list) -> tuple[Spool, Writer]:
    spool = Spool(tmp_path / "traces.db")
    spool.put(json.dumps(record) for record in records)
    return spool, Writer(tmp_path / "traces.db")


@pytest.mark.slow
def test_no_more_is_written_than_the_server_allows(store, experiment, tmp_path):
    spool, writer = spooled(tmp_path, [record(str(number), number) for number in range(15)])
    assert writer.write_first(12)
    assert stored(store, experiment) == [str(number) for number in range(12)] and len(spool) == 3


def test_a_trace_that_is_written_twice_is_there_once(store, experiment):
    twice = [record("twice"), record("callers", traceparent=f"00-{'3' * 32}-{CALLERS_SPAN}-01")]
    trace_writer.write(twice, experiment)
    trace_writer.write(twice, experiment)
    every = store.search_traces(locations=[experiment])
    assert sorted(len(trace.data.spans) for trace in every) == [3, 3]
    assert {trace.info.state for trace in every} == {"OK"}


def test_what_mlflow_never_takes_is_dropped_and_the_others_are_written(store, experiment, tmp_path, caplog):
    wrong = record("wrong")
    wrong["attributes"]["session.id"] = "a text of a caller " * 20  # MLflow refuses more than 250 characters
    spool, writer = spooled(tmp_path, [record("before"), wrong, wrong, record("after")])
    assert writer.write_first(100) and len(spool) == 0
    assert set(stored(store, experiment)) == {"before", "after"} and spool.dropped == 2
    assert caplog.text.count("A trace was dropped") == 1 and "of a caller" not in caplog.text


def test_what_mlflow_cannot_take_now_stays(experiment, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    spool, writer = spooled(tmp_path, [record("later")])
    assert not writer.write_first(10) and not writer.write_first(10)
    assert len(spool) == 1 and spool.dropped == 0 and caplog.text.count("Traces wait: MLflow takes none") == 1


def test_the_writer_lets_the_engine_go_first():
    program = "import os\nfrom genai_server.tracing import writer\nwriter.lower_priority()\nprint(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(19, os.nice(0) + trace_writer.NICE)


# --- with a tracking server that is dead, or that never answers ---


@pytest.mark.parametrize("silent", [False, True])
def test_answers_come_and_the_server_ends_in_seconds(silent, monkeypatch, tmp_path):
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 2.0)
    hole = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    port = hole.getsockname()[1] if silent else free_port()
    times = []
    settings = {"tracking_uri": f"http://127.0.0.1:{port}", "feedback_file": str(tmp_path / "feedback.jsonl")}
    with forked_writers(), app_of(**settings) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for _ in range(10):
            started = time.monotonic()
            assert client.post("/ask", json={"question": "a"}).status_code == 200
            times.append(time.monotonic() - started)
        stopping = time.monotonic()
    assert max(times) < 1.0 and time.monotonic() - stopping < 6.0
    hole.close()
