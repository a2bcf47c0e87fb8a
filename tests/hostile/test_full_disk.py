"""A disk that is full, or that may not be written: answers go on, the fault is logged once and counted, and feedback
that can be kept nowhere is refused. What was kept is whole, and work goes on once there is room."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import mlflow
import pytest
from conftest import StandIn
from fastapi.testclient import TestClient
from small_disk import read_only, small_disk
from stand_in_server import wait_until

from genai_server.answer import Answer, AnswerVersions
from genai_server.answer_request import AnswerRequest
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.prompts.registry import StoredVersion
from genai_server.prompts.selection import Prompts
from genai_server.settings import ServerSettings
from genai_server.tracing import tracer as tracing
from genai_server.tracing.spool import Spool
from genai_server.tracing.tracer import Tracer
from genai_server.tracing.writer import Writer

INFO = ModelInfo(model="tiny", model_version="7", prompt="qa/3")
VERSIONS = AnswerVersions("tiny", "7", "qa/3", "model")
SAID = {"request_id": "r-1", "comment": "a" * 3000}


class Model(StandIn):
    def load(self) -> None:
        """Of an engine that there is none."""


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """A server that keeps everything in a folder, with a trace writer that takes nothing."""
    (tmp_path / "writer.py").write_text("import sys\nsys.stdin.read()\n")
    monkeypatch.setattr(tracing, "WRITER", tmp_path / "writer.py")
    monkeypatch.setattr(tracing, "GATHER_S", 0.05)
    monkeypatch.setattr(tracing, "RESTART_S", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # as loading a real model does

    def client(folder: Path) -> TestClient:
        files = {"feedback_file": str(folder / "feedback.jsonl"), "prompt_file": str(folder / "prompt.json")}
        settings = ServerSettings(trace_sampling_ratio=1.0, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", **files)
        return TestClient(create_app(settings, lambda *_: LoadedModel(Model({"answer": "b"}), INFO)))

    return client


def measured(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_feedback_is_refused_while_the_disk_is_full_and_what_was_kept_is_whole(disk, serve, caplog):
    with serve(disk.folder) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/feedback", json=SAID | {"request_id": "before"}).status_code == 200
        disk.fill()
        for _ in range(3):
            refused = client.post("/feedback", json=SAID)
            assert refused.status_code == 503 and refused.json()["code"] == "storage_failed"
            assert "The feedback was not kept" in refused.json()["detail"]
            assert client.post("/ask", json={"question": "a"}).status_code == 200
        disk.free()
        assert client.post("/feedback", json=SAID | {"request_id": "after"}).json() == {"kept": "ledger"}
        assert measured(client, 'genai_feedback_total{kept="nowhere"}') == 3
        assert measured(client, 'genai_storage_failures_total{what="feedback"}') == 3
    lines = (disk.folder / "feedback.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["before", "after"]
    assert caplog.text.count("feedback.jsonl cannot be written") == 1 and "is written again" in caplog.text


def test_a_line_of_which_only_a_part_fits_is_taken_back(disk):
    from genai_server.feedback.ledger import Ledger

    ledger, count = Ledger(disk.folder / "feedback.jsonl"), 0
    with pytest.raises(OSError):
        for count in range(3000):
            if count == 3:
                disk.fill()
            ledger.add(f'{{"number": {count}, "text": "{"a" * 1500}"}}'.encode())
    disk.free()
    ledger.add(b'{"number": "last"}')
    numbers = [json.loads(line)["number"] for line in (disk.folder / "feedback.jsonl").read_text().splitlines()]
    assert numbers == [*range(count), "last"] and count >= 3


def test_requests_are_answered_and_traced_again_when_there_is_room(disk, serve, caplog):
    with serve(disk.folder) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        wait_until(lambda: list(disk.folder.glob("traces-*.db")))
        disk.fill()
        for _ in range(20):
            assert client.post("/ask", json={"question": "a" * 2000}).status_code == 200
        wait_until(lambda: measured(client, 'genai_storage_failures_total{what="traces"}') >= 3)
        assert caplog.text.count("The trace spool takes nothing") == 1
        wait_until(lambda: measured(client, "genai_traces_waiting") == 20)
        disk.free()
        wait_until(lambda: "Traces are put into the spool again" in caplog.text)
    (file,) = disk.folder.glob("traces-*.db")
    assert len(Spool(file)) == 20


def test_what_finds_no_room_is_dropped_and_counted(disk, serve, monkeypatch):
    monkeypatch.setattr(tracing, "MAX_RECORDS", 5)
    with serve(disk.folder) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        disk.fill()
        for _ in range(20):
            assert client.post("/ask", json={"question": "a"}).status_code == 200
        assert measured(client, "genai_traces_dropped_total") == 15
        disk.free()


def record(request_id: str) -> dict:
    now_ns = time.time_ns()
    asked = AnswerRequest({"question": "a" * 5000, "history": []}, {}, request_id, "ask")
    return Tracer(1.0, True)._record(asked, Answer("b"), VERSIONS, now_ns, now_ns + 10**6)


def test_the_writer_waits_for_room(disk, tmp_path, monkeypatch, caplog):
    """Taking traces out of the spool needs room on the disk, too."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "answers")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    spool = Spool(disk.folder / "traces.db")
    spool.put(json.dumps(record(f"r-{number}")) for number in range(30))
    writer = Writer(disk.folder / "traces.db")
    assert writer.is_open()
    disk.fill()
    assert not writer.write_first(100) and not writer.write_first(100)
    assert caplog.text.count("Traces wait") == 1
    disk.free()
    assert writer.write_first(100) and len(spool) == 0
    experiment = mlflow.get_experiment_by_name("answers").experiment_id
    assert len(mlflow.MlflowClient().search_traces(locations=[experiment])) == 30
    mlflow.set_tracking_uri(None)


class Registry:
    identity = "a"
    version = 1

    def find(self, name: str) -> StoredVersion:
        return StoredVersion(name, self.version, "{{question}}" + "a" * 5000, False, "", "", (), {})


def test_the_prompt_is_followed_and_its_copy_made_when_there_is_room(disk, caplog):
    unwritten = []
    prompts = Prompts(Registry(), 0.05, disk.folder / "prompt.json", lambda: unwritten.append(1))
    disk.fill()
    prompts.start(lambda: "qa")
    wait_until(lambda: len(unwritten) >= 3)
    assert str(prompts.current("qa")) == "qa/1" and caplog.text.count("no copy of the prompt is kept") == 1
    disk.free()
    wait_until((disk.folder / "prompt.json").exists)
    prompts.stop()
    assert json.loads((disk.folder / "prompt.json").read_text())["prompt"]["version"] == 1
    wait_until(lambda: not any(thread.name == "prompt" for thread in threading.enumerate()))
    assert [path.name for path in disk.folder.iterdir() if ".part" in path.name] == []


def test_a_folder_that_may_not_be_written_costs_no_answer(tmp_path, serve, caplog):
    with read_only(tmp_path / "folder") as folder, serve(folder) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/ask", json={"question": "a"}).status_code == 200
        assert client.post("/feedback", json=SAID).status_code == 503
        wait_until(lambda: measured(client, 'genai_storage_failures_total{what="traces"}') >= 3)
        assert client.post("/ask", json={"question": "a"}).status_code == 200
        wait_until(lambda: measured(client, "genai_traces_waiting") == 2)
    assert caplog.text.count("Requests are not traced") == 1 and "2 traces are lost" in caplog.text
