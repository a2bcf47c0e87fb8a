"""The whole life with artifacts in a real S3 store, in processes of their own; and the store killed in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from cli_process import arguments_for
from conftest import REPO, free_port, make_cases
from s3_store import S3_UP

pytestmark = pytest.mark.s3

BUCKET, PREFIX, NAME = "whole-life", "team/a", "model-in-s3"
KILL_STORE_AT = """
import os, subprocess, sys
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
method, call = sys.argv[1], int(sys.argv[2])
original, calls = getattr(S3ArtifactRepository, method), []
def killing(self, *given, **more):
    calls.append(1)
    if len(calls) == call:
        subprocess.run([os.environ["KILL"], "--kill", os.environ["KILL_PORT"]], check=True)
    return original(self, *given, **more)
setattr(S3ArtifactRepository, method, killing)
import runpy
sys.argv = ["e2e_mlflow.py", *sys.argv[3:]]
runpy.run_path("e2e_mlflow.py", run_name="__main__")
"""


class Life:
    """Runs modes on one database and one bucket."""

    def __init__(self, base: Path, store, model: Path):
        self.base, self.store = base, store
        self.uri = f"sqlite:///{base / 'mlflow.db'}"
        self.flags = [
            "--tracking-uri", self.uri, "--data-dir", f"s3://{BUCKET}/{PREFIX}", "--registered-model-name", NAME,
            "--s3-endpoint-url", store.url, "--model", str(model), "--cases", str(make_cases(base / "cases.jsonl")),
            "--override-gate",  # random weights say nothing, and what they say is of no matter here
        ]  # fmt: skip
        keys = {name: value for name, value in store.environment.items() if name != "MLFLOW_S3_ENDPOINT_URL"}
        self.environment = os.environ | keys | {"MLFLOW_DISABLE_TELEMETRY": "true"}

    def run(self, mode: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self._run(["e2e_mlflow.py", *arguments_for(mode, *self.flags, *more)])

    def run_with_the_store_killed_at(self, method: str, call: int, mode: str, *more: str):
        """The store is gone from this call of MLflow's artifact repository on, and back when the mode has ended."""
        killing = {"KILL": str(S3_UP), "KILL_PORT": str(self.store.port), "S3_UP_STATE": str(self.store.state)}
        try:
            given = [method, str(call), *arguments_for(mode, *self.flags, *more)]
            return self._run(["-c", KILL_STORE_AT, *given], killing | {"AWS_MAX_ATTEMPTS": "2"})
        finally:
            self.store.start()

    def alias(self, alias: str) -> str | None:
        import mlflow

        from genai_lifecycle.store import model_registry

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        found = model_registry.by_alias(NAME, alias)
        return found.version if found else None

    def _run(self, arguments: list[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command, environment = [sys.executable, *arguments], self.environment | (more or {})
        return subprocess.run(
            command, cwd=REPO, env=environment, capture_output=True, text=True, check=False, timeout=300
        )


@pytest.fixture(scope="module")
def life(tmp_path_factory, s3_store, tiny_gpt2) -> Life:
    return Life(tmp_path_factory.mktemp("life"), s3_store, tiny_gpt2)


@pytest.fixture(scope="module")
def finished(life):
    """`--mode all`, from a bucket that is not there yet to the bundle."""
    done = life.run("all", "--output-dir", str(life.base / "bundle"))
    assert done.returncode == 0, done.stderr
    return done


def test_the_whole_life(finished, life):
    assert f"Artifacts  s3://{BUCKET}/{PREFIX}/langchain-e2e" in finished.stdout
    assert "champion is version 1" in finished.stdout and "Export      model-in-s3 version 1" in finished.stdout
    assert f"The bucket {BUCKET} was created." in finished.stderr
    assert f"--s3-endpoint-url {life.store.url}" in finished.stdout[finished.stdout.index("Summary") :]


def test_everything_is_below_the_prefix_and_has_its_sha256(finished, life):
    objects = life.store.objects(BUCKET)
    assert len(objects) > 20 and all(key.startswith(f"{PREFIX}/langchain-e2e/") for key in objects)
    client = life.store.client()
    assert all("sha256" in client.head_object(Bucket=BUCKET, Key=key)["Metadata"] for key in objects)
    assert not (REPO / "s3:").exists(), "an address was taken for a folder"


def test_the_keys_are_nowhere(finished, life):
    """Not in the output, the database, the artifacts, the bundle, or the summary for programs."""
    secret = life.store.secret.encode()
    assert secret.decode() not in finished.stdout + finished.stderr
    kept = [path.read_bytes() for path in life.base.rglob("*") if path.is_file()]
    kept.append(Path(os.environ["LIFECYCLE_STAGING_DIR"], "last_run.json").read_bytes())
    kept += life.store.objects(BUCKET).values()
    assert not [content[:100] for content in kept if secret in content]


def in_a_folder(life: Life) -> tuple[str, Path]:
    """The same life with its artifacts in a folder: the files copied, the addresses in the database changed."""
    folder, database = life.base / "local", life.base / "local.db"
    for key, content in life.store.objects(BUCKET).items():
        path = folder / Path(key).relative_to(PREFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shutil.copy(life.base / "mlflow.db", database)
    places = {
        "experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location",
        "model_versions": "storage_location",
    }  # fmt: skip
    with sqlite3.connect(database) as connection:
        for table, column in places.items():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            connection.execute(change, (f"s3://{BUCKET}/{PREFIX}", str(folder)))
    return f"sqlite:///{database}", folder


def files_of(bundle: Path) -> dict[str, bytes]:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert manifest.pop("created")
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "manifest.json"} | {
        "manifest.json": json.dumps(manifest).encode()
    }


def test_the_bundle_is_the_one_that_a_local_folder_gives(finished, life):
    uri, folder = in_a_folder(life)
    places = ["--tracking-uri", uri, "--data-dir", str(folder), "--output-dir", str(life.base / "from-folder")]
    done = life.run("export", *places)  # the last of two equal flags counts
    assert done.returncode == 0, done.stderr
    from_s3, from_folder = files_of(life.base / "bundle"), files_of(life.base / "from-folder")
    assert from_s3.keys() == from_folder.keys()
    assert [name for name in from_s3 if from_s3[name] != from_folder[name]] == []


def test_the_server_answers_with_the_model_from_s3(finished, life):
    port = free_port()
    command = [sys.executable, "e2e_mlflow.py", *arguments_for("serve", "--start", "--port", str(port), *life.flags)]
    process = subprocess.Popen(command, cwd=REPO, env=life.environment, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("Ready"):
                break
        body = json.dumps({"question": "What is MLflow?"}).encode()
        request = Request(f"http://127.0.0.1:{port}/ask", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as response:
            assert "answer" in json.load(response)
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=90)
    assert life.store.secret not in rest


def test_export_with_keys_that_only_its_flags_know(finished, life):
    without = {name: value for name, value in life.environment.items() if not name.startswith("AWS_")}
    keys = ["--s3-access-key", life.store.key, "--s3-secret-key", life.store.secret]
    flags = arguments_for("export", *life.flags, "--output-dir", str(life.base / "by-flags"), *keys)
    command = [sys.executable, "e2e_mlflow.py", *flags]
    without |= {"AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(command, cwd=REPO, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "e2e_mlflow.py", *arguments_for("deploy", *life.flags), *keys]
    refused = subprocess.run(command, cwd=REPO, env=without, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--s3-access-key is a flag of export, not of deploy." in refused.stderr
    assert life.store.secret not in refused.stderr


def test_a_store_that_is_gone_is_told_before_the_run(finished, life):
    started = time.monotonic()
    done = life.run("experiment", "--s3-endpoint-url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 11 and "Traceback" not in done.stderr
    assert re.search(r"Error: No S3 store answers at http://127.0.0.1:\d+ \(connection refused\)", done.stderr)
    assert time.monotonic() - started < 60
    with sqlite3.connect(life.base / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE status != 'FINISHED'").fetchone() == (0,)


def test_the_store_is_killed_in_the_middle_of_deploy(finished, life):
    """Some files of the model are stored, the rest is not: no version is registered, no alias moves."""
    before = life.store.objects(BUCKET)
    done = life.run_with_the_store_killed_at("_upload_file", 8, "deploy")
    assert done.returncode == 11, done.stderr
    assert "Error: No S3 store answers at" in done.stderr and "Traceback" not in done.stderr
    after = life.store.objects(BUCKET)
    assert len(after) > len(before), "the kill came before the first file"
    assert after.items() >= before.items(), "the version that has the aliases is as good as before"
    assert (life.alias("candidate"), life.alias("champion")) == ("1", "1")
    assert life.run("deploy").returncode == 0
    assert (life.alias("candidate"), life.alias("champion")) == ("2", "1")


def test_the_store_is_killed_in_the_middle_of_export(finished, life):
    """No folder that could be taken for a bundle, and nothing beside it."""
    target = life.base / "exports" / "bundle"
    target.parent.mkdir()
    done = life.run_with_the_store_killed_at("_download_file", 8, "export", "--output-dir", str(target))
    assert done.returncode == 11, done.stderr
    assert "Error: No S3 store answers at" in done.stderr and "Traceback" not in done.stderr
    assert list(target.parent.iterdir()) == []
    done = life.run("export", "--output-dir", str(target))
    assert done.returncode == 0, done.stderr
    assert json.loads((target / "manifest.json").read_text("utf-8"))["model"]["name"] == NAME
