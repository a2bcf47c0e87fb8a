"""A mode that only reads leaves MLflow's database as it was: no experiment is made, no run is closed."""

from __future__ import annotations

import io
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import mlflow
import pytest
from conftest import free_port

from genai_lifecycle.cli import main as cli
from genai_lifecycle.store import model_registry, runs
from genai_lifecycle.store import prompt_registry as registry

NOWHERE = f"http://127.0.0.1:{free_port()}"
READING = {
    "serve": ("serve",),
    "list": ("prompts", "list"),
    "show": ("prompts", "show", "--name", "qa"),
    "history": ("prompts", "history", "--name", "qa"),
    "diff": ("prompts", "diff", "--name", "qa", "--template", "{{question}}"),
    "no such prompt": ("prompts", "show", "--name", "nobody"),
    "verify": ("verify", "--url", NOWHERE),
    "doctor": ("doctor",),
    "server-config": ("server-config",),
    "chat": ("chat",),
    "clean": ("clean", "--older-than", "0", "--keep", "0"),
    "relocate": ("relocate", "--from", "/nowhere/at/all"),
    "export": ("export",),
    "import-feedback": ("import-feedback",),
}
ENDS_WELL = set(READING) - {"no such prompt", "verify"}


def dump(uri: str) -> list[str]:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        return list(database.iterdump())


@pytest.fixture
def left_open(life, deployed):
    """A champion, a prompt in production, and a run that a killed process left RUNNING."""
    model_registry.set_alias(deployed.name, model_registry.CHAMPION, deployed.version)
    if registry.find("qa").aliases == {}:
        registry.set_alias("qa", registry.PRODUCTION, 1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tags = {runs.PROCESS_TAG: f"{socket.gethostname()}:{gone.pid}"}
    mlflow.MlflowClient().create_run(life.store.experiment_id, tags=tags)
    return life


@pytest.mark.parametrize("experiment", ["langchain-e2e", "not-there-yet"])
@pytest.mark.parametrize("name", READING)
def test_the_database_is_as_it_was(left_open, name, experiment, tmp_path, monkeypatch, capsys):
    config, (mode, *flags) = left_open.config, READING[name]
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is MLflow?\n"))
    monkeypatch.setenv("LIFECYCLE_STAGING_DIR", str(config.staging_dir))
    if mode == "relocate":
        flags += ["--to", config.data_dir]
    given = {"--output-dir": str(tmp_path / "bundle"), "--feedback-file": str(tmp_path / "no-feedback.jsonl")}
    known = [word for flag, value in given.items() if flag in cli.MODES[mode].flags for word in (flag, value)]
    before = dump(config.tracking_uri)
    code = cli.main([
        "--mode", mode, *flags, "--tracking-uri", config.tracking_uri, "--data-dir", config.data_dir,
        "--experiment-name", experiment, *known,
    ])  # fmt: skip
    said = capsys.readouterr()
    assert (code == 0) == (name in ENDS_WELL), f"{code}: {said.err}"
    assert dump(config.tracking_uri) == before, said.out
