"""MLflow's own UI over the store of a configuration, in the foreground. How processes are run is in `processes.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from genai_lifecycle.config import LOCAL_SERVER_PORT, PORTS, PROGRAM, E2EConfig
from genai_lifecycle.errors import PortTaken
from genai_lifecycle.runtime import interruption
from genai_lifecycle.runtime.addresses import SQLITE, sqlite_file, without_password
from genai_lifecycle.serving.mlflow_server import base_command
from genai_lifecycle.serving.processes import (
    ServerProcess,
    ask,
    failed,
    is_port_taken,
    new_log,
    sigterm_as_ctrl_c,
    wait_until_ready,
)
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store.tracking_store import absolute, choose, open_store, probe, short


@dataclass(frozen=True)
class UiSettings(Settings):
    """Where the UI listens."""

    port: int = setting(LOCAL_SERVER_PORT, "port of the UI", limits=PORTS)


HOST = "127.0.0.1"
NAME = "MLflow's UI"
READY_TIMEOUT_S = 120.0  # 8 to 12 s as a rule; half a minute was seen with cold disk caches
GRACE_S = 10.0
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a quarter of the processes and of the memory
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def run_ui(config: E2EConfig, settings: UiSettings, tell: Callable[[str], None]) -> None:
    """Run `mlflow server` over the store until Ctrl-C or SIGTERM; returns when all its processes are gone.

    Where an MLflow server is named, or listens on the port already, there is nothing to start: it says so and
    returns.

    Raises:
        TrackingUnavailable: the named server does not answer.
        PortTaken: something that is not MLflow listens on the port.
        ServerFailed: the UI did not start, or ended by itself.
        StorageFailed: the database, the artifact root or the log cannot be written.
    """
    if config.tracking_uri and config.tracking_uri.startswith("http"):
        choose(config)
        tell(f"Nothing to start: this MLflow server has its UI at {without_password(config.tracking_uri)}")
        return
    config = replace(config, backend_store_uri=config.tracking_uri or config.backend_store_uri, tracking_uri=None)
    url = f"http://{HOST}:{settings.port}"
    if _is_there(url, settings.port):
        tell(f"An MLflow server runs there already, its UI is at {url} (with --port N another one starts beside it)")
        return
    try:
        with sigterm_as_ctrl_c():
            _run(config, url, settings.port, tell)
    except KeyboardInterrupt:
        interruption.handled()
        tell(f"{NAME} has ended.")


def _is_there(url: str, port: int) -> bool:
    if not is_port_taken(HOST, port):
        return False
    if probe(url) == "mlflow":
        return True
    raise PortTaken(
        f"Something that is not MLflow listens on port {port}.",
        hint=f"Stop it, or choose another port: {PROGRAM} --mode ui --port N",
    )


def _run(config: E2EConfig, url: str, port: int, tell: Callable[[str], None]) -> None:
    tell(f"{NAME} over {short(config.backend_store_uri)} is starting")
    _make_database(config)
    log_file = new_log(config.log_dir, f"mlflow-ui-{port}.log")
    command = [sys.executable, "-m", *ui_command(config, port), "--uvicorn-opts", "--log-level warning"]
    environment = ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": config.backend_store_uri}
    with ServerProcess(command, log_file, environment, GRACE_S) as server:
        wait_until_ready(server, lambda: _is_mlflow(url), NAME, READY_TIMEOUT_S)
        tell(f"Open {url}   (Ctrl-C ends it; log: {log_file})")
        code = server.wait()
    if is_port_taken(HOST, port):  # MLflow ends with 0 then, and the other one has answered in its place
        raise PortTaken(f"Another server was quicker to take port {port}.", hint=f"Look at {url} for its UI.")
    raise failed(server, f"{NAME} ended by itself with exit code {code}.")


def ui_command(config: E2EConfig, port: int) -> list[str]:
    """`mlflow server` that leaves artifacts in plain folders: what is made while it runs works without it too.

    Where the database is stands in its environment.
    """
    root = absolute(config.data_dir)
    command = _without_address(base_command(config, HOST, port))
    return [*command, "--no-serve-artifacts", "--default-artifact-root", root]


def _without_address(command: list[str]) -> list[str]:
    """Everybody on this machine sees the words of a command; the address may have a password in it."""
    at = command.index("--backend-store-uri")
    return command[:at] + command[at + 2 :]


def _make_database(config: E2EConfig) -> None:
    """Make a store that does not exist yet as every mode does, so that it works with and without this server."""
    uri = config.backend_store_uri
    if uri.startswith(SQLITE) and not sqlite_file(uri).exists():
        open_store(replace(config, tracking_uri=uri))


def _is_mlflow(url: str) -> bool:
    """Whether MLflow itself answers, and has opened its database: `/health` alone says neither."""
    status, body = ask(f"{url}/api/3.0/mlflow/server-info")
    try:
        return status == 200 and "store_type" in json.loads(body)
    except ValueError:
        return False
