"""kill -9 at the moments that matter, Ctrl-C, and a server that dies: the same command then succeeds.

Each stage runs in a process of its own. A kill is placed exactly: the process replaces one function of ours by
one that kills it, so what was done before that call is done and nothing after it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import forked
import pytest
from cli_process import arguments_for, run_cli, start_cli
from conftest import free_port, make_cases
from stand_in_server import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def life(tmp_path_factory, lessons_gpt2):
    """Runs modes in processes of their own on one store, with a model that passes the gate."""
    return Life(tmp_path_factory.mktemp("life"), lessons_gpt2)


class Life:
    def __init__(self, base, model):
        self.base, self.name = base, "interrupted-model"
        self.uri = f"sqlite:///{base / 'mlflow.db'}"
        self.flags = [
            "--model", str(model), "--cases", str(make_cases(base / "cases.jsonl")), "--tracking-uri", self.uri,
            "--data-dir", str(base / "artifacts"), "--registered-model-name", self.name,
            "--engine", "torch",  # a conversion more changes nothing of what is tested here
        ]  # fmt: skip

    def run(self, mode: str) -> forked.CompletedProcess:
        return run_cli(arguments_for(mode, *self.flags))

    def run_killed_at(self, mode: str, function: str, call: int = 1) -> None:
        done = run_cli(arguments_for(mode, *self.flags), killed_at=(function, call))
        assert done.returncode == -signal.SIGKILL, done.stderr

    def start(self, mode: str, errors) -> forked.Popen:
        return start_cli(arguments_for(mode, *self.flags), forked.DEVNULL, errors)

    def alias(self, alias: str) -> str | None:
        from genai_lifecycle.store import model_registry

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
    life.run_killed_at("experiment", "genai_lifecycle.prompts.promotion.put_in_production")
    assert life.run("deploy").returncode == 4
    done = life.run("experiment")
    assert done.returncode == 0, done.stderr
    assert "RUNNING" not in life.statuses()


def test_a_deploy_killed_before_its_alias_leaves_no_candidate(life):
    life.run_killed_at("deploy", "genai_lifecycle.store.model_registry.set_alias")
    assert life.alias("candidate") is None
    assert life.run("test").returncode == 4
    assert life.run("deploy").returncode == 0
    assert life.alias("candidate") == "2"


def test_a_test_killed_anywhere_leaves_a_champion_that_passed(life):
    life.run_killed_at("test", "genai_lifecycle.store.model_registry.set_alias")
    assert life.alias("champion") is None
    assert life.run("test").returncode == 0
    assert (life.alias("champion"), life.alias("previous")) == ("2", None)

    assert life.run("deploy").returncode == 0
    life.run_killed_at("test", "genai_lifecycle.store.model_registry.set_alias", call=2)
    assert (life.alias("champion"), life.alias("previous")) == ("3", None)  # it passed; `previous` has not followed yet
    assert life.run("test").returncode == 0
    assert (life.alias("champion"), life.alias("previous")) == ("3", "2")


def test_ctrl_c_ends_the_run_as_killed_with_130(life, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = life.start("experiment", errors)
    while "\nAnswering" not in f"\n{log.read_text('utf-8')}":
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130, log.read_text("utf-8")
    err = log.read_text("utf-8")
    assert "Interrupted" in err and "Traceback" not in err
    assert "KILLED" in life.statuses() and "RUNNING" not in life.statuses()


def test_what_killed_runs_left_in_the_staging_folder_is_swept(life):
    assert life.run("deploy").returncode == 0
    assert not list(Path(os.environ["LIFECYCLE_STAGING_DIR"]).glob("scratch-*"))


@pytest.mark.parametrize("mode", ["serve", "ui"])
def test_ctrl_c_is_how_what_runs_in_the_foreground_ends(life, tmp_path, mode):
    """Exit code 0, and no word about an interruption."""
    log = tmp_path / "log"
    flags = arguments_for(mode, *life.flags, "--port", str(free_port()), *(["--start"] if mode == "serve" else []))
    with log.open("w") as output:
        process = start_cli(flags, output, output)
    wait_until(lambda: any(word in log.read_text("utf-8") for word in ("Ready", "Open http")), 120)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, log.read_text("utf-8")
    assert "has ended." in log.read_text("utf-8") and "Interrupted" not in log.read_text("utf-8")
