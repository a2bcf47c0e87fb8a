"""The server's own ledger onto real traces: once, whatever happens in between."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

import forked
import mlflow
import pytest
from conftest import REPO, folders

from genai_lifecycle.cli.main import MODES
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import Busy, ConfigError
from genai_lifecycle.evaluation.case_files import read_case_file
from genai_lifecycle.monitoring.feedback_ledger import read_ledger
from genai_lifecycle.runtime.lock import only_run
from genai_lifecycle.stages.import_feedback import FOLDER, ImportFeedbackSettings, import_feedback
from genai_lifecycle.store import served
from genai_lifecycle.store.tracking_store import open_store
from genai_server.answer import Answer, AnswerVersions
from genai_server.answer_request import AnswerRequest
from genai_server.feedback import keeper as feedback
from genai_server.feedback.keeper import FeedbackKeeper
from genai_server.tracing import writer as trace_writer
from genai_server.tracing.tracer import Tracer

SAID = {"name": "helpful", "value": True, "comment": "clear", "source": "ann"}
VERSIONS = AnswerVersions("tiny", "7", "qa-simple/3", "model")
KILLED_AFTER_TWO = """
import os, signal, sys
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.stages.import_feedback import ImportFeedbackSettings, import_feedback
from genai_lifecycle.store import served
from genai_lifecycle.store.environment import prepare
from genai_lifecycle.store.tracking_store import open_store
from pathlib import Path
base, uri = Path(sys.argv[1]), sys.argv[2]
config = E2EConfig(backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"),
                   staging_dir=base / "staging", log_dir=base / "logs", feedback_file=base / "feedback.jsonl",
                   experiment_name=base.name, serving_experiment=f"serving-{base.name}")
prepare(config.staging_dir)
attach, calls = served.attach, []
def attach_and_die(*args):
    attach(*args)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
served.attach = attach_and_die
import_feedback(config, open_store(config), ImportFeedbackSettings())
"""


@dataclasses.dataclass
class Servers:
    """A store with the traces of a server, and its ledger."""

    base: Path
    config: E2EConfig

    def run(self, serving_experiment: str = "", **given):
        config = self.config
        if serving_experiment:
            config = dataclasses.replace(config, serving_experiment=serving_experiment)
        return import_feedback(config, open_store(config), ImportFeedbackSettings(**given))

    def trace(self, request_id: str, question: str = "What is MLflow?", history=()) -> None:
        asked = AnswerRequest({"question": question, "history": list(history)}, {}, request_id, "ask")
        now_ns = time.time_ns()
        experiment = mlflow.set_experiment(self.config.serving_experiment)
        record = Tracer(1.0, True)._record(asked, Answer("A platform."), VERSIONS, now_ns, now_ns + 10**6)
        trace_writer.write([record], experiment.experiment_id)

    def keep(self, request_id: str, **said) -> None:
        keeper = FeedbackKeeper(self.config.feedback_file, False, self.config.serving_experiment)
        asyncio.run(keeper.keep(SAID | {"request_id": request_id} | said))

    def assessments(self, request_id: str) -> list:
        found = mlflow.MlflowClient().search_traces(
            locations=[mlflow.get_experiment_by_name(self.config.serving_experiment).experiment_id],
            filter_string=f"tags.request_id = '{request_id}'",
        )
        return found[0].info.assessments


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """A database that the tests share; each has an experiment of its own."""
    where = folders(tmp_path_factory.mktemp("store"))
    open_store(E2EConfig(**where, tracking_uri=where["backend_store_uri"]))
    return where["backend_store_uri"]


@pytest.fixture
def servers(uri, tmp_path, monkeypatch) -> Servers:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # as the server's writer has it
    config = E2EConfig(
        **folders(tmp_path) | {"backend_store_uri": uri}, tracking_uri=uri, experiment_name=tmp_path.name,
        serving_experiment=f"serving-{tmp_path.name}", feedback_file=tmp_path / "feedback.jsonl",
    )  # fmt: skip
    open_store(config)
    mlflow.set_experiment(config.serving_experiment)  # a server's first start makes it
    return Servers(tmp_path, config)


def test_each_entry_becomes_an_assessment_of_its_trace_once(servers):
    servers.trace("r-1")
    servers.keep("r-1")
    servers.keep("r-1", value=None, comment="only words", name="score", source="bob")
    servers.keep("r-none")
    first, second = servers.run(), servers.run()
    assert (first.entries, first.imported, first.before, first.without_trace) == (3, 2, 0, ("r-none",))
    assert (second.entries, second.imported, second.before, second.without_trace) == (3, 0, 2, ("r-none",))
    for left in (servers.config.staging_dir / FOLDER).glob("*.json"):
        left.unlink()  # the memory only saves time
    assert (servers.run().imported, servers.run().before) == (0, 2)
    found = {item.name: item for item in servers.assessments("r-1")}
    assert len(servers.assessments("r-1")) == 2
    assert (found["helpful"].value, found["helpful"].rationale, found["helpful"].source.source_id) == (
        True,
        "clear",
        "ann",
    )
    assert (found["score"].value, found["score"].rationale) == (None, "only words")
    entry = json.loads(servers.config.feedback_file.read_text("utf-8").splitlines()[0])
    assert found["helpful"].create_time_ms == int(entry["time"] * 1000)


def test_a_process_that_was_killed_anywhere_is_simply_run_again(servers):
    for number in range(4):
        servers.trace(f"r-{number}")
        servers.keep(f"r-{number}")
    command = [sys.executable, "-c", KILLED_AFTER_TWO, str(servers.base), servers.config.tracking_uri]
    killed = forked.run(command, cwd=REPO)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = servers.run()
    assert (result.imported, result.before) == (2, 2)
    assert [len(servers.assessments(f"r-{number}")) for number in range(4)] == [1, 1, 1, 1]


def test_what_the_server_put_on_the_trace_is_not_there_twice(servers, monkeypatch):
    """Both know the line by its id; what an earlier server wrote has none."""
    servers.trace("r-1")
    keeper = FeedbackKeeper(servers.config.feedback_file, True, servers.config.serving_experiment)
    monkeypatch.setattr(feedback, "TRACE_WAIT_S", 60.0)
    assert asyncio.run(keeper.keep(SAID | {"request_id": "r-1"})) == "trace"
    keeper.stop()
    (there,) = servers.assessments("r-1")
    (entry,) = read_ledger(servers.config.feedback_file).entries
    assert there.metadata[served.ENTRY_METADATA] == entry.id and there.create_time_ms == entry.time_ms
    assert servers.run().before == 1 and len(servers.assessments("r-1")) == 1


def test_what_was_said_twice_is_on_the_trace_once(servers):
    servers.trace("r-1")
    servers.keep("r-1")
    servers.keep("r-1")
    servers.keep("r-1", value=False)
    assert (servers.run().imported, servers.run().before) == (2, 3) and len(servers.assessments("r-1")) == 2


def test_what_mlflow_does_not_take_is_named_and_the_others_are_attached(servers, capsys):
    for number in range(3):
        servers.trace(f"r-{number}")
        servers.keep(f"r-{number}")
    ledger = servers.config.feedback_file
    first, second, *others = ledger.read_text().splitlines()
    in_far_future = json.dumps(json.loads(second) | {"time": 1e30})  # no server writes that
    ledger.write_text("\n".join([first, in_far_future, *others, ""]))
    MODES["import-feedback"].run(servers.config, ImportFeedbackSettings())
    output = capsys.readouterr().out
    assert "2 attached to their traces" in output and "1 that MLflow does not take (-v says why): r-1" in output
    assert servers.run().refused == ("r-1",)


def test_a_trace_that_comes_late_gets_its_feedback_the_next_time(servers):
    servers.keep("r-1")
    assert servers.run().without_trace == ("r-1",)
    servers.trace("r-1")
    assert servers.run().imported == 1


def test_a_half_line_waits_and_a_broken_one_is_told(servers, capsys):
    servers.trace("r-1")
    servers.keep("r-1")
    with servers.config.feedback_file.open("a") as file:
        file.write('nonsense\n{"request_id": "r-1", "na')
    MODES["import-feedback"].run(servers.config, ImportFeedbackSettings())
    said = capsys.readouterr().out
    assert "1 attached to their traces, 0 were there before" in said
    assert "Not readable: feedback.jsonl, line 2: not valid JSON" in said and "half written" in said
    with servers.config.feedback_file.open("a") as file:
        file.write('me": "score", "source": "bob", "value": 1, "time": 1.0}\n')
    assert servers.run().imported == 1


def test_feedback_becomes_cases_that_the_evaluation_reads(servers, capsys):
    servers.trace("r-1")
    servers.trace("r-2", "What is a <b>{{token}}</b>?")
    servers.trace("r-3", "And then?", ["What is MLflow?", "A platform."])
    servers.trace("r-4", "Nobody judged this.")
    servers.keep("r-1", name="expected_answer", value="A platform for models.")
    servers.keep("r-2", value=False)
    servers.keep("r-3")
    target = servers.base / "out" / "cases.jsonl"
    MODES["import-feedback"].run(servers.config, ImportFeedbackSettings(to_cases=target))
    cases = read_case_file(target).cases
    assert {case.question: case.reference for case in cases} == {
        "What is MLflow?": "A platform for models.", "What is a <b>{{token}}</b>?": "",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "1 judged requests gave no case: the question is part of a conversation" in said and "2 cases in" in said
    with pytest.raises(ConfigError, match="is there already"):
        servers.run(to_cases=target)
    assert servers.run(to_cases=target, overwrite=True).cases == 2  # those imported before as well


def test_without_traces_and_without_a_ledger_nothing_happens(servers, tmp_path):
    assert servers.run() == servers.run(serving_experiment="elsewhere")
    servers.keep("r-1")
    result = servers.run(serving_experiment="elsewhere", to_cases=tmp_path / "cases.jsonl")
    assert result.without_trace == ("r-1",) and result.cases_file is None and not (tmp_path / "cases.jsonl").exists()


def test_two_at_once_do_not_attach_twice(servers):
    servers.keep("r-1")
    with only_run(servers.config.staging_dir / FOLDER), pytest.raises(Busy):
        servers.run()
