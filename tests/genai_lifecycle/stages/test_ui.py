"""`--mode ui` over a store that is filled without the server. One real MLflow server for the whole file."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TextIO

import forked
import pytest
from stand_in_server import free_port, wait_until_gone

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import PortTaken, StorageFailed, TrackingUnavailable
from genai_lifecycle.serving.processes import ServerFailed, is_port_taken
from genai_lifecycle.stages import ui
from genai_lifecycle.stages.ui import UiSettings, run_ui
from genai_lifecycle.store.tracking_store import open_store

pytestmark = pytest.mark.slow


REPO = Path(__file__).resolve().parents[3]
# As --mode ui does it, with each line told at once and with Ctrl-C as in a terminal.
PROGRAM = """
import signal, sys
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.stages.ui import UiSettings, run_ui
signal.signal(signal.SIGINT, signal.default_int_handler)
port, backend_store_uri, data_dir, log_dir = sys.argv[1:]
config = E2EConfig(backend_store_uri=backend_store_uri, data_dir=data_dir, log_dir=log_dir)
run_ui(config, UiSettings(port=int(port)), tell=lambda line: print(line, flush=True))
"""


@dataclass(frozen=True)
class Running:
    config: E2EConfig
    port: int
    url: str
    run_id: str
    process: forked.Popen
    told: str  # the line with the address
    lines: TextIO  # what it tells later
    log: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Running:
    """The UI over a store that did not exist; a run with an artifact is then made straight on SQLite."""
    base = tmp_path_factory.mktemp("ui")
    config = E2EConfig(
        backend_store_uri=f"sqlite:///{base / 'db' / 'mlflow.db'}?timeout=9",
        data_dir=str(base / "artifacts"),
        staging_dir=base / "staging",
        log_dir=base / "logs",
    )
    port = free_port()
    arguments = [str(port), config.backend_store_uri, config.data_dir, str(config.log_dir)]
    command, log = [sys.executable, "-c", PROGRAM, *arguments], base / "log"
    ours, theirs = os.pipe()
    with log.open("w") as errors, os.fdopen(theirs, "w") as output:
        process = forked.Popen(command, cwd=REPO, stdout=output, stderr=errors)
    with os.fdopen(ours, encoding="utf-8") as lines:
        assert "is starting" in lines.readline(), log.read_text("utf-8")
        told = lines.readline()
        yield Running(config, port, f"http://127.0.0.1:{port}", fill(config), process, told, lines, log)
        process.kill()
        process.wait()


def fill(config: E2EConfig) -> str:
    import mlflow

    open_store(E2EConfig(**{**vars(config), "tracking_uri": config.backend_store_uri}))
    with mlflow.start_run(run_name="made directly") as run:
        mlflow.log_text("what was found: ä\n", "reports/report.md")
    return run.info.run_id


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def server_processes(port: int) -> list[int]:
    """The guard, `mlflow server` and what it starts, by the port in their commands."""
    listing = subprocess.run(["ps", "-e", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [
        int(line.split()[0]) for line in listing.splitlines() if re.search(rf"(mlflow|uvicorn) .*--port {port}", line)
    ]


def test_it_tells_where_to_look(running):
    assert running.told.startswith(f"Open {running.url} ")
    assert "mlflow-ui-" in running.told
    assert "<html" in get(running.url).lower()


def test_the_store_that_it_makes_works_with_and_without_it(running):
    """Artifacts have an absolute folder; the server by itself would make addresses that only it understands."""
    found = json.loads(get(f"{running.url}/api/2.0/mlflow/runs/get?run_id={running.run_id}"))
    folder = Path(running.config.data_dir) / running.config.experiment_name
    assert found["run"]["info"]["artifact_uri"] == str(folder / running.run_id / "artifacts")


def test_artifacts_made_without_a_server_are_listed_and_downloaded(running):
    listed = json.loads(get(f"{running.url}/api/2.0/mlflow/artifacts/list?run_id={running.run_id}&path=reports"))
    assert [file["path"] for file in listed["files"]] == ["reports/report.md"]
    report = get(f"{running.url}/get-artifact?run_id={running.run_id}&path=reports/report.md")
    assert report == "what was found: ä\n"


def test_few_processes_run_and_none_of_them_calls_home(running):
    assert len(server_processes(running.port)) == 3  # guard, mlflow, uvicorn
    assert json.loads(get(f"{running.url}/ajax-api/3.0/mlflow/ui-telemetry"))["disable_ui_telemetry"] is True


def test_a_second_ui_on_the_same_port_says_so_and_ends_well(running):
    told = []
    run_ui(running.config, UiSettings(port=running.port), told.append)
    assert told == [
        f"An MLflow server runs there already, its UI is at {running.url} (with --port N another one starts beside it)"
    ]


def test_a_named_server_has_its_own_ui(running, make_config):
    told = []
    run_ui(make_config(tracking_uri=running.url), UiSettings(), told.append)
    assert told == [f"Nothing to start: this MLflow server has its UI at {running.url}"]


def test_ctrl_c_ends_it_well_with_all_its_processes(running):
    left = server_processes(running.port)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0
    assert running.lines.read() == "MLflow's UI has ended.\n"
    assert "Traceback" not in running.log.read_text("utf-8")
    wait_until_gone(left)
    assert not is_port_taken("127.0.0.1", running.port)


# --- without a server -----------------------------------------------------------------------------


class Answer(BaseHTTPRequestHandler):
    body = b"a wiki"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other_port():
    """The port of another web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        yield other.server_port
        other.shutdown()


def test_a_port_with_something_else_is_told_with_the_next_step(make_config, other_port):
    with pytest.raises(PortTaken, match="not MLflow") as caught:
        run_ui(make_config(), UiSettings(port=other_port), print)
    assert "--port" in caught.value.hint


def test_a_silent_port_is_taken_too(make_config, monkeypatch):
    monkeypatch.setattr("genai_lifecycle.store.tracking_store.PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(PortTaken):
        run_ui(make_config(), UiSettings(port=listener.getsockname()[1]), print)


def test_a_named_server_that_does_not_answer_is_told(make_config):
    with pytest.raises(TrackingUnavailable):
        run_ui(make_config(tracking_uri=f"http://127.0.0.1:{free_port()}"), UiSettings(), print)


@pytest.fixture
def instead(monkeypatch, make_config, tmp_path):
    """Runs another module in place of MLflow's server, over a database that is there already."""

    def run(*words: str, port: int | None = None, **given) -> list[str]:
        monkeypatch.setattr(ui, "ui_command", lambda config, port: list(words))
        (tmp_path / "db").mkdir()
        (tmp_path / "db" / "mlflow.db").touch()
        told = []
        run_ui(make_config(**given), UiSettings(port=port or free_port()), told.append)
        return told

    return run


def test_a_server_that_does_not_start_is_told_with_its_last_words(instead):
    with pytest.raises(ServerFailed, match="No module named no_such_module"):
        instead("no_such_module")


@pytest.fixture
def stand_in(monkeypatch) -> int:
    """Makes `stand_in_server` a module that can be run in place of MLflow; returns its port."""
    port = free_port()
    for name, value in {"PYTHONPATH": str(REPO / "tests"), "HOST": "127.0.0.1", "PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    return port


def test_a_server_that_was_quicker_is_told(instead, stand_in, monkeypatch, other_port):
    monkeypatch.setenv("STAND_IN", "too late")
    monkeypatch.setattr(ui, "_is_there", lambda url, port: False)  # the other one comes after the check
    monkeypatch.setattr(Answer, "body", b'{"store_type": "SqlStore"}')
    with pytest.raises(PortTaken, match="quicker"):
        instead("stand_in_server", port=other_port)


def test_ctrl_c_while_it_starts_ends_it_well(instead, stand_in):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)  # raises what Ctrl-C raises
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        assert instead("stand_in_server")[-1] == "MLflow's UI has ended."
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not is_port_taken("127.0.0.1", stand_in)


def test_a_log_folder_that_cannot_be_made_is_told(instead, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        instead("no_such_module", log_dir=tmp_path / "file")
