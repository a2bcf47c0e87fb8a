"""Mode doctor: each thing that can be wrong is provoked, and the doctor itself survives all of them at once."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from cli_process import run_cli
from conftest import free_port

from genai_lifecycle.stages import doctor
from genai_lifecycle.stages.doctor import Finding, examine, has_problem
from genai_lifecycle.store import model_registry, runs
from genai_lifecycle.store import tracking_store as store_module


@pytest.fixture(autouse=True)
def free_ports(monkeypatch) -> dict[str, int]:
    """Ports on which nothing listens, in the place of 5050 and 5001."""
    ports = {"mlflow": free_port(), "server": free_port()}
    monkeypatch.setattr(doctor, "LOCAL_SERVER_PORT", ports["mlflow"])
    monkeypatch.setattr(store_module, "LOCAL_SERVER_PORT", ports["mlflow"])
    monkeypatch.setattr(doctor, "SERVER_PORT", ports["server"])
    return ports


@pytest.fixture
def config(make_config, store):
    return make_config(tracking_uri=store.uri)


def told(findings: list[Finding], what: str) -> list[Finding]:
    return [item for item in findings if item.what.startswith(what)]


def make_version(store, folder: Path, *aliases: str) -> Path:
    """A version with one small file."""
    import mlflow

    with mlflow.start_run() as run:
        model = mlflow.MlflowClient().create_logged_model(store.experiment_id, "model", run.info.run_id)
    place = Path(model.artifact_location)
    place.mkdir(parents=True)
    (place / "MLmodel").write_text("x")
    mlflow.MlflowClient().finalize_logged_model(model.model_id, "READY")
    made = model_registry.register("langchain-e2e-model", model.model_id, run.info.run_id, {})
    for alias in aliases:
        model_registry.set_alias(made.name, alias, made.version)
    return place


@pytest.mark.parametrize("query", ["", "?timeout=9"])
def test_where_all_is_well_there_is_no_problem(config, store, tmp_path, query):
    make_version(store, tmp_path, "champion")
    findings = examine(replace(config, tracking_uri=f"{config.tracking_uri}{query}"))
    assert not has_problem(findings), findings
    assert {item.state for item in findings if item.what in ("versions", "runs", "artifact locations")} == {"ok"}


def test_an_alias_without_its_files_is_a_problem(config, store, tmp_path):
    shutil.rmtree(make_version(store, tmp_path, "champion"))
    make_version(store, tmp_path)
    [finding] = told(examine(config), "version 1")
    assert finding.state == "problem" and "champion" in finding.what and "--mode relocate" in finding.next_step


def test_a_version_without_alias_and_files_is_a_warning(config, store, tmp_path):
    shutil.rmtree(make_version(store, tmp_path))
    findings = examine(config)
    assert [item.state for item in told(findings, "version 1")] == ["warning"]
    assert "none is champion" in told(findings, "versions")[0].detail


def test_artifacts_that_are_gone_are_a_problem_with_the_command_to_type(config, store, tmp_path):
    make_version(store, tmp_path, "champion")
    shutil.move(config.data_dir, tmp_path / "elsewhere")
    findings = examine(config)
    [finding] = told(findings, "experiment langchain-e2e")
    assert finding.state == "problem" and f"--from {config.data_dir}" in finding.next_step
    assert told(findings, "artifact store")[0].state == "warning"


def test_a_run_of_a_process_that_is_gone_is_told(config, store):
    import subprocess
    import sys

    import mlflow

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tags = {runs.PROCESS_TAG: f"{socket.gethostname()}:{gone.pid}"}
    mlflow.MlflowClient().create_run(store.experiment_id, tags=tags)
    [finding] = told(examine(config), "runs")
    assert finding.state == "warning" and finding.detail.startswith("1 were left RUNNING")


@pytest.mark.slow
def test_another_program_on_a_port_is_named(config, free_ports):
    import os

    with socket.create_server(("127.0.0.1", free_ports["mlflow"])):
        [finding] = told(examine(config), f"port {free_ports['mlflow']}")
    assert finding.state == "warning" and f"(process {os.getpid()})" in finding.detail


def test_missing_and_other_versions_are_told(config, monkeypatch, tmp_path):
    files = [tmp_path / "more.txt", tmp_path / "requirements.txt"]
    files[0].write_text("pytest==0.1  # old\n")
    files[1].write_text("no-such-package[extra]==1.0\n# words\n\nrequests==2.34.2\n")
    monkeypatch.setattr(doctor, "REQUIREMENTS", files)
    findings = examine(config)
    assert told(findings, "no-such-package")[0].state == "problem"
    assert told(findings, "pytest")[0].state == "warning"
    assert told(findings, "packages")[0].detail.startswith("1 as")


def test_too_little_space_is_a_problem(config, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 10**18)
    [finding] = told(examine(config), "disk space")
    assert finding.state == "problem" and "--mode clean" in finding.next_step


def test_no_database_is_a_warning_and_none_is_made(make_config):
    config = make_config(tracking_uri=make_config().backend_store_uri)
    [finding] = told(examine(config), "tracking store")
    assert finding.state == "warning"
    assert not Path(config.database_uri.removeprefix("sqlite:///")).exists()


def test_a_damaged_database_is_a_problem(config):
    file = Path(config.database_uri.removeprefix("sqlite:///"))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    [finding] = told(examine(config), "tracking store")
    assert finding.state == "problem" and "damaged" in finding.detail


def test_a_named_server_that_is_gone_is_a_problem(make_config):
    [finding] = told(examine(make_config(tracking_uri=f"http://127.0.0.1:{free_port()}")), "tracking store")
    assert finding.state == "problem" and "No MLflow server answers" in finding.detail


def test_missing_keys_for_s3_are_a_problem(make_config):
    endpoint = f"http://127.0.0.1:{free_port()}"
    [finding] = told(examine(make_config(data_dir="s3://bucket/x", s3_endpoint_url=endpoint)), "artifact store")
    assert finding.state == "problem" and "no keys" in finding.detail and "AWS_ACCESS_KEY_ID" in finding.next_step


@pytest.mark.s3
def test_a_missing_bucket_is_a_problem_and_none_is_made(make_config, monkeypatch, s3_store):
    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    config = make_config(data_dir="s3://no-such-bucket/x", s3_endpoint_url=s3_store.url)
    for _ in range(2):
        [finding] = told(examine(config), "artifact store")
        assert finding.state == "problem" and "'no-such-bucket' does not exist" in finding.detail


def test_a_check_that_breaks_is_a_finding_and_the_others_are_made(config, monkeypatch):
    def breaks(*_):
        raise RuntimeError("half of everything is broken")

    monkeypatch.setattr(doctor.machine, "pins", breaks)
    findings = examine(config)
    assert "half of everything" in told(findings, "packages")[0].detail
    assert told(findings, "versions")


def test_the_command_prints_json_and_ends_with_a_code_of_its_own(config, tmp_path):
    broken = replace(config, tracking_uri=f"sqlite:///{tmp_path / 'text.db'}")
    (tmp_path / "text.db").write_text("this is no SQLite file" * 500)
    given = ["--mode", "doctor", "--tracking-uri", broken.tracking_uri, "--data-dir", config.data_dir]
    done = run_cli([*given, "--json"])
    findings = [Finding(**item) for item in json.loads(done.stdout)]
    assert done.returncode == 18 and has_problem(findings)
    done = run_cli(given)
    assert done.returncode == 18 and "problem  tracking store" in done.stdout and "\n  -> " not in done.stdout


def test_feedback_of_an_earlier_server_is_told_with_what_to_do(config, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "FORMER_FEEDBACK_FILE", tmp_path / "feedback.jsonl")
    assert [item.state for item in told(examine(config), "servers' files")] == ["ok"]
    for name in ("feedback.jsonl.1", "traces-0123456789ab.db"):
        (tmp_path / name).touch()
    (found,) = told(examine(config), "servers' files")
    assert found.state == "warning" and "feedback.jsonl.1, traces-0123456789ab.db" in found.detail
    assert "--mode serve --start" in found.next_step
