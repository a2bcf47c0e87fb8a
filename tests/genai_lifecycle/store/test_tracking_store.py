"""Choosing and opening the store: a named server, something else on the port, folders that cannot be written."""

from __future__ import annotations

import base64
import http.server
import os
import re
import socket
import sqlite3
import threading
import time

import pytest
from conftest import free_port

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, StorageFailed, TrackingUnavailable
from genai_lifecycle.runtime.s3_address import name_in
from genai_lifecycle.store import runs
from genai_lifecycle.store import tracking_store as store_module
from genai_lifecycle.store.tracking_store import (
    check_writable,
    choose,
    in_experiment,
    open_store,
    probe,
    without_password,
)


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


@pytest.mark.slow
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


def test_another_data_dir_has_an_experiment_of_its_own(make_config, store, tmp_path):
    """MLflow cannot move an experiment; each root is found again, in any order."""
    import mlflow

    config = make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "else where"))
    other = open_store(config)
    assert re.fullmatch(r"langchain-e2e-else-where-[0-9a-f]{6}", other.experiment_name)
    assert other.artifact_root == f"{tmp_path}/else where/{other.experiment_name}"
    assert (other.elsewhere, store.elsewhere) == (store.artifact_root, "")
    assert mlflow.get_experiment(other.experiment_id).tags[store_module.EXPERIMENT_TAG] == "langchain-e2e"
    third = open_store(make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "3" / "else where")))
    assert len({store.experiment_name, other.experiment_name, third.experiment_name}) == 3
    assert open_store(config) == other and open_store(make_config(tracking_uri=store.uri)) == store


def test_a_run_says_by_which_name_its_experiment_was_asked_for(make_config, store, tmp_path):
    import mlflow

    tags = []
    for config in (
        make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "b")),
        make_config(tracking_uri=store.uri),
    ):
        open_store(config)
        with runs.run("r", "experiment") as run_id, runs.run("n", "template", nested=True) as nested:
            pass
        tags += [mlflow.get_run(number).data.tags.get("lifecycle.experiment") for number in (run_id, nested)]
    assert tags == ["langchain-e2e", "langchain-e2e", None, None]


def test_experiments_of_other_names_have_one_for_each_root_too(make_config, store, tmp_path):
    config = make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "b"))
    in_experiment(store, make_config(), "qa-simple-eval")
    place = in_experiment(open_store(config), config, "qa-simple-eval")
    assert re.fullmatch(r"qa-simple-eval-b-[0-9a-f]{6}", place.experiment_name)
    assert place.artifact_root.startswith(f"{tmp_path}/b/")


def test_an_experiment_of_another_root_stays_in_the_trash(make_config, store, tmp_path):
    import mlflow

    mlflow.delete_experiment(store.experiment_id)
    other = open_store(make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "b")))
    assert mlflow.get_experiment(store.experiment_id).lifecycle_stage == "deleted"
    mlflow.delete_experiment(other.experiment_id)
    again = open_store(make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "b")))
    assert again == other and mlflow.get_experiment(other.experiment_id).lifecycle_stage == "active"


def test_one_that_was_made_elsewhere_by_hand_is_refused(make_config, store, tmp_path):
    import mlflow

    config = make_config(tracking_uri=store.uri, data_dir=str(tmp_path / "b"))
    mlflow.create_experiment(name_in(str(tmp_path / "b"), "langchain-e2e"), artifact_location=str(tmp_path / "c"))
    with pytest.raises(ConfigError, match="keeps its artifacts in"):
        open_store(config)


def test_a_relative_database_with_a_query_is_the_file_in_the_current_folder(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(tracking_uri="sqlite:///lab/m.db?timeout=30")
    first = open_store(config)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert open_store(config) == first
    assert sorted(path.name for path in (tmp_path / "lab").iterdir()) == ["m.db"]


# --- a server behind a password ---


@pytest.fixture
def guarded():
    """A server that looks like MLflow's to whoever says the password; requests to it, with their Authorization."""
    asked = []

    class Guarded(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            knows = asked[-1][1] == f"Basic {base64.b64encode(b'me:hu/sh').decode()}"
            answer = {"/health": b"OK", "/version": b"3.0.0"}.get(self.path, b"{}")
            self.send_response(401 if not knows else 404 if answer == b"{}" else 200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.mark.parametrize("by_variables", [False, True])
def test_a_server_behind_a_password(guarded, make_config, monkeypatch, by_variables):
    import mlflow

    host, asked = guarded
    for name, value in (("USERNAME", "me"), ("PASSWORD", "hu/sh")):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value if by_variables else "to be replaced")
    named = f"http://{host}" if by_variables else f"http://me:hu%2Fsh@{host}"
    uri, kind, description = choose(make_config(tracking_uri=named))
    assert (uri, kind) == (f"http://{host}", "named") and "hu" not in description.replace("http", "")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    assert store_module.still_answers()
    with pytest.raises(mlflow.MlflowException) as caught:
        mlflow.MlflowClient().get_run("x" * 32)
    mlflow.set_tracking_uri(before)
    assert "hu" not in str(caught.value).replace("http", "") and all(password for _, password in asked)
    assert len({password for _, password in asked}) == 1
    if not by_variables:
        with pytest.raises(TrackingUnavailable, match=rf"at http://me:\*\*\*@{host} is not an MLflow server"):
            choose(make_config(tracking_uri=f"http://me:wrong@{host}"))


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
from genai_lifecycle.store.tracking_store import _make_database
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
