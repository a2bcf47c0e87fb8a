"""Choosing and opening the store: a named server, something else on the port, folders that cannot be written."""

from __future__ import annotations

import http.server
import os
import socket
import sqlite3
import threading
import time

import pytest
from conftest import free_port

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, StorageFailed, TrackingUnavailable
from genai_lifecycle.tracking import store as store_module
from genai_lifecycle.tracking.store import check_writable, choose, open_store, probe, without_password


@pytest.fixture
def other_server():
    """A web server that is not MLflow."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def silent_port():
    """A socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_probe_tells_nothing_from_something_else(other_server):
    assert probe(other_server) == "other"
    assert probe(f"http://127.0.0.1:{free_port()}") == "nothing"


def test_probe_of_a_silent_port_ends_in_seconds(silent_port):
    started = time.monotonic()
    assert probe(silent_port) == "other"
    assert time.monotonic() - started < 8


def test_a_named_server_is_a_promise(make_config, other_server):
    with pytest.raises(TrackingUnavailable, match="No MLflow server answers"):
        choose(make_config(tracking_uri=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(TrackingUnavailable, match="not an MLflow server"):
        choose(make_config(tracking_uri=other_server))


def test_without_a_server_the_database_is_used_directly(make_config, monkeypatch, other_server):
    monkeypatch.setattr(store_module, "LOCAL_SERVER_PORT", free_port())
    uri, kind, description = choose(make_config())
    assert (kind, uri.startswith("sqlite:///")) == ("direct", True)
    assert "no server on port" in description
    monkeypatch.setattr(store_module, "LOCAL_SERVER_PORT", int(other_server.rpartition(":")[2]))
    assert "is not MLflow" in choose(make_config())[2]


def test_a_place_that_a_server_has_no_use_for_is_named(make_config, caplog, tmp_path):
    default = E2EConfig.backend_store_uri
    for config, said in (
        (make_config(), "Not used: --backend-store-uri. The MLflow server at http://a decides"),
        (make_config(data_dir="s3://bucket/x"), "Not used: --backend-store-uri and --data-dir."),
        (make_config(backend_store_uri=default), ""),
        (make_config(backend_store_uri=default, data_dir="s3://bucket/x"), "Not used: --data-dir."),
    ):
        caplog.clear()
        store_module._say_what_is_not_used("http://a", str(tmp_path / "artifacts" / "e"), config)
        assert said in caplog.text and bool(said) == bool(caplog.text)


def test_opening_twice_finds_the_same_experiment(make_config):
    config = make_config(tracking_uri=make_config().backend_store_uri)
    first, second = open_store(config), open_store(config)
    assert first == second
    assert first.artifact_root == f"{config.data_dir}/{config.experiment_name}"


def test_another_data_dir_for_the_same_experiment_is_refused(make_config, store, tmp_path):
    config = make_config(tracking_uri=make_config().backend_store_uri, data_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="keeps its artifacts in"):
        open_store(config)


def test_an_experiment_in_the_trash_is_restored(make_config, store):
    import mlflow

    mlflow.delete_experiment(store.experiment_id)
    assert open_store(make_config(tracking_uri=store.uri)).experiment_id == store.experiment_id


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="Cannot write"):
        check_writable(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told(tmp_path):
    import subprocess

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    try:
        with pytest.raises(StorageFailed, match="MB are free|No space"):
            check_writable(tmp_path / "data")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_database_that_is_no_database(make_config, tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "mlflow.db").write_text("this is no SQLite file, but long enough to be taken for one" * 50)
    with pytest.raises(TrackingUnavailable, match="database"):
        open_store(make_config(tracking_uri=make_config().backend_store_uri))


def test_passwords_are_stars():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("sqlite:////a/b") == "sqlite:////a/b"


def test_the_database_is_a_real_sqlite_file(store):
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as connection:
        assert connection.execute("select count(*) from experiments").fetchone()[0] >= 1


def test_an_experiment_made_below_the_data_dir_in_another_folder_is_taken(make_config, tmp_path):
    """MLflow's UI server names the folders of the experiments that are made through it by their number."""
    import mlflow

    config = make_config(tracking_uri=make_config().backend_store_uri, experiment_name="through-the-ui")
    open_store(make_config(tracking_uri=config.tracking_uri))
    mlflow.create_experiment("through-the-ui", artifact_location=f"{config.data_dir}/7")
    assert open_store(config).artifact_root == f"{config.data_dir}/7"


def test_an_experiment_whose_artifacts_a_server_keeps_is_refused_without_it(make_config, store):
    import mlflow

    mlflow.create_experiment("on-a-server", artifact_location="mlflow-artifacts:/3")
    with pytest.raises(ConfigError, match="made through an MLflow server"):
        open_store(make_config(tracking_uri=store.uri, experiment_name="on-a-server"))


KILLED_WHILE_BUILDING = """
import os, signal, sys, threading, time
from pathlib import Path
def kill_soon():
    while not list(Path(sys.argv[1]).glob('.new-database-*/*')):
        time.sleep(0.005)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
import mlflow
from genai_lifecycle.tracking.store import _make_database
threading.Thread(target=kill_soon).start()
_make_database(f'sqlite:///{sys.argv[1]}/mlflow.db')
time.sleep(5)
"""


def test_a_process_killed_while_it_builds_the_database_leaves_none(make_config, tmp_path):
    import signal
    import subprocess
    import sys

    (tmp_path / "db").mkdir()
    script = [sys.executable, "-c", KILLED_WHILE_BUILDING, str(tmp_path / "db")]
    assert subprocess.run(script, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "db" / "mlflow.db").exists()
    assert open_store(make_config(tracking_uri=make_config().backend_store_uri)).experiment_id
