"""`--mode all` end to end in processes of its own: the bundled model, other models, another tracking server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import forked
import mlflow_server
import pytest
from cli_process import arguments_for, run_cli
from conftest import REPO, free_port, make_cases
from tiny_model import lay_out_as_hub, make_dialogpt

pytestmark = pytest.mark.slow


TEMPLATES = ("qa/1 simple", "qa/2 conversational", "qa/3 expert", "qa/4 educational")


def arguments(mode: str, base: Path, *flags: str, uri: str | None = None) -> list[str]:
    """One mode on a store below `base`."""
    return arguments_for(
        mode, *flags, "--data-dir", str(base / "artifacts"),
        "--tracking-uri", uri or f"sqlite:///{base / 'mlflow.db'}", "--output-dir", str(base / "bundle"),
    )  # fmt: skip


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
    # CI is left out: libraries that report to their makers keep still where it is set.
    done = run_as_typed(arguments("all", base), HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), CI="")
    assert done.returncode == 0, done.stderr
    return done


def test_the_first_lines_say_what_is_used(finished):
    model, tracking, artifacts = finished.stdout.splitlines()[:3]
    assert model.startswith("Model      bundled GPT-2 (bundled, plain turns, sha256 ")
    assert tracking.startswith("Tracking   sqlite:///") and tracking.endswith("(as named)")
    assert artifacts.startswith("Artifacts  ")


def test_the_summary_says_how_to_go_on(finished):
    summary = finished.stdout[finished.stdout.index("\nSummary") :]
    assert "is champion, prompt qa/" in summary and "checks passed" in summary
    assert "--mode ui" in summary and "--mode serve --start" in summary
    assert "/bundle && ./build.sh && ./run.sh   then http://127.0.0.1:8000/docs" in summary


def test_the_bundle_holds_the_champion(finished, base):
    manifest = json.loads((base / "bundle" / "manifest.json").read_text("utf-8"))
    model = {"name": "langchain-e2e-model", "version": "1", "alias": "champion", "uri": "models:/langchain-e2e-model/1"}
    assert manifest["model"] == model and manifest["base_model"] == "bundled GPT-2"
    assert (base / "bundle" / "model" / "MLmodel").exists()


def test_the_libraries_keep_quiet(finished):
    ours = ("Answering:", "Storing:", "The judge's scorers", "Packaging", "Converted", "Testing", "Exporting")
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
    done = forked.run([sys.executable, "-I", "-c", code, uri], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "overfitting" in done.stdout.lower()


def test_the_run_is_described_for_programs_too(finished):
    result = json.loads(Path(os.environ["LIFECYCLE_STAGING_DIR"], "last_run.json").read_text("utf-8"))
    assert set(result["seconds"]) == {"experiment", "deploy", "test", "serve", "export"}
    assert result["export"]["version"] == "1" and result["export_declined"] == ""


WORSE = "{{question}}\nQuestion: What is Docker?\nAnswer:"  # whatever is asked, it answers this


@contextmanager
def serving(base: Path, refresh_s: float):
    """fastapi_server.py on the champion, starting; yields its address."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{base / 'mlflow.db'}", "PORT": url.rpartition(":")[2], "HOME": str(base),
        "PROMPT_REFRESH_S": str(refresh_s), "PROMPT_FILE": str(base / "prompt.json"), "THREADS": "1",
        "FEEDBACK_FILE": str(base / "feedback.jsonl"),
    }  # fmt: skip
    with (base / "server.log").open("w") as output:
        command = [sys.executable, "fastapi_server.py"]
        process = forked.Popen(command, cwd=REPO, env=environment, stdout=output, stderr=output)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(40)


def follows(url: str, prompt: str) -> bool:
    """Whether answers are soon made with it: within the refresh time, or later where this machine is busy."""
    body = json.dumps({"question": "What is overfitting?", "max_new_tokens": 4}).encode()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        asked = urllib.request.Request(f"{url}/ask", body, {"content-type": "application/json"})
        with suppress(OSError), urllib.request.urlopen(asked, timeout=60) as answer:  # refused while it starts
            if json.load(answer)["prompt"] == prompt:
                return True
        time.sleep(0.2)
    return False


def test_a_worse_prompt_is_refused_a_better_one_promoted_and_a_server_follows_the_rollback(finished, base):
    def run(mode: str, *flags: str, code: int = 0) -> str:
        done = run_cli(arguments(mode, base, *flags))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    corpus = (REPO / "bundled_model" / "corpus" / "cases.jsonl").read_text("utf-8").splitlines()
    cases = base / "answered.jsonl"
    cases.write_text("\n".join([line for line in corpus if "I don't know" not in line][:10]), "utf-8")
    stored = json.loads(run("prompts", "list", "--json"))["prompts"]
    (prompt,) = (item for item in stored if "production" in item["aliases"])
    name, good, worse = prompt["name"], prompt["aliases"]["production"], prompt["latest"] + 1
    alias = ("alias", "--name", name, "--alias", "production", "--version")

    run("prompts", "update", "--name", name, "--template", WORSE)
    said = run("evaluate", "--prompt", f"{name}@production", "--prompt", f"{name}/{worse}", "--cases", str(cases))
    assert f"win: {name}/{good} simple beats {name}/{worse}" in said
    refused = run("prompts", *alias, str(worse), code=16)
    assert f"{name}/{worse} does not go into production: worse than {name}/{good}" in refused
    with serving(base, refresh_s=0.5) as url:
        assert follows(url, f"{name}/{good}")
        run("prompts", *alias, str(worse), "--override-gate")
        assert follows(url, f"{name}/{worse}")
        assert f"better than {name}/{worse}" in run("prompts", *alias, str(good))
        assert follows(url, f"{name}/{good}")
        run("rollback", "--prompt", name)
        assert follows(url, f"{name}/{worse}")


@pytest.fixture(scope="module")
def server_url(tmp_path_factory):
    """A real MLflow server on another port, with artifacts behind it."""
    base = tmp_path_factory.mktemp("server")
    flags = [
        "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}", "--artifacts-destination", str(base / "artifacts"),
    ]  # fmt: skip
    with mlflow_server.running(flags, base / "log") as url:
        yield url


@pytest.fixture(scope="module")
def hub_life(server_url, tmp_path_factory):
    """The whole life of a model by its Hub name, in the local cache, on that server: (folder, cases, process)."""
    base = tmp_path_factory.mktemp("hub")
    hub = base / "huggingface" / "hub"
    lay_out_as_hub(hub, "microsoft/DialoGPT-small", make_dialogpt(base / "source"))
    cases = str(make_cases(base / "cases.jsonl"))
    # Random weights say nothing, and what they say is of no matter here.
    flags = ("--model", "microsoft/DialoGPT-small", "--cases", cases, "--precision", "fp32", "--override-gate")
    done = run_cli(arguments("all", base, *flags, uri=server_url), HOME=str(base), HF_HOME=str(hub.parent))
    assert done.returncode == 0, done.stderr
    return base, cases, done


def test_a_hub_name_from_the_local_cache_goes_through_the_same_life_on_an_mlflow_server(server_url, hub_life):
    base, _, done = hub_life
    assert "Model      microsoft/DialoGPT-small (Hub, revision 0123456789ab, dialogue turns" in done.stdout
    assert f"Tracking   {server_url} (as named)" in done.stdout
    assert "champion is version 1" in done.stdout
    assert not (base / "artifacts").exists(), "the server keeps the artifacts"


def test_an_evaluation_on_an_mlflow_server_keeps_every_row(server_url, hub_life):
    base, cases, _ = hub_life
    prompts = ("--prompt", "qa/1", "--prompt", "qa/3")
    done = run_cli(arguments("evaluate", base, "--cases", cases, *prompts, uri=server_url))
    assert done.returncode == 0, done.stderr
    assert "Evaluation  3 cases, 2 prompts, 6 answers" in done.stdout
    mlflow = connect(server_url)
    place = [mlflow.get_experiment_by_name("qa-eval").experiment_id]
    for name in ("qa/1", "qa/3"):
        (run,) = mlflow.search_runs(place, filter_string=f"params.prompt = '{name}'", output_format="list")
        found = mlflow.search_traces(locations=place, run_id=run.info.run_id, return_type="list")
        assert len(found) == 3 and {"token_f1", "rouge_l", "expected_response"} <= {
            assessment.name for assessment in found[0].info.assessments
        }
        scores = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/scores.json")
        assert len(scores["scores"]["token_f1"]) == 3
