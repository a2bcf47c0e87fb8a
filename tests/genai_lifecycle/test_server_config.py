"""What `--mode server-config` prints is really run: one real MLflow server."""

from __future__ import annotations

import json
import os
import shlex
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from stand_in_server import free_port

from genai_lifecycle.processes import ServerProcess, ask, new_log, wait_until_ready
from genai_lifecycle.server_config import describe
from genai_lifecycle.tracking.store import open_store


def printed_command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith("mlflow server")]
    return shlex.split(line)


def test_the_printed_command_serves_the_same_store(make_config, tmp_path, monkeypatch):
    config = make_config(port=free_port(), experiment_name="made-directly", data_dir=str(tmp_path / "with space"))
    open_store(replace(config, tracking_uri=config.backend_store_uri))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # saves the test nine processes
    url = f"http://127.0.0.1:{config.port}"
    assert url in describe(config)
    with ServerProcess(printed_command(describe(config)), new_log(tmp_path, "log"), quick, 10.0) as server:
        wait_until_ready(server, lambda: ask(f"{url}/health")[0] == 200, "the server", 120.0)
        assert "made-directly" in experiments(url)
        artifact_is_kept_below(Path(config.data_dir), url)


def experiments(url: str) -> list[str]:
    found = post(f"{url}/api/2.0/mlflow/experiments/search", {"max_results": 10})
    return [experiment["name"] for experiment in found["experiments"]]


def artifact_is_kept_below(folder: Path, url: str) -> None:
    request = urllib.request.Request(f"{url}/api/2.0/mlflow-artifacts/artifacts/x.txt", b"kept", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
    assert (folder / "x.txt").read_bytes() == b"kept"


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_passwords_are_not_shown(make_config):
    text = describe(make_config(backend_store_uri="postgresql://mlflow:s3cret@db.example/mlflow"))
    assert "s3cret" not in text
    assert "postgresql://mlflow:***@db.example/mlflow" in printed_command(text)


def test_the_default_port_is_the_one_that_every_mode_looks_at(make_config):
    command = printed_command(describe(make_config()))
    assert command[command.index("--port") + 1] == "5050"
