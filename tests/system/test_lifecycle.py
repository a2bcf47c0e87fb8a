"""`--mode all` end to end in processes of its own: the bundled model, other models, another tracking server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import run_cli
from conftest import REPO, free_port, make_cases
from tiny_model import lay_out_as_hub, make_dialogpt

TEMPLATES = ("qa-conversational", "qa-educational", "qa-expert", "qa-simple")


def arguments(mode: str, base: Path, *flags: str, uri: str | None = None) -> list[str]:
    """One mode on a store below `base`."""
    return [
        "--mode", mode, "--data-dir", str(base / "artifacts"),
        "--tracking-uri", uri or f"sqlite:///{base / 'mlflow.db'}", "--output-dir", str(base / "bundle"), *flags,
    ]  # fmt: skip


def run_as_typed(given: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """As a user types it, imports and all."""
    command = [sys.executable, "e2e_mlflow.py", *given]
    return subprocess.run(command, cwd=REPO, env=os.environ | environment, capture_output=True, text=True, check=False)


def connect(uri: str):
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("all")


@pytest.fixture(scope="module")
def finished(base):
    """The whole life with the bundled model, in a home that was empty before."""
    home = base / "home"
    home.mkdir()
    done = run_as_typed(arguments("all", base), HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert done.returncode == 0, done.stderr
    return done


def test_the_first_lines_say_what_is_used(finished):
    model, tracking, artifacts = finished.stdout.splitlines()[:3]
    assert model.startswith("Model      bundled GPT-2 (bundled, plain turns, sha256 ")
    assert tracking.startswith("Tracking   sqlite:///") and tracking.endswith("(as named)")
    assert artifacts.startswith("Artifacts  ")


def test_the_summary_says_how_to_go_on(finished):
    summary = finished.stdout[finished.stdout.index("\nSummary") :]
    assert "is champion, prompt qa-" in summary and "checks passed" in summary
    assert "--mode ui" in summary and "--mode serve --start" in summary
    assert "/bundle && ./build.sh && ./run.sh   then http://127.0.0.1:8000/docs" in summary


def test_the_bundle_holds_the_champion(finished, base):
    manifest = json.loads((base / "bundle" / "manifest.json").read_text("utf-8"))
    model = {"name": "langchain-e2e-model", "version": "1", "alias": "champion", "uri": "models:/langchain-e2e-model/1"}
    assert manifest["model"] == model and manifest["base_model"] == "bundled GPT-2"
    assert (base / "bundle" / "model" / "MLmodel").exists()


def test_the_libraries_keep_quiet(finished):
    ours = ("Answering:", "The judge's scorers", "Packaging", "Converted", "Testing", "Exporting")
    assert [line for line in finished.stderr.splitlines() if not line.startswith(ours)] == []


def test_nothing_is_written_outside_the_checkout(finished, base):
    assert [str(path) for path in (base / "home").rglob("*") if path.is_file()] == []


def test_four_nested_runs_and_one_trace_for_each_answer(finished, base):
    mlflow = connect(f"sqlite:///{base / 'mlflow.db'}")
    runs = mlflow.search_runs(experiment_names=["langchain-e2e"], output_format="list")
    parents = [run for run in runs if run.data.tags["lifecycle.stage"] == "experiment"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted(run.info.run_name for run in nested) == list(TEMPLATES)
    cases = len((REPO / "bundled_model" / "corpus" / "cases.jsonl").read_text("utf-8").splitlines())
    for run in nested:
        place = [run.info.experiment_id]
        found = mlflow.search_traces(locations=place, run_id=run.info.run_id, max_results=500, return_type="list")
        assert len(found) == cases
        assert {span.name for span in found[0].data.spans} == {"answer", "render", "generate", "score"}


def test_the_champion_answers_in_a_process_that_knows_nothing_of_us(finished, base, tmp_path):
    code = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/langchain-e2e-model@champion')\n"
        "print(model.predict('What is overfitting?')[0]['answer'])\n"
        "assert not [name for name in sys.modules if name.startswith(('genai_', 'served_model'))]\n"
    )
    uri = f"sqlite:///{base / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, uri], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "overfitting" in done.stdout.lower()


def test_a_second_experiment_makes_no_new_prompt_versions(finished, base, tiny_gpt2):
    cases = make_cases(base / "cases.jsonl")
    done = run_cli(arguments("experiment", base, "--model", str(tiny_gpt2), "--cases", str(cases)), base)
    assert done.returncode == 0, done.stderr
    mlflow = connect(f"sqlite:///{base / 'mlflow.db'}")
    latest = [mlflow.genai.load_prompt(f"prompts:/{name}@latest", cache_ttl_seconds=0) for name in TEMPLATES]
    assert [prompt.version for prompt in latest] == [1, 1, 1, 1]


def test_the_run_is_described_for_programs_too(finished):
    result = json.loads(Path(os.environ["LIFECYCLE_STAGING_DIR"], "last_run.json").read_text("utf-8"))
    assert set(result["seconds"]) == {"experiment", "deploy", "test", "serve", "export"}
    assert result["export"]["version"] == "1" and result["export_declined"] == ""


def test_a_hub_name_from_the_local_cache_goes_through_the_whole_life(tmp_path, tiny_gpt2):
    lay_out_as_hub(tmp_path / "huggingface" / "hub", "microsoft/DialoGPT-small", make_dialogpt(tmp_path / "source"))
    cases = str(make_cases(tmp_path / "cases.jsonl"))
    flags = ("--model", "microsoft/DialoGPT-small", "--cases", cases)
    done = run_as_typed(arguments("all", tmp_path, *flags), HF_HOME=str(tmp_path / "huggingface"))
    assert done.returncode == 0, done.stderr
    assert "Model      microsoft/DialoGPT-small (Hub, revision 0123456789ab, dialogue turns" in done.stdout
    assert "champion is version 1" in done.stdout


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """A real MLflow server on another port, with artifacts behind it."""
    from genai_lifecycle.processes import ServerProcess, ask, wait_until_ready

    base, port = tmp_path_factory.mktemp("server"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}", "--artifacts-destination", str(base / "artifacts"),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ServerProcess(command, base / "log", quiet, grace_s=5) as server:
        wait_until_ready(server, lambda: ask(f"{url}/version")[0] == 200, "MLflow", timeout_s=90)
        yield url


def test_the_same_life_against_an_mlflow_server(mlflow_server, tmp_path, tiny_gpt2):
    cases = str(make_cases(tmp_path / "cases.jsonl"))
    flags = ("--model", str(tiny_gpt2), "--turn-format", "dialogue", "--cases", cases)
    done = run_cli(arguments("all", tmp_path, *flags, uri=mlflow_server), tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Tracking   {mlflow_server} (as named)" in done.stdout
    assert "dialogue turns" in done.stdout and "champion is version 1" in done.stdout
    assert not (tmp_path / "artifacts").exists(), "the server keeps the artifacts"
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
