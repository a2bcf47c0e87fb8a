"""How a run ends that did not end well."""

from __future__ import annotations

import os
import signal
import time

import pytest
from conftest import free_port

from genai_lifecycle.errors import LifecycleError, TrackingUnavailable
from genai_lifecycle.runtime import interruption
from genai_lifecycle.store import runs
from genai_lifecycle.store.maintenance import inventory


@pytest.mark.parametrize("error", [TrackingUnavailable("MLflow stored 1 of 2 traces."), LifecycleError("anything")])
def test_a_run_that_fails_is_failed_also_when_it_is_the_stores_own_fault(store, error):
    with pytest.raises(LifecycleError), runs.run("experiment", "experiment"), runs.run("qa", "template", nested=True):
        raise error
    assert [run.status for run in inventory.runs(store.experiment_id)] == ["FAILED", "FAILED"]


@pytest.fixture
def pressed_amid():
    """Presses Ctrl-C once, when the database is asked with a statement that starts so."""
    from sqlalchemy import Engine, event

    waiting = []

    def press(connection, cursor, statement, *_) -> None:
        if waiting and statement.startswith(waiting[0]):
            waiting.clear()
            os.kill(os.getpid(), signal.SIGINT)

    event.listen(Engine, "after_cursor_execute", press)
    yield waiting.append
    event.remove(Engine, "after_cursor_execute", press)
    assert not waiting, "the statement never came"


def test_ctrl_c_amid_a_query_leaves_no_lock_and_no_open_run(store, pressed_amid):
    for statement in ("SELECT runs", "INSERT INTO params", "INSERT INTO metrics"):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), interruption.remembered(), runs.run("experiment", "experiment"):
            with runs.run("qa", "template", nested=True):
                pressed_amid(statement)
                runs.log_results({"prompt": "qa/1"}, {"f1": 0.5})
                pytest.fail(f"went on after Ctrl-C amid {statement}")
        assert time.monotonic() - began < 15  # SQLite waits 20 s for a lock
    assert [run.status for run in inventory.runs(store.experiment_id)] == ["KILLED"] * 6


def test_a_run_that_begins_as_ctrl_c_is_pressed_is_ended(store, pressed_amid):
    for statement in ("INSERT INTO runs", "INSERT INTO tags"):
        pressed_amid(statement)
        with pytest.raises(KeyboardInterrupt), interruption.remembered(), runs.run("experiment", "experiment"):
            pytest.fail(f"went on after Ctrl-C amid {statement}")
    assert [run.status for run in inventory.runs(store.experiment_id)] == ["KILLED"] * 2


def test_a_store_that_is_gone_is_not_asked_again(store, monkeypatch):
    import mlflow

    with pytest.raises(TrackingUnavailable, match="gone"), runs.run("experiment", "experiment"):
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"http://127.0.0.1:{free_port()}")
        raise TrackingUnavailable("gone")
    monkeypatch.undo()
    assert [run.status for run in inventory.runs(store.experiment_id)] == ["RUNNING"]
    mlflow.end_run()


def test_a_run_of_a_killed_process_is_closed_by_the_next(store):
    import socket
    import subprocess
    import sys

    import mlflow

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tags = {runs.PROCESS_TAG: f"{socket.gethostname()}:{gone.pid}"}
    mlflow.MlflowClient().create_run(store.experiment_id, tags=tags)
    assert [run.is_left_open for run in inventory.runs(store.experiment_id)] == [True]
    assert runs.close_dead_runs(store) == 1
    assert [run.status for run in inventory.runs(store.experiment_id)] == ["KILLED"]
