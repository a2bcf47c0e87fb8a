"""Names with quotes, backslashes and wildcards in MLflow's filters: what has that name is found, and nothing else."""

from __future__ import annotations

import asyncio

import mlflow
import pytest

from genai_lifecycle.errors import NotFound
from genai_lifecycle.store import evaluations, runs, served
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.maintenance import inventory
from genai_server.errors import UnknownPrompt
from genai_server.feedback import keeper as server_feedback
from genai_server.feedback.keeper import FeedbackKeeper
from genai_server.prompts.registry import PromptRegistry

pytestmark = pytest.mark.slow


NAMES = ["it's", 'a "test"', 'it\'s a "test".jsonl', "back\\", "' or ''='", "100%", "a_b", "a;b -- c", "in ('a')"]
OTHERS = ["it_s", "itXs", "backX", "axb", "anything"]  # what a wildcard would take for one of them


@pytest.fixture
def named(store):
    """A run, a trace and a registered model for each name."""
    for name in (*NAMES, *OTHERS):
        with runs.run("r", evaluations.STAGE) as run_id:
            runs.log_results({"prompt": name, "model_name": name, "model_version": "1", "weights_sha256": name}, {})
            runs.set_tag(run_id, "own", name)
        mlflow.start_span_no_context("ask", tags={"request_id": name}).end()
        mlflow.MlflowClient().create_registered_model(name)
        mlflow.MlflowClient().create_model_version(name, "/nowhere")
    mlflow.flush_trace_async_logging()
    return store


def test_each_is_found_by_its_own_name(named):
    for name in NAMES:
        (found,) = evaluations.evaluations_of(name)
        assert found[1]["prompt"] == name
        trace_id, _ = served.trace_of(named.experiment_id, name)
        assert mlflow.get_trace(trace_id).info.tags["request_id"] == name
        measured = served.baseline(name, name, "1")
        assert mlflow.get_run(measured.run_id).data.tags["own"] == name
        assert [version.name for version in inventory.versions(name)] == [name]
    assert {version.name for version in inventory.versions()} == {*NAMES, *OTHERS}


def test_a_name_that_nothing_has_finds_nothing(named):
    for name in ("nobody's", 'nobody\'s "x"', "_", "%", "it''s", "\\", "'"):
        assert evaluations.evaluations_of(name) == []
        assert served.trace_of(named.experiment_id, name) is None
        assert served.baseline(name, name, "1") is None
        assert registry.find(name) is None
        with pytest.raises(NotFound, match="There is no prompt"):
            registry.require(name)
        with pytest.raises(UnknownPrompt, match="There is no prompt"):
            PromptRegistry(named.uri).get(name)


def test_a_dataset_is_registered_once_whatever_its_file_is_called(store):
    records = [{"inputs": {"question": "Q"}, "expectations": {"expected_response": "A"}}]
    for name in (*NAMES, *OTHERS, *NAMES):
        assert evaluations.register_dataset([store.experiment_id], name, records) == name
    there = mlflow.genai.datasets.search_datasets(max_results=100)
    assert sorted(item.name for item in there) == sorted([*NAMES, *OTHERS])


def test_feedback_goes_to_the_request_of_that_id(named, tmp_path, monkeypatch):
    monkeypatch.setattr(server_feedback, "TRACE_WAIT_S", 60.0)
    keeper = FeedbackKeeper(tmp_path / "ledger.jsonl", True, mlflow.get_experiment(named.experiment_id).name)
    said = {"name": "helpful", "value": True, "comment": None, "source": "ann"}
    assert asyncio.run(keeper.keep(said | {"request_id": "it's"})) == "trace"
    assert asyncio.run(keeper.keep(said | {"request_id": "it''s"})) == "ledger"
    trace_id, there = served.trace_of(named.experiment_id, "it's")
    assert len(there) == 1 and served.trace_of(named.experiment_id, "it_s")[1] == ()
