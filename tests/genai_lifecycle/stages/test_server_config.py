"""What `--mode server-config` prints is really run: one real MLflow server."""

from __future__ import annotations

import json
import shlex
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow_server
import pytest
from stand_in_server import free_port

from genai_lifecycle.stages.server_config import ServerConfigSettings, describe
from genai_lifecycle.store.tracking_store import open_store


def printed_command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith("mlflow server")]
    return shlex.split(line)


def test_the_printed_command_serves_the_same_store(make_config, tmp_path):
    config, settings = (
        make_config(experiment_name="made-directly", data_dir=str(tmp_path / "with space")),
        ServerConfigSettings(port=free_port()),
    )
    open_store(replace(config, tracking_uri=config.backend_store_uri))
    assert f"http://127.0.0.1:{settings.port}" in describe(config, settings)
    with mlflow_server.running(printed_command(describe(config, settings))[2:], tmp_path / "log") as url:
        assert "made-directly" in experiments(url)
        artifact_is_kept_below(Path(config.data_dir), url)


def experiments(url: str) -> list[str]:
    found = post(f"{url}/api/2.0/mlflow/experiments/search", {"max_results": 10})
    return [experiment["name"] for experiment in found["experiments"]]


def artifact_is_kept_below(folder: Path, url: str) -> None:
    put(url, "x.txt", b"kept")
    assert (folder / "x.txt").read_bytes() == b"kept"


def put(url: str, name: str, content: bytes) -> None:
    request = urllib.request.Request(f"{url}/api/2.0/mlflow-artifacts/artifacts/{name}", content, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_passwords_are_not_shown(make_config):
    text = describe(
        make_config(backend_store_uri="postgresql://mlflow:s3cret@db.example/mlflow"), ServerConfigSettings()
    )
    assert "s3cret" not in text
    assert "postgresql://mlflow:***@db.example/mlflow" in printed_command(text)


def test_the_default_port_is_the_one_that_every_mode_looks_at(make_config):
    command = printed_command(describe(make_config(), ServerConfigSettings()))
    assert command[command.index("--port") + 1] == "5050"


@pytest.mark.s3
def test_the_printed_command_keeps_artifacts_in_s3(make_config, tmp_path, s3_store):
    """Its environment is what is printed, and the keys; whoever goes through the server has none."""
    s3_store.client().create_bucket(Bucket="behind-a-server")
    config = make_config(
        data_dir="s3://behind-a-server/team", s3_endpoint_url=s3_store.url,
        s3_access_key=s3_store.key, s3_secret_key=s3_store.secret,
    )  # fmt: skip
    Path(config.backend_store_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    text = describe(config, ServerConfigSettings(port=free_port()))
    assert s3_store.secret not in text and s3_store.key not in text
    printed = dict(line.removeprefix("  export ").split("=", 1) for line in text.splitlines() if "  export " in line)
    assert printed["MLFLOW_S3_ENDPOINT_URL"] == s3_store.url
    keys = {"AWS_ACCESS_KEY_ID": s3_store.key, "AWS_SECRET_ACCESS_KEY": s3_store.secret}
    with mlflow_server.running(printed_command(text)[2:], tmp_path / "log", keys | printed) as url:
        put(url, "x.txt", b"kept")
    assert s3_store.objects("behind-a-server") == {"team/x.txt": b"kept"}


def test_a_store_of_ones_own_is_a_line_for_docker(make_config):
    lines = describe(
        make_config(data_dir="s3://bucket/team", s3_endpoint_url="http://127.0.0.1:9000"), ServerConfigSettings()
    ).splitlines()
    (line,) = [line for line in lines if "docker run" in line]
    words = shlex.split(line)
    assert "MINIO_ROOT_PASSWORD" in words, "passed on from the environment, not spelt out"
    assert words[words.index("-v") + 1].endswith("/minio:/data") and words[-4:-2] == ["server", "/data"]
    assert "docker" not in describe(make_config(), ServerConfigSettings()), "a folder needs no store"
