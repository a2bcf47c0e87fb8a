"""Serve a registered model over HTTP: `python fastapi_server.py`, then open http://127.0.0.1:5001/docs."""

import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from types import FrameType

import uvicorn

from genai_server.errors import NoStore, SettingsError
from genai_server.http.app import create_app
from genai_server.http.protocol import TimedProtocol, listening_socket
from genai_server.runtime import daemon
from genai_server.runtime.logs import set_up
from genai_server.runtime.memory import unmap_large_blocks
from genai_server.runtime.store import find_store
from genai_server.settings import ServerSettings, in_address

WRONG_SETTING, NO_MODEL, PORT_TAKEN, ENGINE_FAILED = 2, 4, 10, 19  # exit codes; after 19 a restart may help
MOST_FILES = 65_536  # open at once, where the system allows it: each connection is one


class Server(uvicorn.Server):
    """Not ready from the first signal on; uvicorn then finishes what was accepted."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In uvicorn's place, which would raise the signal again at the end and so never exit with 0."""
        self.config.app.state.serving.predictor.stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT  # a second Ctrl-C does not wait
        self.should_exit = True


# A look-up in an MLflow that is gone ends in seconds; MLflow's own defaults are minutes.
MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def main() -> int:
    """Run until SIGTERM or Ctrl-C, or until the model turns out not to be servable; returns the exit code."""
    unmap_large_blocks()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        settings = ServerSettings.from_env()
    except SettingsError as exc:
        logging.error("Error: %s", exc)
        return WRONG_SETTING
    set_up(settings.log_format, settings.log_level)
    address = f"{in_address(settings.host)}:{settings.port}"
    if not settings.has_keys and not settings.is_local:
        logging.warning("Whoever reaches %s may ask: ALLOW_OPEN is set, and there are no keys.", address)
    try:
        listening = listening_socket(settings.host, settings.port)
    except OSError as exc:
        logging.error("Error: cannot listen on %s: %s.", address, exc.strerror)
        return PORT_TAKEN
    allow_many_connections()
    with listening:
        try:
            return _run(_with_store(settings), listening)
        except NoStore as exc:
            logging.error("Error: %s", exc)
            return NO_MODEL


def _with_store(settings: ServerSettings) -> ServerSettings:
    """The settings with the MLflow that is used, which is said in the log. Raises NoStore."""
    store = find_store(settings.model_uri, settings.tracking_uri)
    if store.uri:
        logging.info("MLflow: %s", store.description)
        os.environ.update(store.login, MLFLOW_TRACKING_URI=store.uri)
    is_explicit = os.environ.get("TRACE_EXPERIMENT") or not os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if settings.trace_sampling_ratio and not is_explicit:
        logging.warning(
            "Traces go to the experiment %s: it is TRACE_EXPERIMENT that names another one, no longer"
            " MLFLOW_EXPERIMENT_NAME.", settings.trace_experiment,
        )  # fmt: skip
    return replace(settings, tracking_uri=store.uri)


def allow_many_connections() -> None:
    """As many open files as the system lets this process have: with none left nobody can connect, probes too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _run(settings: ServerSettings, listening: socket.socket) -> int:
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app, http=TimedProtocol, log_level="warning", access_log=False,
        timeout_graceful_shutdown=int(settings.grace_s) or 1,
    )  # fmt: skip
    server = Server(config)
    server.run(sockets=[listening])
    predictor = app.state.serving.predictor
    if predictor.failure:
        logging.error("Error: %s", predictor.failure)
        return NO_MODEL
    if predictor.engine_failure:
        logging.error("Error: %s The server ends, to be restarted.", predictor.engine_failure)
        return ENGINE_FAILED
    return 0


def leave(code: int) -> None:
    """End the process; work that hangs (a download, a model that is not ours) is not waited for."""
    if daemon.is_work_left():
        logging.shutdown()
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    leave(main())
