"""Serve a registered model over HTTP: `python fastapi_server.py`, then open http://127.0.0.1:5001/docs."""

import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn

from genai_server.app import create_app
from genai_server.errors import SettingsError
from genai_server.logs import set_up
from genai_server.settings import ServerSettings

WRONG_SETTING, NO_MODEL, PORT_TAKEN = 2, 4, 10  # exit codes


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
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        settings = ServerSettings.from_env()
    except SettingsError as exc:
        logging.error("Error: %s", exc)
        return WRONG_SETTING
    set_up(settings.log_format, settings.log_level)
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            logging.error("Error: cannot listen on %s:%d: %s.", settings.host, settings.port, exc.strerror)
            return PORT_TAKEN
    return _run(settings)


def _run(settings: ServerSettings) -> int:
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app, settings.host, settings.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=int(settings.grace_s) or 1,
    )  # fmt: skip
    server = Server(config)
    server.run()
    if failure := app.state.serving.predictor.failure:
        logging.error("Error: %s", failure)
        return NO_MODEL
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
