"""Which MLflow a model is looked up in: the named one, a server on the port, the checkout's database; or none."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import forked
import pytest
from conftest import REPO, free_port
from listening import answering
from stand_in_server import wait_until

from genai_server.errors import NoStore
from genai_server.runtime import store
from genai_server.runtime.store import find_store
from genai_server.settings import ServerSettings

REGISTERED = ServerSettings.model_uri


class MLflow(BaseHTTPRequestHandler):
    """Answers as MLflow's server does."""

    def do_GET(self):
        self.server.asked = True
        self.send_response(200)
        self.end_headers()
        self.wfile.write({"/health": b"OK", "/version": b"3.17.2"}.get(self.path, b""))

    def log_message(self, *_):
        pass


class Other(MLflow):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")


@pytest.fixture
def database(tmp_path, monkeypatch) -> Path:
    """The checkout's, which is there; nothing listens on the port."""
    file = tmp_path / "backend" / "mlflow.db"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(store, "DATABASE", f"sqlite:///{file}")
    monkeypatch.setattr(store, "LOCAL_SERVER", f"http://127.0.0.1:{free_port()}")
    return file


def test_without_an_address_the_database_that_make_all_wrote(database):
    found = find_store(REGISTERED, None, {})
    assert found.uri == f"sqlite:///{database}"
    assert "no MLflow server on port" in found.description and str(database) in found.description
    other = database.with_name("other.db")
    other.touch()
    assert find_store(REGISTERED, None, {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{other}"}).uri.endswith("/other.db")


def test_the_real_places_are_those_of_the_orchestrator():
    from genai_lifecycle.config import LOCAL_SERVER_PORT, E2EConfig

    assert E2EConfig.backend_store_uri == store.DATABASE
    assert f"http://127.0.0.1:{LOCAL_SERVER_PORT}" == store.LOCAL_SERVER


def test_an_installed_copy_looks_below_the_current_folder(tmp_path):
    copy = tmp_path / "site-packages" / "genai_server"
    (copy / "runtime").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "runtime/__init__.py", "runtime/store.py"):
        shutil.copyfile(REPO / "genai_server" / name, copy / name)
    command = [sys.executable, "-c", "from genai_server.runtime import store; print(store.DATABASE)"]
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"sqlite:///{tmp_path}/local_mlflow_backend/mlflow.db\n"


def test_a_server_on_the_port_comes_first_and_a_named_address_before_it(database, monkeypatch):
    with answering(MLflow) as url:
        monkeypatch.setattr(store, "LOCAL_SERVER", url)
        assert find_store(REGISTERED, None, {}).uri == url
        assert find_store(REGISTERED, "http://mlflow:5000", {}).uri == "http://mlflow:5000"
        assert (
            find_store(REGISTERED, None, {"MLFLOW_REGISTRY_URI": "http://registry:5000"}).uri == "http://registry:5000"
        )
        assert find_store("/opt/model", None, {}).uri is None, "a bundle looks for nothing"
        assert find_store("/opt/model", "sqlite:////not/there.db", {}).uri == "sqlite:////not/there.db"


@pytest.mark.slow
def test_what_is_not_mlflow_is_left_alone_within_seconds(database, monkeypatch):
    with answering(Other) as url:
        monkeypatch.setattr(store, "LOCAL_SERVER", url)
        assert find_store(REGISTERED, None, {}).uri == f"sqlite:///{database}"
    started = time.monotonic()
    for behave in (lambda listener: None, _drip):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=behave, args=(listener,), daemon=True).start()
            monkeypatch.setattr(store, "LOCAL_SERVER", f"http://127.0.0.1:{listener.getsockname()[1]}")
            assert find_store(REGISTERED, None, {}).uri == f"sqlite:///{database}"
    assert time.monotonic() - started < 30


def _drip(listener: socket.socket) -> None:
    """An answer without an end, a byte now and then."""
    near, _ = listener.accept()
    for byte in b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1000:
        near.send(bytes([byte]))
        time.sleep(0.2)


def test_a_database_that_is_not_there_is_not_made(database):
    database.unlink()
    for named in (None, f"sqlite:///{database}", f"sqlite:///{database}?timeout=3"):
        with pytest.raises(NoStore, match=r"There is no MLflow database .*mlflow\.db\. Run make all .* first"):
            find_store(REGISTERED, named, {})
    assert not database.exists()


def test_a_password_goes_to_mlflows_client_alone(database):
    found = find_store(REGISTERED, "https://me%40x:hu%2Fsh@mlflow:5000/base", {})
    assert (found.uri, found.description) == ("https://mlflow:5000/base", "https://mlflow:5000/base (as named)")
    assert found.login == {"MLFLOW_TRACKING_USERNAME": "me@x", "MLFLOW_TRACKING_PASSWORD": "hu/sh"}
    assert "hu/sh" not in repr(found)
    assert "hush" not in find_store(REGISTERED, "postgresql://me:hush@host/db?password=hush", {}).description
    with pytest.raises(NoStore, match="MLFLOW_TRACKING_URI is no address"):
        find_store(REGISTERED, "http://me:hush@[::1", {})


def test_a_relative_database_is_one_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for named, address in (
        ("sqlite:///lab.db", f"sqlite:///{tmp_path}/lab.db"),
        ("sqlite:///lab.db?timeout=3", f"sqlite:///{tmp_path}/lab.db?timeout=3"),
        ("sqlite:////abs/lab.db", "sqlite:////abs/lab.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("./mlruns", "./mlruns"),
    ):
        assert ServerSettings.from_env({"MLFLOW_TRACKING_URI": named}).tracking_uri == address


# --- the process ---


@pytest.fixture(scope="module")
def champion(tmp_path_factory, saved_tiny) -> Path:
    """The database of a registry whose champion has the name that the server looks for."""
    import mlflow

    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    client = mlflow.MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}")
    client.create_registered_model("langchain-e2e-model")
    client.create_model_version("langchain-e2e-model", f"file://{saved_tiny}")
    client.set_registered_model_alias("langchain-e2e-model", "champion", "1")
    return file


def _in_the_fork(database: str, port: int) -> None:
    store.DATABASE, store.LOCAL_SERVER = f"sqlite:///{database}", f"http://127.0.0.1:{port}"


def _start(folder: Path, database: Path, **variables: str) -> tuple[forked.Popen, Path]:
    log = folder / "log"
    environment = os.environ | {"PORT": str(free_port()), "THREADS": "1", "ENGINE": "torch"} | variables
    with log.open("w") as file:
        process = forked.Popen(
            [sys.executable, str(REPO / "fastapi_server.py")], cwd=folder, env=environment, stdout=file, stderr=file,
            prepare=functools.partial(_in_the_fork, str(database), free_port()),
        )  # fmt: skip
    return process, log


@pytest.mark.slow
def test_the_server_as_it_is_typed_serves_the_champion(champion, tmp_path):
    process, log = _start(tmp_path, champion)
    try:
        wait_until(lambda: "now answering" in log.read_text() or process.poll() is not None, 120)
        assert "now answering: langchain-e2e-model version 1" in log.read_text()
        assert log.read_text().startswith(f"MLflow: sqlite:///{champion} (directly: no MLflow server on port ")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not (tmp_path / "mlflow.db").exists()


def test_without_any_store_it_says_what_to_do(tmp_path):
    process, log = _start(tmp_path, tmp_path / "nowhere" / "mlflow.db")
    assert process.wait(60) == 4
    said = f"Error: There is no MLflow database {tmp_path}/nowhere/mlflow.db. Run make all (--mode all) first, or name"
    assert log.read_text().startswith(said) and log.read_text().count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_dead_server_behind_a_password_is_named_without_it(tmp_path):
    named = f"http://me:hush@127.0.0.1:{free_port()}"
    process, log = _start(tmp_path, tmp_path / "x", MLFLOW_TRACKING_URI=named, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert process.wait(120) == 4
    assert "Error: API request to http://127.0.0.1" in log.read_text() and "hush" not in log.read_text()


def test_a_variable_that_once_named_the_experiment_of_the_traces_is_told(champion, tmp_path):
    variables = {"MLFLOW_EXPERIMENT_NAME": "life", "MLFLOW_TRACE_SAMPLING_RATIO": "1"}
    process, log = _start(tmp_path, tmp_path / "x", MLFLOW_MODEL_URI=str(tmp_path / "nowhere"), **variables)
    assert process.wait(120) == 4
    assert log.read_text().startswith("Traces go to the experiment serving: it is TRACE_EXPERIMENT that names another")
