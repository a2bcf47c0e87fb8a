"""The experiment on a real store: runs, traces, metrics, artifacts, and the prompt that goes into production."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

from genai_lifecycle.errors import CasesInvalid, TrackingUnavailable
from genai_lifecycle.prompts.production import prompt_in_production
from genai_lifecycle.prompts.templates import PROMPT, TEMPLATES
from genai_lifecycle.stages import experiment as stage
from genai_lifecycle.stages.experiment import run_experiment
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import traces

QUESTIONS = 9


@pytest.fixture(scope="module")
def artifacts(experimented, shared_life, tmp_path_factory):
    """The experiment's artifacts, downloaded."""
    from genai_lifecycle.store.tracking_store import open_store

    open_store(shared_life.config)
    folder = tmp_path_factory.mktemp("artifacts")
    mlflow.artifacts.download_artifacts(run_id=experimented.run_id, dst_path=str(folder))
    return folder


def nested_runs(life, run_id):
    return mlflow.MlflowClient().search_runs(
        [life.store.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'"
    )


def in_production() -> str:
    return str(registry.in_production(PROMPT))


# --- runs and metrics -----------------------------------------------------------------------------


def test_a_parent_run_with_a_nested_run_per_template(life, experimented):
    runs = nested_runs(life, experimented.run_id)
    assert sorted(run.info.run_name for run in runs) == [
        "qa/1 simple",
        "qa/2 conversational",
        "qa/3 expert",
        "qa/4 educational",
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = mlflow.get_run(experimented.run_id)
    assert parent.info.status == "FINISHED"
    assert (parent.data.params["cases"], parent.data.params["max_new_tokens"]) == (str(QUESTIONS), "40")
    assert parent.data.params["weights_sha256"] == life.source.weights_sha256
    assert parent.data.tags["lifecycle.winner"] == "qa/3"
    assert str(experimented.verdict) in parent.data.tags["mlflow.note.content"]  # what the UI shows first


def test_every_metric_of_every_template(life, experimented):
    logged = {run.info.run_name: run.data.metrics for run in nested_runs(life, experimented.run_id)}
    for result in experimented.results:
        assert set(result.metrics) == {
            "success_rate", "ended_rate", "answer_words", "seconds_per_answer", "tokens_per_second", "latency_ms",
            "prompt_tokens", "completion_tokens", "total_tokens", "token_f1", "rouge_l", "exact_match",
            "log_likelihood", "repetition",
        }  # fmt: skip
        assert {name: logged[result.label][name] for name in result.metrics} == pytest.approx(result.metrics)
        assert result.scores["token_f1"].mean == pytest.approx(result.metrics["token_f1"])
        assert result.metrics["log_likelihood"] < 0 < result.metrics["tokens_per_second"]


def test_the_templates_stand_side_by_side_with_their_assessments(life, experimented):
    """What MLflow's page "Evaluation runs" lists: runs with a dataset, and traces with assessments."""
    for run in nested_runs(life, experimented.run_id):
        assert [item.dataset.name for item in run.inputs.dataset_inputs] == [experimented.dataset]
        found = mlflow.search_traces(
            locations=[life.store.experiment_id], run_id=run.info.run_id, return_type="list", max_results=100
        )
        for trace in found:
            assert {"token_f1", "rouge_l", "exact_match", "log_likelihood", "expected_response"} <= {
                item.name for item in trace.info.assessments
            }


def test_metrics_are_the_means_of_the_table(artifacts, experimented):
    with (artifacts / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] == "qa/1 simple"]
    (result,) = (item for item in experimented.results if item.prompt.template_name == "simple")
    for name in ("token_f1", "log_likelihood", "rouge_l"):
        mean = sum(json.loads(row["scores"])[name] for row in rows) / len(rows)
        assert result.metrics[name] == pytest.approx(mean, abs=1e-4)
    mean = sum(float(row["completion_tokens"]) for row in rows) / len(rows)
    assert result.metrics["completion_tokens"] == pytest.approx(mean)
    words = [len(row["answer"].split()) for row in rows]
    assert result.metrics["answer_words"] == pytest.approx(sum(words) / len(words))


def test_the_prompt_that_knows_the_answers_wins(experimented):
    assert (experimented.verdict.outcome, experimented.verdict.winner) == ("win", "qa/3 expert")
    assert (str(experimented.winner.prompt), str(experimented.in_production)) == ("qa/3", "qa/3")
    assert str(experimented.decision) == "passed: token_f1 1.000 is at least 0; no latency was measured"
    assert experimented.winner.metrics["token_f1"] == 1.0
    assert experimented.winner.metrics["log_likelihood"] > -0.1  # the references are what it was taught
    f1 = [result.metrics["token_f1"] for result in experimented.results]
    assert f1 == sorted(f1, reverse=True)


def test_the_judge_is_said_to_be_skipped(experimented, artifacts):
    assert experimented.judge.startswith("skipped: no judge model is configured")
    assert experimented.judge in (artifacts / "report.md").read_text("utf-8")


# --- traces ---------------------------------------------------------------------------------------


def test_one_trace_per_answer_with_its_steps(life, experimented):
    for run in nested_runs(life, experimented.run_id):
        found = mlflow.search_traces(
            locations=[life.store.experiment_id], run_id=run.info.run_id, return_type="list", max_results=100
        )
        assert len(found) == QUESTIONS
        for trace in found:
            root, *steps = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
            assert (root.name, root.parent_id) == ("answer", None)
            assert [step.name for step in steps] == ["render", "generate", "score"]
            assert [step.span_type for step in steps] == ["PARSER", "LLM", "EVALUATOR"]
            assert {step.parent_id for step in steps} == {root.span_id}
            assert all(root.start_time_ns <= s.start_time_ns <= s.end_time_ns <= root.end_time_ns for s in steps)
    assert experimented.rows == QUESTIONS * len(TEMPLATES)


def test_a_trace_holds_prompt_answer_tokens_and_scores(life, experimented):
    found = mlflow.search_traces(
        locations=[life.store.experiment_id],
        filter_string="tags.template = 'expert' and tags.prompt_version = '3'",
        return_type="list",
        max_results=100,
    )
    assert len(found) >= QUESTIONS
    trace = next(t for t in found if "braces" in t.data.response)
    steps = {span.name: span for span in trace.data.spans}
    prompt = TEMPLATES["expert"].replace("{{question}}", "What is a <b>{{question}}</b>?", 1)
    assert steps["render"].outputs == {"prompt": prompt}
    assert steps["generate"].inputs == {"prompt": prompt}
    assert steps["generate"].outputs == {"answer": "A question with braces {x} 🙂.", "finish_reason": "stop"}
    assert steps["score"].outputs["log_likelihood"] > -0.1
    usage = trace.info.token_usage
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert json.loads(trace.info.tags["mlflow.linkedPrompts"]) == [{"name": "qa", "version": "3"}]


# --- artifacts ------------------------------------------------------------------------------------


def test_table_report_prompts_and_images(artifacts, experimented):
    assert {path.name for path in artifacts.iterdir()} >= {
        "results.csv", "report.md", "prompts.json", "quality.png", "speed.png",
    }  # fmt: skip
    with (artifacts / "results.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == QUESTIONS * len(TEMPLATES)
    assert str(experimented.verdict) in (artifacts / "report.md").read_text("utf-8")
    assert {item["template_name"] for item in json.loads((artifacts / "prompts.json").read_text())} == set(TEMPLATES)
    for name in ("quality.png", "speed.png"):
        data = (artifacts / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def test_nothing_is_left_in_the_staging_folder(life, experimented):
    assert not [path for path in life.config.staging_dir.iterdir() if "experiment" in path.name]


# --- prompts --------------------------------------------------------------------------------------


def test_one_prompt_has_a_version_for_each_template(life, experimented):
    stored = registry.versions(registry.require(PROMPT))
    assert {version.tags["template"]: version.template for version in stored} == TEMPLATES
    assert registry.require(PROMPT).aliases == {"production": 3}


@pytest.mark.slow
def test_a_second_experiment_registers_nothing_new_and_does_without_its_judge(new_life, monkeypatch):
    life = new_life()
    first = run_experiment(life.config, life.source, life.store)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    config = dataclasses.replace(life.config, judge_model="openai:/")  # no judge has this address
    second = run_experiment(config, life.source, life.store)
    assert second.judge.startswith("skipped: openai:/ failed: ")
    assert in_production() == "qa/3" and second.decision is None
    assert registry.require(PROMPT).latest == 4
    assert len(nested_runs(life, second.run_id)) == len(nested_runs(life, first.run_id)) == 4
    same = [(item.prompt, item.metrics["token_f1"], item.scores["token_f1"]) for item in first.results]
    assert same == [(item.prompt, item.metrics["token_f1"], item.scores["token_f1"]) for item in second.results]


@pytest.mark.slow
def test_interrupted_and_run_again_nothing_is_computed_twice(new_life, monkeypatch):
    life, asked = new_life(), []
    answer = stage.answer_cases

    def watched(model, template, cases, **more):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(template)
        return answer(model, template, cases, **more)

    monkeypatch.setattr(stage, "answer_cases", watched)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(life.config, life.source, life.store)
    monkeypatch.setattr(stage, "answer_cases", answer)
    again = run_experiment(life.config, life.source, life.store)
    assert (again.reused, again.rows) == (2 * QUESTIONS, 4 * QUESTIONS)
    assert in_production() == "qa/3"
    assert ["tokens_per_second" in item.metrics for item in sorted(again.results, key=lambda item: item.label)] == [
        False, False, True, True,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_server_without_a_prompt_registry(new_life, monkeypatch, tmp_path):
    from genai_lifecycle.stages.deploy import DeploySettings, deploy_model
    from genai_lifecycle.store import model_registry

    def no_such_route(*_, **__):
        raise MlflowException("No API found with such a path", error_code=ENDPOINT_NOT_FOUND)

    for name in ("register_prompt", "set_prompt_alias", "delete_prompt_alias"):
        monkeypatch.setattr(mlflow.genai, name, no_such_route)
    monkeypatch.setattr(mlflow, "search_registered_models", no_such_route)
    life = new_life()
    result = run_experiment(life.config, life.source, life.store)
    assert {item.prompt.version for item in result.results} == {None}
    assert (result.winner.label, str(result.in_production)) == ("qa (expert)", "qa (expert)")

    prompt = prompt_in_production(life.config, life.store)
    assert prompt == result.winner.prompt
    config = dataclasses.replace(life.config, engine="torch")
    made = deploy_model(config, life.source, life.store, prompt, result.winner.metrics, DeploySettings())
    assert made.model_version.tags["prompt"] == "qa (expert)"
    assert model_registry.candidate(made.model_version.name).version == made.model_version.version
    folder = mlflow.artifacts.download_artifacts(f"models:/{made.model_id}", dst_path=str(tmp_path / "download"))
    kept = json.loads((Path(folder) / "artifacts" / "prompt.json").read_text("utf-8"))
    assert (kept["version"], kept["template"]) == (None, TEMPLATES["expert"])


@pytest.mark.slow
def test_the_gate_decides_whether_the_winner_takes_the_place_of_another_version(new_life, tmp_path):
    life = new_life()
    number = registry.register(PROMPT, "An old text: {{question}}", "before", {})
    registry.set_alias(PROMPT, registry.PRODUCTION, number)
    harsh = tmp_path / "gate.yaml"
    harsh.write_text("prompt: {threshold: 1.5}")
    config = dataclasses.replace(life.config, gate=harsh)
    refused = run_experiment(config, life.source, life.store)
    assert {str(item.prompt) for item in refused.results} == {f"qa/{number}" for number in range(1, 6)}
    assert (str(refused.winner.prompt), str(refused.in_production)) == ("qa/4", "qa/1")
    assert in_production() == "qa/1" and "token_f1 1.000 is below 1.5" in str(refused.decision)
    decision = mlflow.artifacts.load_dict(f"runs:/{refused.run_id}/decision.json")
    assert (decision["subject"], decision["allowed"]) == ("qa/4", False)

    forced = run_experiment(dataclasses.replace(config, override_gate=True), life.source, life.store)
    assert in_production() == "qa/4" and forced.in_production == forced.winner.prompt
    stored = registry.version_of(registry.require(PROMPT), 4)
    assert stored.tags["gate.forced"] == "true" and stored.tags["production.former"] == "1"
    assert registry.require(PROMPT).aliases == {"production": 4, "previous": 1}


@pytest.mark.slow
def test_refused_with_nothing_in_production_leaves_nothing_there(new_life, tmp_path):
    life = new_life()
    (tmp_path / "gate.yaml").write_text("prompt: {threshold: 1.5}")
    config = dataclasses.replace(life.config, gate=tmp_path / "gate.yaml")
    refused = run_experiment(config, life.source, life.store)
    assert refused.in_production is None and not refused.decision.allowed and in_production() == "None"


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_bad_case_file_leaves_no_run(life, tmp_path):
    before = len(mlflow.MlflowClient().search_runs([life.store.experiment_id]))
    (tmp_path / "cases.jsonl").write_text("{}\n")
    config = dataclasses.replace(life.config, cases=tmp_path / "cases.jsonl")
    with pytest.raises(CasesInvalid, match="line 1"):
        run_experiment(config, life.source, life.store)
    assert len(mlflow.MlflowClient().search_runs([life.store.experiment_id])) == before


def test_lost_traces_end_the_experiment_and_nothing_goes_into_production(new_life, monkeypatch):
    life = new_life()
    write = traces.write
    monkeypatch.setattr(traces, "write", lambda batch, *args: write(batch[1:], *args))
    with pytest.raises(TrackingUnavailable, match="MLflow stored 8 of 9 rows"):
        run_experiment(life.config, life.source, life.store)
    assert in_production() == "None"
    while mlflow.active_run():  # a run whose store is taken for gone is not ended
        mlflow.end_run("FAILED")
