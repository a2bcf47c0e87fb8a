"""The deployed version: its alias, files, signature, requirements, links, and golden answers."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest

from genai_lifecycle.errors import CasesInvalid, LifecycleError
from genai_lifecycle.models import packaging
from genai_lifecycle.models.fingerprint import artifacts_sha256
from genai_lifecycle.models.generation import greedy_answers, load_text_model
from genai_lifecycle.models.packaging import ENGINE_REQUIREMENTS, REQUIREMENTS
from genai_lifecycle.models.source import weights_sha256
from genai_lifecycle.stages.deploy import DeploySettings, deploy_model
from genai_lifecycle.store import model_registry

PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".cloudpickle")


@pytest.fixture(scope="module")
def package(deployed, shared_life, tmp_path_factory) -> Path:
    """The registered version, downloaded."""
    from genai_lifecycle.store.tracking_store import open_store

    open_store(shared_life.config)
    folder = tmp_path_factory.mktemp("package")
    return Path(
        mlflow.artifacts.download_artifacts(f"models:/{deployed.name}/{deployed.version}", dst_path=str(folder))
    )


def test_the_version_is_the_candidate_and_nothing_else(life, deployed):
    made = mlflow.MlflowClient().get_model_version(deployed.name, deployed.version)
    assert (deployed.name, deployed.version) == ("langchain-e2e-model", "1")
    assert model_registry.by_alias(deployed.name, "candidate").version == "1"
    assert made.source == f"models:/{deployed.model_id}"
    assert made.run_id == deployed.run_id


def test_the_version_names_prompt_model_weights_and_run(life, deployed):
    tags = model_registry.by_alias(deployed.name, "candidate").tags
    assert tags["prompt"] == "qa/3"
    assert tags["weights_sha256"] == life.source.weights_sha256 == deployed.weights_sha256
    assert (tags["model"], tags["run_id"]) == ("taught", deployed.run_id)


def test_the_logged_model_is_linked_to_run_prompt_and_metrics(life, deployed, experimented):
    logged = mlflow.get_logged_model(deployed.model_id)
    assert logged.source_run_id == deployed.run_id
    assert json.loads(logged.tags["mlflow.linkedPrompts"]) == [{"name": "qa", "version": "3"}]
    metrics = {metric.key: metric.value for metric in logged.metrics}
    # run_metrics of the deploy are linked too, as MLflow does for a model that is logged in a run
    assert {name: metrics[name] for name in experimented.winner.metrics} == pytest.approx(experimented.winner.metrics)
    assert metrics["int8_token_f1"] <= 1
    run = mlflow.get_run(deployed.run_id)
    assert [out.model_id for out in run.outputs.model_outputs] == [deployed.model_id]
    assert (run.info.status, run.data.params["prompt"]) == ("FINISHED", "qa/3")


def test_the_signature_has_parameters_only(package):
    signature = mlflow.models.get_model_info(str(package)).signature
    assert signature.inputs is None and signature.outputs is None
    assert {param.name: param.default for param in signature.params.params} == {
        "max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
        "seed": -1, "stop": [], "timeout_s": 60.0,
    }  # fmt: skip


def test_the_package_has_safetensors_and_no_pickle_anywhere(package, life):
    files = [path for path in package.rglob("*") if path.is_file()]
    assert not [path.name for path in files if path.suffix in PICKLES and path.name != "openvino_model.bin"]
    assert not [path.name for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05")]
    assert weights_sha256(package / "artifacts" / "model") == life.source.weights_sha256
    assert (package / "huggingface_model.py").is_file()


def test_every_file_that_counts_is_in_a_fingerprint_of_the_version(package, deployed):
    tags = mlflow.MlflowClient().get_model_version(deployed.name, deployed.version).tags
    assert tags["artifacts_sha256"] == artifacts_sha256(package / "artifacts", packaging.ARTIFACTS.values())
    assert tags["entry_sha256"] == artifacts_sha256(package, packaging.ENTRY)
    assert tags["weights_sha256"] == deployed.weights_sha256


def test_requirements_are_the_versions_it_was_made_with(package):
    lines = (package / "requirements.txt").read_text().splitlines()
    assert lines == [
        f"{name}=={version(name).partition('+')[0]}" for name in (*REQUIREMENTS, *ENGINE_REQUIREMENTS["openvino"])
    ]


def test_an_input_example_shows_the_column(package):
    example = json.loads((package / "serving_input_example.json").read_text())
    assert example == {"inputs": {"question": ["What is overfitting?"]}}


def test_the_prompt_is_frozen_into_the_package(package):
    prompt = json.loads((package / "artifacts" / "prompt.json").read_text("utf-8"))
    assert (prompt["name"], prompt["version"], prompt["turn_format"]) == ("qa", 3, "plain")


def test_golden_answers_are_the_models_own(package, life, experimented):
    golden = json.loads((package / "artifacts" / "golden.json").read_text("utf-8"))
    text_model = load_text_model(life.source.path, "plain")
    answers = greedy_answers(text_model, experimented.winner.prompt.template, [item["question"] for item in golden], 40)
    assert len(golden) == 8
    assert [item["token_ids"] for item in golden] == [answer.token_ids for answer in answers]
    assert golden[0]["answer"] == "Overfitting is learning the data too closely."
    assert {item["max_new_tokens"] for item in golden} == {40}


def test_nothing_is_left_in_the_staging_folder(life, deployed):
    assert not [path for path in life.config.staging_dir.iterdir() if "deploy" in path.name]


def test_bad_cases_leave_no_version(life, deployed, experimented, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    config = dataclasses.replace(life.config, cases=tmp_path / "empty.jsonl")
    with pytest.raises(CasesInvalid):
        deploy_model(config, life.source, life.store, experimented.winner.prompt, {}, DeploySettings())
    assert len(mlflow.MlflowClient().search_model_versions(f"name='{deployed.name}'")) == 1


def test_the_name_of_a_prompt_is_refused_as_a_models_name(life, deployed, experimented):
    config = dataclasses.replace(life.config, registered_model_name="qa", engine="torch")
    with pytest.raises(LifecycleError, match="qa|prompt"):
        deploy_model(config, life.source, life.store, experimented.winner.prompt, {}, DeploySettings())
    assert model_registry.by_alias("qa", "candidate") is None
