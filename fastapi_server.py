"""Serve a registered model over HTTP: `python fastapi_server.py`, then open http://127.0.0.1:5001/docs."""

import logging
import socket
import sys

import uvicorn

from genai_server.app import create_app
from genai_server.errors import SettingsError
from genai_server.settings import ServerSettings

WRONG_SETTING, NO_MODEL, PORT_TAKEN = 2, 4, 10  # exit codes


def main() -> int:
    """Run until SIGTERM or Ctrl-C, or until the model turns out not to be servable; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        settings = ServerSettings.from_env()
    except SettingsError as exc:
        logging.error("Error: %s", exc)
        return WRONG_SETTING
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            logging.error("Error: cannot listen on %s:%d: %s.", settings.host, settings.port, exc.strerror)
            return PORT_TAKEN
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app, settings.host, settings.port, log_level="warning", timeout_graceful_shutdown=int(settings.grace_s) or 1
    )
    server = uvicorn.Server(config)
    server.run()
    if app.state.predictor.failure:
        logging.error("Error: %s", app.state.predictor.failure)
        return NO_MODEL
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
