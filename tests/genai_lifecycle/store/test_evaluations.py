"""What MLflow is told during an evaluation, and how its variables are left; the rest is in stages/test_evaluate.py."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest

from genai_lifecycle.evaluation.evidence import Evidence, StoredEvidence, write_scores
from genai_lifecycle.store import evaluations, runs, traces
from genai_lifecycle.store.evaluations import Assessment, Row, _settings
from genai_lifecycle.store.prompt_registry import PromptRef

PROMPT = PromptRef("qa", None, "{{question}}")


def write_traces(run_id: str, count: int) -> None:
    step = traces.Step("generate", "LLM", 1, 2, {}, {})
    made = [traces.AnswerTrace(f"Q{i}", "A", (step,), {evaluations.CASE_TAG: str(i)}) for i in range(count)]
    traces.write(list(reversed(made)), run_id, PROMPT)
    traces.flush(count, lambda: 0)


def test_scores_land_on_the_trace_of_their_case(store, capsys):
    rows = [Row([Assessment("f", i / 10, True, "", is_check=False)], {"expected_response": str(i)}) for i in range(5)]
    advanced = []
    with runs.run("r", evaluations.STAGE) as run_id:
        write_traces(run_id, 5)
        found = evaluations.evaluate(store, run_id, rows, (), advanced.append)
    assert (found.rows, found.judge_failures, sum(advanced)) == (5, 0, 5)
    assert mlflow.get_run(run_id).data.metrics["f/mean"] == pytest.approx(0.2)
    for trace in mlflow.search_traces(locations=[store.experiment_id], run_id=run_id, return_type="list"):
        number = int(trace.info.tags[evaluations.CASE_TAG])
        values = {a.name: (a.feedback or a.expectation).value for a in trace.info.assessments}
        assert values == {"f": number / 10, "expected_response": str(number)}
    assert capsys.readouterr() == ("", ""), "MLflow's bar and its advertisement"


def test_mlflows_variables_are_as_before_and_the_users_own_stay(monkeypatch):
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", "7")
    monkeypatch.delenv("MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT", raising=False)
    with _settings("1", judged=False):
        assert os.environ["MLFLOW_GENAI_EVAL_MAX_WORKERS"] == "7"
        assert os.environ["MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT"] == "0"
    assert "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT" not in os.environ
    with _settings("4", judged=True):
        assert "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT" not in os.environ, "a judge behind a network is not overrun"


def log_evaluation(prompt: str, cases: str, value: float, folder: Path) -> None:
    params = dict.fromkeys(evaluations._SAME, "x") | {"prompt": prompt, "cases_sha256": cases}
    with runs.run(prompt, evaluations.STAGE):
        runs.log_results(params, {})
        write_scores(folder, Evidence(prompt, cases, {"token_f1": (value,)}, (1.0,)))
        runs.log_folder(folder)


def test_evidence_about_two_versions_is_over_the_same_cases(store, tmp_path):
    (tmp_path / "files").mkdir()
    for prompt, cases, value in (("p/2", "old", 0.2), ("p/1", "old", 0.1), ("p/2", "new", 0.9)):
        log_evaluation(prompt, cases, value, tmp_path / "files")
    assert StoredEvidence()("p/2") == Evidence("p/2", "new", {"token_f1": (0.9,)}, (1.0,)), "the newest"
    look_up = StoredEvidence()
    assert (look_up("p/1").cases_sha256, look_up("p/2").cases_sha256) == ("old", "old")
    assert StoredEvidence()("p/3") is None
