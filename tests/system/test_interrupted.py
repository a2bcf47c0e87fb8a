"""kill -9 at the moments that matter, Ctrl-C, and a server that dies: the same command then succeeds.

Each stage runs in a process of its own. A kill is placed exactly: the process replaces one function of ours by
one that kills it, so what was done before that call is done and nothing after it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_process import run_cli
from conftest import REPO, make_cases


@pytest.fixture(scope="module")
def life(tmp_path_factory, tiny_gpt2):
    """Runs modes in processes of their own on one store."""
    return Life(tmp_path_factory.mktemp("life"), tiny_gpt2)


class Life:
    def __init__(self, base, model):
        self.base, self.name = base, "interrupted-model"
        self.uri = f"sqlite:///{base / 'mlflow.db'}"
        self.flags = [
            "--model", str(model), "--cases", str(make_cases(base / "cases.jsonl")), "--tracking-uri", self.uri,
            "--data-dir", str(base / "artifacts"), "--registered-model-name", self.name,
        ]  # fmt: skip

    def run(self, mode: str) -> subprocess.CompletedProcess:
        return run_cli(["--mode", mode, *self.flags], self.base)

    def run_killed_at(self, mode: str, function: str, call: int = 1) -> None:
        done = run_cli(["--mode", mode, *self.flags], self.base, killed_at=(function, call))
        assert done.returncode == -signal.SIGKILL, done.stderr

    def start(self, mode: str) -> subprocess.Popen:
        command = [sys.executable, "e2e_mlflow.py", "--mode", mode, *self.flags]
        return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def alias(self, alias: str) -> str | None:
        from genai_lifecycle.tracking import model_registry

        self._connect()
        found = model_registry.by_alias(self.name, alias)
        return found.version if found else None

    def statuses(self) -> list[str]:
        import mlflow

        self._connect()
        return list(mlflow.search_runs(search_all_experiments=True)["status"])

    def _connect(self) -> None:
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)


def test_an_experiment_killed_before_its_alias_leaves_nothing_in_production(life):
    life.run_killed_at("experiment", "genai_lifecycle.prompts.registry.put_in_production")
    assert life.run("deploy").returncode == 4
    done = life.run("experiment")
    assert done.returncode == 0, done.stderr
    assert "RUNNING" not in life.statuses()


def test_a_deploy_killed_before_its_alias_leaves_no_candidate(life):
    life.run_killed_at("deploy", "genai_lifecycle.tracking.model_registry.set_alias")
    assert life.alias("candidate") is None
    assert life.run("test").returncode == 4
    assert life.run("deploy").returncode == 0
    assert life.alias("candidate") == "2"


def test_a_test_killed_anywhere_leaves_a_champion_that_passed(life):
    life.run_killed_at("test", "genai_lifecycle.tracking.model_registry.set_alias")
    assert life.alias("champion") is None
    assert life.run("test").returncode == 0
    assert (life.alias("champion"), life.alias("previous")) == ("2", None)

    assert life.run("deploy").returncode == 0
    life.run_killed_at("test", "genai_lifecycle.tracking.model_registry.set_alias", call=2)
    assert life.alias("champion") == "2"  # `previous` has moved, `champion` has not
    assert life.run("test").returncode == 0
    assert (life.alias("champion"), life.alias("previous")) == ("3", "2")


def test_ctrl_c_ends_the_run_as_killed_with_130(life):
    process = life.start("experiment")
    for line in process.stderr:
        if line.startswith("Answering"):
            break
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted" in err and "Traceback" not in err
    assert time.monotonic() - started < 30
    assert "KILLED" in life.statuses() and "RUNNING" not in life.statuses()


def test_what_killed_runs_left_in_the_staging_folder_is_swept(life):
    assert life.run("deploy").returncode == 0
    assert not list(Path(os.environ["LIFECYCLE_STAGING_DIR"]).glob("scratch-*"))
