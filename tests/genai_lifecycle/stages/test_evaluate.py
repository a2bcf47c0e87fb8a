"""The evaluation on a real store, with the taught model behind a real registered version."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import mlflow
import pytest
from conftest import make_cases
from stand_in_judge import judging

from genai_lifecycle.errors import CasesInvalid, ConfigError, NotFound, TrackingUnavailable
from genai_lifecycle.evaluation import answering
from genai_lifecycle.evaluation.answer_cache import FOLDER
from genai_lifecycle.evaluation.evidence import StoredEvidence
from genai_lifecycle.evaluation.gate import Policy
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.models import generation
from genai_lifecycle.prompts import promotion
from genai_lifecycle.stages.evaluate import EvaluateSettings, run_evaluation
from genai_lifecycle.stages.rollback import RollbackSettings, roll_back
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import traces

ODD = "What is a <b>{{question}}</b>?"  # a case that every life has
CASES = {
    "tests": [
        {"vars": {"question": ODD, "reference": "A question with braces {x} 🙂."},
         "assert": [{"type": "contains", "value": "{x}"}, {"type": "latency", "threshold": 60000}]},
        {"vars": {"question": "What is a token?", "reference": "A token is a piece of a word."},
         "assert": [{"type": "icontains", "value": "PIECE"}, {"type": "not-contains", "value": "sorry"}]},
        {"vars": {"question": "What is MLflow?", "reference": "MLflow is an open platform for machine learning."}},
        {"vars": {"question": "What is an epoch?", "reference": "An epoch is one pass over the data."}},
        {"vars": {"question": "What is a tensor?", "reference": "A tensor is an array of numbers."}},
        {"vars": {"question": "What is a gradient?", "reference": "A gradient says where the loss falls."}},
        {"vars": {"question": "What is a label?", "reference": "A label is the right answer to an example."}},
    ]
}  # fmt: skip


@pytest.fixture
def configured(life, deployed, tmp_path):
    """The life's configuration with a case file of its own, its store, and settings with these prompts."""

    def make(*prompts: str, judge_model: str | None = None, **given):
        (tmp_path / "odd cases.yaml").write_text(json.dumps(CASES), "utf-8")
        config = dataclasses.replace(life.config, cases=tmp_path / "odd cases.yaml", judge_model=judge_model)
        return config, life.store, EvaluateSettings(**{"prompt": prompts, "model_version": ("candidate",)} | given)

    return make


@pytest.fixture(scope="module")
def evaluated(shared_life, deployed, tmp_path_factory) -> EvaluationResult:
    from genai_lifecycle.store.tracking_store import open_store

    store = open_store(shared_life.config)
    cases = tmp_path_factory.mktemp("cases") / "odd.yaml"
    cases.write_text(json.dumps(CASES), "utf-8")
    config = dataclasses.replace(shared_life.config, cases=cases)
    prompts = ("qa/1", "qa@production")
    return run_evaluation(config, store, EvaluateSettings(prompts, ("candidate",), label="nightly"))


def by_template(report: EvaluationResult, name: str):
    return next(item for item in report.results if item.prompt.template_name == name)


def traces_of(item) -> list:
    place = mlflow.get_experiment_by_name(item.experiment).experiment_id
    return mlflow.search_traces(locations=[place], run_id=item.run_id, return_type="list")


# --- what it leaves -------------------------------------------------------------------------------


def test_a_run_for_each_version_in_an_experiment_of_the_prompts_own(evaluated, life, deployed):
    assert [item.experiment for item in evaluated.results] == ["qa-eval", "qa-eval"]
    run = mlflow.get_run(by_template(evaluated, "expert").run_id)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert (params["prompt"], params["prompt_name"], params["prompt_version"]) == ("qa/3", "qa", "3")
    assert (params["model_version"], params["input"], params["label"]) == ("1", "odd.yaml: 7 cases", "nightly")
    assert {"latency_ms", "prompt_tokens", "completion_tokens", "total_tokens", "token_f1", "rouge_l", "exact_match",
            "log_likelihood", "repetition"} <= set(run.data.metrics)  # fmt: skip
    assert run.data.metrics["token_f1"] == run.data.metrics["token_f1/mean"] == 1.0
    assert run.data.metrics["contains/mean"] == 1.0
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == [evaluated.dataset]
    assert json.loads(run.data.tags["mlflow.linkedPrompts"]) == [{"name": "qa", "version": "3"}]


def test_every_row_has_its_trace_with_assessments_and_expectations(evaluated, deployed):
    assert (evaluated.cases, evaluated.rows) == (7, 14)
    for item in evaluated.results:
        found = {trace.data.spans[0].inputs["question"]: trace for trace in traces_of(item)}
        assert set(found) == {test["vars"]["question"] for test in CASES["tests"]}
        made = {a.name: a for a in found[ODD].info.assessments}
        assert {"token_f1", "rouge_l", "contains", "latency", "passed", "expected_response"} <= set(made)
        assert made["passed"].feedback.value is (item.prompt.template_name == "expert")
        assert {a.name for a in found["What is MLflow?"].info.assessments}.isdisjoint({"passed", "contains"})
        assert found[ODD].info.trace_metadata["mlflow.modelId"] == deployed.model_id
        assert found[ODD].info.token_usage["output_tokens"] > 0


@pytest.mark.slow
def test_a_case_file_may_have_any_name(life, deployed, tmp_path):
    """MLflow's filters have no escape for quotes; the evaluation is found, and can be made again."""
    cases = tmp_path / 'it\'s a "test".jsonl'
    cases.write_text(
        json.dumps({"question": "What is a token?", "reference": "A token is a piece of a word."}), "utf-8"
    )
    config = dataclasses.replace(life.config, cases=cases)
    for _ in range(2):
        report = run_evaluation(config, life.store, EvaluateSettings(("qa/3",), ("candidate",)))
    assert report.dataset.startswith('it\'s a "test"-')
    there = [item for item in mlflow.genai.datasets.search_datasets(max_results=50) if item.name == report.dataset]
    assert len(there) == 1
    assert mlflow.get_run(report.results[0].run_id).data.params["label"] == cases.stem


def test_a_question_with_braces_and_html_reaches_the_model_as_written(evaluated, life):
    for item in evaluated.results:
        trace = next(t for t in traces_of(item) if t.data.spans[0].inputs["question"] == ODD)
        spans = {span.name: span for span in trace.data.spans}
        assert spans["generate"].inputs["prompt"] == item.prompt.template.replace("{{question}}", ODD)
    served = mlflow.pyfunc.load_model(f"models:/{life.config.registered_model_name}@candidate")
    try:
        assert served.predict(ODD)[0]["answer"] == "A question with braces {x} 🙂."
    finally:
        served.unwrap_python_model().model.close()


def test_the_comparison_has_a_run_with_table_report_and_plot(evaluated, life, tmp_path):
    folder = Path(mlflow.artifacts.download_artifacts(run_id=evaluated.run_id, dst_path=str(tmp_path)))
    assert mlflow.get_run(evaluated.run_id).info.experiment_id == life.store.experiment_id
    assert (folder / "differences.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.md").read_text("utf-8")
    assert str(evaluated.verdict) in text
    assert mlflow.get_run(evaluated.run_id).data.tags["mlflow.note.content"] == text, "the UI shows it first"
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and rows[0]["question"] == ODD
    assert "contains: lacks '{x}'" in {row["failed"].split(";")[0] for row in rows}


def test_the_cases_are_a_dataset_of_mlflow(evaluated):
    found = mlflow.genai.datasets.search_datasets(filter_string=f"name = '{evaluated.dataset}'")
    assert len(found) == 1 and len(found[0].to_df()) == len(CASES["tests"])
    places = [mlflow.get_experiment(place).name for place in found[0].experiment_ids]
    assert {"langchain-e2e", "qa-eval"} <= set(places)


def test_the_ledger_is_gone_when_all_is_well(evaluated, life):
    assert list((life.config.staging_dir / FOLDER).iterdir()) == []


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_and_run_again_nothing_is_computed_twice(configured, life, monkeypatch):
    monkeypatch.setattr(answering, "BATCH", 1)
    given = configured("qa/3", "qa/1")
    compute, asked, most = generation.answer_cases, [], [4]

    def watched(model, template, cases, **more):
        if len(asked) in most:
            raise KeyboardInterrupt
        asked.append((template, cases[0].question))
        return compute(model, template, cases, **more)

    monkeypatch.setattr(generation, "answer_cases", watched)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(*given)
    most.clear()
    again = run_evaluation(*given)
    assert (again.rows, again.reused) == (14, 4)
    assert len(asked) == len(set(asked)) == 14
    assert all(len(traces_of(item)) == len(CASES["tests"]) for item in again.results)
    assert again.results[0].metrics["token_f1"] == 1.0


# --- the gate -------------------------------------------------------------------------------------


def live(name: str) -> int:
    return registry.require(name).aliases["production"]


@pytest.mark.slow
def test_worse_on_purpose_is_refused_better_is_promoted_and_rollback_restores(configured, life):
    template = registry.version_of(registry.require("qa"), 3).template
    worse = registry.register("gated", "Nonsense {{question}} nonsense:", "bad", {})
    registry.set_alias("gated", "production", worse)
    better = registry.register("gated", template, "good", {})
    good = run_evaluation(*configured(f"gated/{better}", "gated@production", promote=True))
    assert good.decision.allowed and live("gated") == better
    tags = registry.version_of(registry.require("gated"), better).tags
    assert tags["gate.decision"] == "passed" and "better than gated/1" in tags["gate.reasons"]
    verdict = mlflow.artifacts.load_dict(f"runs:/{good.run_id}/decision.json")
    assert verdict["subject"] == f"gated/{better}" and verdict["passed"] is True

    assert str(good.in_production) == f"gated/{better}"
    again = run_evaluation(*configured(f"gated/{worse}", "gated@production", promote=True))
    assert (again.decision, str(again.in_production)) == (None, f"gated/{better}"), "the winner is there already"

    gate = promotion.Gate(Policy(), StoredEvidence())
    stored = registry.require("gated")
    refused = promotion.promote(stored, registry.version_of(stored, worse), gate)
    assert not refused.allowed and refused.reasons[0].startswith("worse than gated/2"), "what is wrong comes first"
    assert live("gated") == better

    gated = RollbackSettings(prompt=("gated",))
    (result,) = roll_back(life.config, gated)
    assert (result.name, result.version, result.replaced, live("gated")) == ("gated", "1", "2", worse)
    roll_back(life.config, gated)
    assert live("gated") == better


def test_a_prompt_that_was_never_evaluated_is_refused(life, deployed):
    registry.register("unknown", "{{question}}", "first", {})
    stored = registry.require("unknown")
    decision = promotion.promote(stored, registry.version_of(stored, 1), promotion.Gate(Policy(), StoredEvidence()))
    assert str(decision) == "refused: it was not evaluated"


# --- what goes wrong, and small things ------------------------------------------------------------


def test_lost_rows_are_no_success(configured, life, monkeypatch):
    write = traces.write
    monkeypatch.setattr(traces, "write", lambda batch, *args: write(batch[1:], *args))
    with pytest.raises(TrackingUnavailable, match="MLflow stored 6 of 7 rows"):
        run_evaluation(*configured("qa/1"))
    while mlflow.active_run():
        mlflow.end_run("FAILED")


def test_prompts_models_and_scorers_that_are_not_there(configured, life):
    for prompts, error, what in (
        (["none@production"], NotFound, "no prompt 'none'"), (["qa@none"], NotFound, "has no 'none'"),
        (["qa/9"], NotFound, "no version 9"), (["a b"], ConfigError, "not named as one"),
    ):  # fmt: skip
        with pytest.raises(error, match=what):
            run_evaluation(*configured(*prompts))
    with pytest.raises(NotFound, match="no version '77'"):
        run_evaluation(*configured("qa/1", model_version=("77",)))
    for scorer, what in (("Nonsense", "no scorer 'Nonsense'"), ("Correctness", "needs a judge"),
                         ("RegexMatch", "more than a name")):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            run_evaluation(*configured("qa/1", scorer=(scorer,)))


def test_a_variable_that_a_case_lacks_is_named_with_its_line(configured, life):
    registry.register("topical", "{{topic}}: {{question}}", "x", {})
    with pytest.raises(CasesInvalid, match="line 1: the prompt topical/1 needs the variable 'topic'"):
        run_evaluation(*configured("topical"))


def test_the_models_own_prompt_and_a_scorer_that_needs_no_judge(life, deployed, tmp_path):
    config = dataclasses.replace(life.config, cases=make_cases(tmp_path / "c.jsonl"))
    settings = EvaluateSettings(scorer=("PIIDetection",), model_version=("1",))
    report = run_evaluation(config, life.store, settings)
    assert [item.label for item in report.results] == ["qa/3"]
    assert report.verdict is None
    assert {a.name for a in traces_of(report.results[0])[0].info.assessments} >= {"pii_detection", "token_f1"}


@pytest.mark.slow
def test_a_judge_is_asked_through_mlflow_and_one_that_fails_is_told(configured, life, monkeypatch):
    with judging(monkeypatch) as judge:
        report = run_evaluation(*configured("qa/3", judge_model="openai:/judge"))
        assert report.judge == "Correctness, RelevanceToQuery by openai:/judge"
        assert len(judge.asked) == 1 + 14, "it is tried with one question first"
        for trace in traces_of(report.results[0]):
            said = {a.name: a.feedback.value for a in trace.info.assessments if a.feedback}
            assert (said["correctness"], said["relevance_to_query"]) == ("yes", "yes")
        judge.content = "I like it."
        report = run_evaluation(*configured("qa/3", scorer=("Correctness",), judge_model="openai:/judge"))
        assert report.judge == "Correctness by openai:/judge; 7 answers were not judged"
        assert report.results[0].metrics["token_f1"] == 1.0
