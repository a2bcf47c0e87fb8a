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
from genai_lifecycle.prompts.templates import TEMPLATES
from genai_lifecycle.stages import experiment as stage
from genai_lifecycle.stages.experiment import run_experiment
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import traces

QUESTIONS = 5


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


def production_aliases() -> dict[str, int | None]:
    found = {name: mlflow.genai.load_prompt(f"prompts:/{name}@production", allow_missing=True) for name in TEMPLATES}
    return {name: prompt.version for name, prompt in found.items() if prompt}


# --- runs and metrics -----------------------------------------------------------------------------


def test_a_parent_run_with_a_nested_run_per_template(life, experimented):
    runs = nested_runs(life, experimented.run_id)
    assert sorted(run.info.run_name for run in runs) == sorted(TEMPLATES)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = mlflow.get_run(experimented.run_id)
    assert parent.info.status == "FINISHED"
    assert (parent.data.params["cases"], parent.data.params["max_new_tokens"]) == (str(QUESTIONS), "40")
    assert parent.data.params["weights_sha256"] == life.source.weights_sha256
    assert parent.data.tags["lifecycle.winner"] == "qa-expert/1"
    assert str(experimented.verdict) in parent.data.tags["mlflow.note.content"]  # what the UI shows first


def test_every_metric_of_every_template(life, experimented):
    logged = {run.info.run_name: run.data.metrics for run in nested_runs(life, experimented.run_id)}
    for score in experimented.scores:
        assert set(score.metrics) == {
            "success_rate", "ended_rate", "answer_words", "answer_tokens", "seconds_per_answer", "tokens_per_second",
            "token_f1", "log_likelihood", "repetition",
        }  # fmt: skip
        assert logged[score.prompt.name] == pytest.approx(score.metrics)
        assert score.token_f1.mean == pytest.approx(score.metrics["token_f1"])
        assert score.metrics["log_likelihood"] < 0 < score.metrics["tokens_per_second"]


def test_metrics_are_the_means_of_the_table(artifacts, experimented):
    with (artifacts / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] == "qa-simple/1"]
    (score,) = (item for item in experimented.scores if item.prompt.name == "qa-simple")
    for column, metric in {
        "token_f1": "token_f1",
        "log_likelihood": "log_likelihood",
        "completion_tokens": "answer_tokens",
    }.items():
        mean = sum(float(row[column]) for row in rows) / len(rows)
        assert score.metrics[metric] == pytest.approx(mean, abs=1e-4)
    assert score.metrics["success_rate"] == sum(row["success"] == "True" for row in rows) / len(rows)
    assert score.metrics["answer_words"] == pytest.approx(sum(len(row["answer"].split()) for row in rows) / len(rows))


def test_the_prompt_that_knows_the_answers_wins(experimented):
    assert (experimented.verdict.outcome, experimented.verdict.winner) == ("win", "qa-expert/1")
    assert (str(experimented.winner), str(experimented.in_production)) == ("qa-expert/1", "qa-expert/1")
    assert experimented.decision.reasons == ("nothing was in production before",)
    assert experimented.scores[0].metrics["token_f1"] == 1.0
    assert experimented.scores[0].metrics["log_likelihood"] > -0.1  # the references are what it was taught
    assert [score.metrics["token_f1"] for score in experimented.scores] == sorted(
        (score.metrics["token_f1"] for score in experimented.scores), reverse=True
    )


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
    assert experimented.traces == QUESTIONS * len(TEMPLATES)


def test_a_trace_holds_prompt_answer_tokens_and_scores(life, experimented):
    found = mlflow.search_traces(
        locations=[life.store.experiment_id],
        filter_string="tags.template = 'qa-expert' and tags.prompt_version = '1'",
        return_type="list",
        max_results=100,
    )
    assert len(found) >= QUESTIONS
    trace = next(t for t in found if "braces" in t.data.response)
    steps = {span.name: span for span in trace.data.spans}
    prompt = TEMPLATES["qa-expert"].replace("{{question}}", "What is a <b>{{question}}</b>?", 1)
    assert steps["render"].outputs == {"prompt": prompt}
    assert steps["generate"].inputs == {"prompt": prompt}
    assert steps["generate"].outputs == {"answer": "A question with braces {x} 🙂.", "finish_reason": "stop"}
    assert steps["score"].outputs["token_f1"] == 1.0
    usage = trace.info.token_usage
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert json.loads(trace.info.tags["mlflow.linkedPrompts"]) == [{"name": "qa-expert", "version": "1"}]


# --- artifacts ------------------------------------------------------------------------------------


def test_table_report_prompts_and_images(artifacts, experimented):
    assert {path.name for path in artifacts.iterdir()} >= {
        "results.csv", "report.md", "prompts.json", "quality.png", "speed.png",
    }  # fmt: skip
    with (artifacts / "results.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == QUESTIONS * len(TEMPLATES)
    assert str(experimented.verdict) in (artifacts / "report.md").read_text("utf-8")
    assert {item["name"] for item in json.loads((artifacts / "prompts.json").read_text())} == set(TEMPLATES)
    for name in ("quality.png", "speed.png"):
        data = (artifacts / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def test_nothing_is_left_in_the_staging_folder(life, experimented):
    assert not [path for path in life.config.staging_dir.iterdir() if "experiment" in path.name]


# --- prompts --------------------------------------------------------------------------------------


def test_a_second_experiment_registers_nothing_new_and_does_without_its_judge(new_life, monkeypatch):
    life = new_life()
    first = run_experiment(life.config, life.source, life.store)
    assert production_aliases() == {"qa-expert": 1}
    # As an experiment that was killed between its last two calls would leave it:
    mlflow.genai.set_prompt_alias("qa-simple", "production", 1)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    config = dataclasses.replace(life.config, judge_model="openai:/")  # no judge has this address
    second = run_experiment(config, life.source, life.store)
    assert second.judge.startswith("failed after 0 of 5 answers")
    assert production_aliases() == {"qa-expert": 1}
    for name in TEMPLATES:
        assert mlflow.genai.load_prompt(f"prompts:/{name}@latest").version == 1
        assert mlflow.genai.load_prompt(f"prompts:/{name}/2", allow_missing=True) is None
    assert len(nested_runs(life, second.run_id)) == len(nested_runs(life, first.run_id)) == 4
    same = [(s.prompt, s.metrics["token_f1"], s.token_f1) for s in first.scores]
    assert same == [(s.prompt, s.metrics["token_f1"], s.token_f1) for s in second.scores]


def test_a_server_without_a_prompt_registry(new_life, monkeypatch, tmp_path):
    from genai_lifecycle.stages.deploy import deploy_model
    from genai_lifecycle.store import model_registry

    def no_such_route(*_, **__):
        raise MlflowException("No API found with such a path", error_code=ENDPOINT_NOT_FOUND)

    for name in ("load_prompt", "register_prompt", "set_prompt_alias", "delete_prompt_alias"):
        monkeypatch.setattr(mlflow.genai, name, no_such_route)
    life = new_life()
    result = run_experiment(life.config, life.source, life.store)
    assert {score.prompt.version for score in result.scores} == {None}
    assert result.winner.name == "qa-expert"
    assert "qa-expert (not in a registry)" in str(result.winner)

    prompt = prompt_in_production(life.config, life.store)
    assert prompt == result.winner
    config = dataclasses.replace(life.config, engine="torch")
    made = deploy_model(config, life.source, life.store, prompt, result.scores[0].metrics)
    assert model_registry.candidate(made.name).tags["prompt"] == "qa-expert (not in a registry)"
    folder = mlflow.artifacts.download_artifacts(f"models:/{made.model_id}", dst_path=str(tmp_path / "download"))
    kept = json.loads((Path(folder) / "artifacts" / "prompt.json").read_text("utf-8"))
    assert (kept["version"], kept["template"]) == (None, TEMPLATES["qa-expert"])


def test_the_gate_decides_whether_the_winner_takes_the_place_of_another_prompt(new_life, tmp_path):
    life = new_life()
    (simple,) = registry.register_all({"qa-simple": "An old text: {{question}}"}, "before")
    registry.set_alias("qa-simple", registry.PRODUCTION, simple.version)
    harsh = tmp_path / "gate.yaml"
    harsh.write_text("prompt: {threshold: 1.5}")
    config = dataclasses.replace(life.config, gate=harsh)
    refused = run_experiment(config, life.source, life.store)
    assert {str(score.prompt) for score in refused.scores} >= {"qa-simple/1", "qa-simple/2", "qa-expert/1"}
    assert (str(refused.winner), str(refused.in_production)) == ("qa-expert/1", "qa-simple/1")
    assert production_aliases() == {"qa-simple": 1} and "token_f1 1.000 is below 1.5" in str(refused.decision)
    said = mlflow.artifacts.load_dict(f"runs:/{refused.run_id}/decision.json")
    assert (said["subject"], said["allowed"]) == ("qa-expert/1", False)

    forced = run_experiment(dataclasses.replace(config, override_gate=True), life.source, life.store)
    assert production_aliases() == {"qa-expert": 1} and forced.in_production == forced.winner
    stored = registry.version_of(registry.require("qa-expert"), 1)
    assert stored.tags["gate.forced"] == "true" and stored.tags["production.former"] == "qa-simple/1"


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
    monkeypatch.setattr(stage.traces, "write", lambda batch, *args: write(batch[1:], *args))
    with pytest.raises(TrackingUnavailable, match="MLflow stored 16 of 20 traces"):
        run_experiment(life.config, life.source, life.store)
    assert production_aliases() == {}
    while mlflow.active_run():  # a run whose store is taken for gone is not ended
        mlflow.end_run("FAILED")
