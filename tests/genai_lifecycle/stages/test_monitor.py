"""The monitor over what a real server traced into a real store, beside a real baseline run."""

from __future__ import annotations

import dataclasses
import functools
import time

import mlflow
import pytest
from conftest import folders
from fastapi.testclient import TestClient
from trace_writers import forked_writers

from genai_lifecycle.cli.main import MODES
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, LimitCrossed, StorageFailed
from genai_lifecycle.monitoring import period
from genai_lifecycle.stages.monitor import MonitorSettings, run_monitor
from genai_lifecycle.store import evaluations, runs, served, traces
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import open_store
from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

pytestmark = pytest.mark.slow


INFO = ModelInfo(model="tiny", model_version="7", prompt="qa-simple/3")
PROMPT = PromptRef("qa-simple", 3, "Question: {{question}}\nAnswer:")
DECLINED = "I don't know about that."
QUESTIONS, ENOUGH = 16, 12
CALLERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}  # asks twice in one trace
REQUESTS = QUESTIONS + 1 + 2  # one fails
LIMITS = f"minimum_count: {ENOUGH}\nlimits:\n"


class Pyfunc:
    """Answers shorter than its baseline did, and declines every other question."""

    def predict(self, questions, params):
        return [self.answer(item["question"]) for item in questions]

    def answer(self, question):
        if question == "break":
            raise ValueError("broken")
        number = int(question.split()[-1])
        text = DECLINED if number % 2 else "An answer in a few words."
        return {"answer": text, "finish_reason": "stop", "prompt_tokens": 10 + number % 3,
                "completion_tokens": 5 + number % 3, "first_token_s": 0.001, "total_s": 0.002}  # fmt: skip


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """(config, store, settings) with the traces, the feedback and the baseline."""
    base = tmp_path_factory.mktemp("monitor")
    where = folders(base)
    config = E2EConfig(**where, tracking_uri=where["backend_store_uri"])
    settings = MonitorSettings(limits=base / "limits.yaml", report=base / "out" / "monitor.md")
    settings.limits.write_text(LIMITS + "  error_rate: {at_most: 0.5}\ndrift: {fails: false}\n")
    store = open_store(config)
    _serve(config)
    open_store(config)
    _baseline()
    return config, store, settings


@pytest.fixture(autouse=True)
def pointed(life):
    open_store(life[0])


def _serve(config) -> None:
    settings = ServerSettings(trace_sampling_ratio=1.0, trace_texts=True, tracking_uri=config.tracking_uri,
                              feedback_file=str(config.staging_dir / "feedback.jsonl"))  # fmt: skip
    app = create_app(settings, lambda *_: LoadedModel(ThreadAnswerer(Pyfunc()), INFO))
    with forked_writers(), TestClient(app, raise_server_exceptions=False) as client:
        _until(lambda: client.get("/health/ready").status_code == 200)
        for number in range(QUESTIONS):
            _ask(client, f"Question {number}", f"r-{number}")
        _ask(client, "break", "broken", status=500)
        for number in (0, 2):
            _ask(client, f"Question {number}", f"callers-{number}", headers=CALLERS)
        experiment = _until(lambda: served.experiment_id("serving"))
        _until(lambda: sum(map(len, served.pages(experiment, 0, 2**42))) == REQUESTS)
        for number in range(8):
            said = {"request_id": f"r-{number}", "value": number < 6, "source": "ann"}
            assert client.post("/feedback", json=said).status_code == 200
        assert client.post("/feedback", json={"request_id": "r-9", "comment": "hm"}).status_code == 200
        pages = functools.partial(served.pages, experiment, 0, 2**42)
        _until(lambda: sum(len(request.feedback) for page in pages() for request in page) == 9)


def _ask(client, question, request_id, status=200, headers=None) -> None:
    named = {"X-Request-ID": request_id} | (headers or {})
    assert client.post("/ask", json={"question": question}, headers=named).status_code == status


def _until(found, timeout_s: float = 120.0):
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.1)
    return value


def _baseline() -> None:
    """As the stage `evaluate` leaves it."""
    with runs.run("qa-simple/3", evaluations.STAGE) as run_id:
        runs.log_results({"prompt": "qa-simple/3", "model_name": "tiny", "model_version": "7"}, {})
        now_ns = time.time_ns()
        for number in range(QUESTIONS):
            usage = {"input_tokens": 10 + number % 3, "output_tokens": 25 + number % 3, "total_tokens": 0}
            said = {"answer": "Long.", "finish_reason": "stop"}
            step = traces.Step("generate", "LLM", now_ns, now_ns + 1000, {}, said, {"mlflow.chat.tokenUsage": usage})
            traces.write([traces.AnswerTrace(f"Question {number}", "Long.", (step,), {})], run_id, PROMPT)
        traces.flush(QUESTIONS)


@pytest.fixture(scope="module")
def report(life):
    open_store(life[0])
    return run_monitor(*life)


def values(result) -> dict[str, float | None]:
    return {item.name: item.value for item in result.measures}


def test_the_figures_are_those_of_the_requests(report):
    found = values(report)
    assert report.requests == REQUESTS and report.groups == {"qa-simple/3 on tiny version 7": REQUESTS}
    assert found["error_rate"] == pytest.approx(1 / REQUESTS)
    assert found["declined_share"] == pytest.approx(8 / (REQUESTS - 1))
    tokens = [5 + number % 3 for number in [*range(QUESTIONS), 0, 2]]
    assert found["answer_tokens"] == pytest.approx(sum(tokens) / len(tokens))
    assert 0 < found["latency_p50_ms"] <= found["latency_p95_ms"] <= found["latency_p99_ms"] < 60_000
    assert found["positive_share"] == 0.75 and found["repetition"] == 0.0 and found["timeout_share"] == 0.0


def test_what_is_shorter_and_declines_more_than_its_baseline_has_drifted(report):
    outcomes = {item.measure: item.outcome for item in report.drift}
    assert outcomes == {
        "answer_tokens": "drift", "declined_share": "drift", "prompt_tokens": "none", "repetition": "none",
        "finish_reason": "none",
    }  # fmt: skip
    (tokens,) = [item for item in report.drift if item.measure == "answer_tokens"]
    assert (tokens.count_now, tokens.count_before, tokens.effect) == (REQUESTS - 1, QUESTIONS, 1.0)
    assert tokens.p_value < 1e-4 and (tokens.now, tokens.before) == ("median 6", "median 26")
    assert any("the evaluation of" in note and f"{QUESTIONS} answers" in note for note in report.notes)


def test_it_is_a_run_and_a_file(report, life, tmp_path):
    run = mlflow.get_run(report.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["lifecycle.stage"] == "monitor"
    assert run.data.metrics["drifted"] == 2 and run.data.metrics["requests"] == REQUESTS
    assert run.data.metrics["latency_p95_ms"] == values(report)["latency_p95_ms"]
    mlflow.artifacts.download_artifacts(run_id=report.run_id, dst_path=str(tmp_path))
    for name in ("daily.png", "drift.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| error_rate | 0.0526 | 19 |" in text and "- model_failed: 1" in text
    assert life[2].report.read_text("utf-8") == text.replace("![volume and latency](daily.png)\n\n", "")
    assert [path.name for path in life[2].report.parent.iterdir()] == ["monitor.md"]


def test_small_pages_give_the_same(life, monkeypatch, report):
    monkeypatch.setattr(served, "PAGE", 5)
    result = run_monitor(*life, now_ms=report.end_ms)
    assert result.measures == report.measures and result.drift == report.drift


def test_of_very_many_the_newest_are_taken(life, monkeypatch):
    monkeypatch.setattr(served, "PAGE", 5)
    monkeypatch.setattr(period, "MOST_REQUESTS", 10)
    result = run_monitor(*life)
    assert result.requests == 10 and "only the newest 10 requests" in result.notes[0]
    assert {item.outcome for item in result.drift} == {"too few"}


def test_a_crossed_limit_is_named_with_its_value_and_what_to_do(life, tmp_path, capsys):
    limits = tmp_path / "limits.yaml"
    limits.write_text(LIMITS + "  error_rate: {at_most: 0.01}\n  positive_share: {at_least: 0.99}\n")
    with pytest.raises(LimitCrossed) as caught:
        MODES["monitor"].run(life[0], dataclasses.replace(life[2], limits=limits))
    said = str(caught.value)
    assert caught.value.exit_code == 17 and "error_rate is 0.05263 over 19 requests; the limit is at most 0.01" in said
    assert "answer_tokens of qa-simple/3 on tiny version 7 has drifted: median 6, in the baseline median 26" in said
    assert "Look at the traces in state ERROR" in said and "positive_share is" not in said  # 8 of 12
    printed = capsys.readouterr().out
    assert "too few for a verdict, fewer than 12: positive_share (8)" in printed and "3 limit(s) crossed." in printed
    assert "3 limit(s) crossed" in life[2].report.read_text("utf-8")


def test_an_empty_period_says_so_and_is_no_failure(life, capsys):
    for config in (dataclasses.replace(life[0], serving_experiment="elsewhere"), life[0]):
        result = run_monitor(config, *life[1:], now_ms=1_700_000_000_000)
        assert result.requests == 0 and result.crossed == () and result.drift == ()
        assert "MLFLOW_TRACE_SAMPLING_RATIO" in result.notes[0]
        assert "Nothing was traced in this period." in life[2].report.read_text("utf-8")
    MODES["monitor"].run(dataclasses.replace(life[0], serving_experiment="elsewhere"), life[2])
    assert "Nothing was traced" in capsys.readouterr().out


def test_silence_can_be_a_limit_too(life, tmp_path):
    limits = tmp_path / "limits.yaml"
    limits.write_text("limits: {requests: {at_least: 1}}")
    result = run_monitor(*life[:2], dataclasses.replace(life[2], limits=limits), now_ms=1_700_000_000_000)
    assert [item.message for item in result.crossed] == ["requests is 0; the limit is at least 1"]


def test_what_was_never_evaluated_is_said(life, monkeypatch):
    monkeypatch.setattr(served, "baseline", lambda *_: None)
    result = run_monitor(*life)
    assert result.drift == () and any("was not evaluated" in note for note in result.notes)


def test_an_experiment_is_a_baseline_where_the_weights_are_the_same(life, tmp_path):
    client = mlflow.MlflowClient()
    client.create_registered_model("other")
    client.create_model_version("other", str(tmp_path), tags={"weights_sha256": "abc"})
    with runs.run("qa-expert", runs.EVALUATE) as run_id:
        runs.log_results({"prompt": "qa-expert/1", "weights_sha256": "abc"}, {})
    assert served.baseline("qa-expert/1", "other", "1").run_id == run_id
    assert served.baseline("qa-expert/1", "other", "2") is None and served.baseline("qa-expert/2", "other", "1") is None
    assert served.baseline("a'b", "other", "1") is None and served.baseline("qa-simple/3", "tiny", "8") is None


def test_wrong_limits_leave_no_run(life, tmp_path):
    (tmp_path / "limits.yaml").write_text("limits: {speed: {at_most: 1}}")
    before = len(mlflow.MlflowClient().search_runs([life[1].experiment_id]))
    with pytest.raises(ConfigError, match="limits.speed is unknown"):
        run_monitor(*life[:2], dataclasses.replace(life[2], limits=tmp_path / "limits.yaml"))
    assert len(mlflow.MlflowClient().search_runs([life[1].experiment_id])) == before


def test_a_report_that_cannot_be_written(life, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="Cannot write"):
        run_monitor(*life[:2], dataclasses.replace(life[2], report=tmp_path / "file" / "monitor.md"))
