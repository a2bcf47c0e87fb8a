"""Feedback: in the ledger, and on the answer's trace in a real MLflow."""

from __future__ import annotations

import asyncio
import json
import time

import mlflow
import pytest
from stand_in_server import wait_until

from genai_server.errors import StorageFailed
from genai_server.feedback import assessments
from genai_server.feedback import keeper as module
from genai_server.feedback import ledger as feedback_ledger
from genai_server.feedback.assessments import ENTRY_METADATA
from genai_server.feedback.keeper import FeedbackKeeper
from genai_server.feedback.ledger import Ledger

SAID = {"request_id": "r-1", "name": "helpful", "value": True, "comment": "clear", "source": "ann"}


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """A database with one traced request."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment("serving")
    trace("r-1")
    yield
    mlflow.set_tracking_uri(before)


def trace(request_id: str) -> None:
    mlflow.start_span_no_context("ask m", tags={"request_id": request_id}).end()
    mlflow.flush_trace_async_logging()


def said_of(request_id: str) -> list:
    experiment = mlflow.get_experiment_by_name("serving").experiment_id
    where = f"tags.request_id = '{request_id}'"
    return mlflow.MlflowClient().search_traces(locations=[experiment], filter_string=where)[0].info.assessments


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRACE_WAIT_S", 60.0)  # a busy machine is no reason for another answer
    monkeypatch.setattr(assessments, "SLOW_S", 60.0)
    keeper = FeedbackKeeper(tmp_path / "below" / "ledger.jsonl", True, "serving")
    yield keeper
    keeper.stop()


def kept(keeper: FeedbackKeeper, said: dict) -> str:
    return asyncio.run(keeper.keep(said))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_it_becomes_an_assessment_of_the_trace(traced, keeper, tmp_path):
    assert kept(keeper, SAID) == "trace"
    (assessment,) = said_of("r-1")
    assert (assessment.name, assessment.value, assessment.rationale) == ("helpful", True, "clear")
    assert assessment.source.source_id == "ann"
    (line,) = lines(tmp_path / "below" / "ledger.jsonl")
    assert line.pop("time") * 1000 == pytest.approx(assessment.create_time_ms, abs=1) and line == SAID


def test_the_same_twice_is_on_the_trace_once(traced, keeper):
    assert [kept(keeper, SAID), kept(keeper, SAID)] == ["trace", "trace"]
    assert len(said_of("r-1")) == 1
    assert kept(keeper, SAID | {"value": False}) == "trace" and len(said_of("r-1")) == 2


def test_an_answer_that_was_not_traced_goes_into_the_ledger(traced, keeper, tmp_path):
    for request_id in ("r-2", "r-2'OR'1", "r-1'--", "back\\", '";`%_'):
        assert kept(keeper, SAID | {"request_id": request_id}) == "ledger"
    assert [line["request_id"] for line in lines(tmp_path / "below" / "ledger.jsonl")][-1] == '";`%_'
    assert kept(keeper, SAID) == "trace" and len(said_of("r-1")) == 1


def test_it_gets_onto_a_trace_that_is_written_after_it(traced, keeper, monkeypatch):
    monkeypatch.setattr(assessments, "RETRY_AFTER_S", (0.1, 0.1, 0.1, 60.0))
    waiting = 1
    monkeypatch.setattr(keeper._assessments, "_traces_waiting", lambda: waiting)
    assert kept(keeper, SAID | {"request_id": "r-late"}) == "ledger"
    trace("r-late")
    wait_until(lambda: said_of("r-late"))
    assert said_of("r-late")[0].metadata[ENTRY_METADATA]


def test_what_was_not_traced_is_not_looked_for_for_ever(traced, keeper, monkeypatch):
    monkeypatch.setattr(assessments, "RETRY_AFTER_S", (0.1, 0.1))
    calls = []
    monkeypatch.setattr(assessments, "put", lambda entry, *where: bool(calls.append(entry)))
    kept(keeper, SAID)
    wait_until(lambda: len(calls) == 2)
    time.sleep(0.3)
    assert len(calls) == 2 and all(keeper._assessments._room.acquire(blocking=False) for _ in range(assessments.LIMIT))


def test_whatever_mlflow_raises_of_one_the_others_follow(traced, keeper, monkeypatch, caplog):
    put = assessments.put

    def picky(entry, experiment, *where):
        if entry.comment == "poison":
            raise UnicodeEncodeError("utf-8", "a text of a caller", 0, 1, "no")
        return put(entry, experiment, *where)

    monkeypatch.setattr(assessments, "put", picky)
    assert [kept(keeper, SAID | {"comment": "poison"}), kept(keeper, SAID)] == ["ledger", "ledger"]  # nobody waits now
    wait_until(lambda: said_of("r-1"))
    assert kept(keeper, SAID | {"comment": "later"}) == "trace"
    assert "UnicodeEncodeError" in caplog.text and "of a caller" not in caplog.text


# --- the ledger ---


def test_a_full_part_is_renamed_and_the_oldest_one_is_dropped_with_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feedback_ledger, "LIMIT_BYTES", 10)
    (tmp_path / "ledger.jsonl.20261121").write_text("a copy that somebody made")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in range(7):
        ledger.add(f'{{"number": {number}}}'.encode())
    numbers = {
        path.name: lines(path)[0]["number"] for path in tmp_path.glob("ledger.jsonl*") if path.suffix != ".20261121"
    }
    assert numbers == {"ledger.jsonl": 6} | {f"ledger.jsonl.{number}": number - 1 for number in range(3, 7)}
    assert caplog.text.count("is dropped") == 2 and "ledger.jsonl.2, is dropped" in caplog.text
    assert (tmp_path / "ledger.jsonl.20261121").exists()


def test_a_torn_line_stays_alone(tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(b'{"whole": 1}\n{"half": ')
    Ledger(tmp_path / "ledger.jsonl").add(b'{"next": 1}')
    assert (tmp_path / "ledger.jsonl").read_bytes().split(b"\n") == [b'{"whole": 1}', b'{"half": ', b'{"next": 1}', b""]


def test_two_servers_with_one_ledger_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback_ledger, "LIMIT_BYTES", 2000)
    monkeypatch.setattr(feedback_ledger, "MOST_PARTS", 100)
    keepers = [FeedbackKeeper(tmp_path / "ledger.jsonl", False, "serving") for _ in range(4)]

    async def all_at_once() -> list[str]:
        return await asyncio.gather(
            *(keepers[number % 4].keep(SAID | {"request_id": f"r-{number}"}) for number in range(200))
        )

    assert set(asyncio.run(all_at_once())) == {"ledger"}
    found = [line["request_id"] for path in tmp_path.glob("ledger*") for line in lines(path)]
    assert sorted(found) == sorted(f"r-{number}" for number in range(200))
    assert len(list(tmp_path.glob("ledger*"))) > 5


def test_what_can_be_stored_nowhere_is_refused(tmp_path, caplog):
    (tmp_path / "file").write_text("")  # not even root may write below it
    unwritten = []
    keeper = FeedbackKeeper(
        tmp_path / "file" / "ledger.jsonl", False, "serving", on_write_failure=lambda: unwritten.append(1)
    )
    for _ in range(3):
        with pytest.raises(StorageFailed, match="was not kept"):
            kept(keeper, SAID)
    assert len(unwritten) == 3 and caplog.text.count("cannot be written") == 1
    (tmp_path / "file").unlink()
    assert kept(keeper, SAID) == "ledger" and "is written again" in caplog.text


def test_without_a_ledger_the_trace_is_enough(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRACE_WAIT_S", 60.0)
    monkeypatch.setattr(assessments, "SLOW_S", 60.0)
    (tmp_path / "file").write_text("")
    keeper = FeedbackKeeper(tmp_path / "file" / "ledger.jsonl", True, "serving")
    assert kept(keeper, SAID) == "trace" and len(said_of("r-1")) == 1
    with pytest.raises(StorageFailed):
        kept(keeper, SAID | {"request_id": "r-2"})
    keeper.stop()
