"""Feedback: on the answer's trace in a real MLflow, else in the ledger."""

from __future__ import annotations

import asyncio
import json
import time

import mlflow
import pytest

from genai_server import feedback as module
from genai_server.feedback import FeedbackKeeper

SAID = {"request_id": "r-1", "name": "helpful", "value": True, "comment": "clear", "source": "ann"}


@pytest.fixture
def traced(tmp_path):
    """A database with one traced request."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment("serving")
    span = mlflow.start_span_no_context("ask m", tags={"request_id": "r-1"})
    span.end()
    mlflow.flush_trace_async_logging()
    yield span.trace_id
    mlflow.set_tracking_uri(before)


def kept(keeper: FeedbackKeeper, said: dict) -> str:
    return asyncio.run(keeper.keep(said))


def test_it_becomes_an_assessment_of_the_trace(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MLFLOW_TIMEOUT_S", 30.0)
    keeper = FeedbackKeeper(tmp_path / "ledger.jsonl", True, "serving")
    assert kept(keeper, SAID) == "trace"
    (assessment,) = mlflow.get_trace(traced).info.assessments
    assert (assessment.name, assessment.value, assessment.rationale) == ("helpful", True, "clear")
    assert assessment.source.source_id == "ann"
    assert not (tmp_path / "ledger.jsonl").exists()


def test_an_answer_that_was_not_traced_goes_into_the_ledger(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MLFLOW_TIMEOUT_S", 30.0)
    keeper = FeedbackKeeper(tmp_path / "below" / "ledger.jsonl", True, "serving")
    assert kept(keeper, SAID | {"request_id": "r-2' OR 1"}) == "ledger"
    (line,) = (tmp_path / "below" / "ledger.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["request_id"] == "r-2' OR 1"


def test_an_mlflow_that_does_not_answer_costs_little(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MLFLOW_TIMEOUT_S", 0.05)
    keeper = FeedbackKeeper(tmp_path / "ledger.jsonl", True, "serving")
    monkeypatch.setattr(keeper, "_on_trace", lambda said: time.sleep(0.5))
    assert kept(keeper, SAID) == "ledger"


def test_the_ledger_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEDGER_LIMIT_BYTES", 100)
    keeper = FeedbackKeeper(tmp_path / "ledger.jsonl", False, "serving")
    for _ in range(6):
        kept(keeper, SAID)
    sizes = {path.name: len(path.read_text("utf-8").splitlines()) for path in tmp_path.glob("ledger*")}
    assert sizes == {"ledger.jsonl": 1, "ledger.jsonl.1": 1}
