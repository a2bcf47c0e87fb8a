"""Stage `serve`: the exact serving commands; with `--start`, the server itself. Supervision is in `supervisor.py`."""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from genai_lifecycle.config import CHECKOUT, FEEDBACK_FILE, PORTS, PROGRAM, SERVER_PORT, E2EConfig
from genai_lifecycle.errors import PortTaken
from genai_lifecycle.runtime import interruption
from genai_lifecycle.runtime.addresses import without_password
from genai_lifecycle.serving.commands import mlflow, mode_command, server
from genai_lifecycle.serving.processes import (
    ServerProcess,
    ask,
    is_port_taken,
    new_log,
    sigterm_as_ctrl_c,
    url_from_here,
    wait_until_ready,
)
from genai_lifecycle.serving.supervisor import supervise
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.tracking_store import Store


@dataclass(frozen=True)
class ServeSettings(Settings):
    """Where the server listens; all else comes from its own variables."""

    port: int = setting(SERVER_PORT, "port of the server", limits=PORTS)


@dataclass(frozen=True)
class StartSettings(Settings):
    """Whether mode `serve` runs the server; `all` never does."""

    start: bool = setting(False, "run the server, watched and restarted, instead of printing how")


@dataclass(frozen=True)
class ServePlan:
    """How to serve a version: commands to type, in words of this machine."""

    model_uri: str
    commands: tuple[tuple[str, str], ...]  # (what it is for, command)
    url: str  # of our server
    hint: str = ""  # what keeps it from starting


SERVER = CHECKOUT / "fastapi_server.py"
READY_TIMEOUT_S = 600.0  # loading a model of a few hundred million parameters and answering its golden prompts
GRACE_S = 60.0  # longer than the server's own grace period, so that it finishes what it has accepted
KEYS = ("API_KEYS", "API_KEYS_FILE", "ADMIN_KEYS", "ADMIN_KEYS_FILE")
_ASK = """-H 'Content-Type: application/json' -d '{"question": "What is MLflow?"}'"""
_INVOKE = """-H 'Content-Type: application/json' -d '{"inputs": ["What is MLflow?"]}'"""


def serve_plan(config: E2EConfig, store: Store, settings: ServeSettings) -> ServePlan:
    """The commands that serve the champion (the candidate, where nothing has passed a test yet).

    Raises:
        NotFound: nothing was deployed yet.
    """
    model_uri, port = model_registry.best_uri(config.registered_model_name), settings.port
    url = url_from_here(_host(os.environ), port)
    tracking = f"MLFLOW_TRACKING_URI={shlex.quote(without_password(config.tracking_uri or store.uri))}"
    if config.s3_endpoint_url:  # the keys come from where they come from now
        tracking = f"MLFLOW_S3_ENDPOINT_URL={shlex.quote(config.s3_endpoint_url)} {tracking}"
    watched = mode_command(config, "serve", "--start", *port_flag(settings))
    return ServePlan(
        model_uri=model_uri,
        commands=(
            (
                "our server, Swagger at /docs",
                f"{tracking} MLFLOW_MODEL_URI={model_uri} PORT={port} {server()}",
            ),
            ("the same, watched and restarted", watched),
            ("ask it", f"curl {url}/ask{_key_header(os.environ)} {_ASK}"),
            (
                "MLflow's own server",
                f"{tracking} {mlflow()} models serve -m {model_uri} -p {port} --env-manager local",
            ),
            ("ask that one", f"curl http://127.0.0.1:{port}/invocations {_INVOKE}"),
        ),
        url=url,
        hint=_hint(os.environ),
    )


def port_flag(settings: ServeSettings) -> list[str]:
    """What is to be typed for a port that is not the usual one."""
    return ["--port", str(settings.port)] if settings.port != SERVER_PORT else []


def _host(env: Mapping[str, str]) -> str:
    """Where our server listens, by its own variable; it takes an IPv6 address in brackets too."""
    return (env.get("HOST") or "127.0.0.1").strip("[]")


def _hint(env: Mapping[str, str]) -> str:
    """What to set first, where our server would refuse to start: other machines reach it, and it has no key."""
    if _is_loopback(_host(env)) or any(env.get(name) for name in (*KEYS, "ALLOW_OPEN")):
        return ""
    return (
        f"HOST is {_host(env)}, which other machines can reach, and there is no key: set API_KEYS (and ADMIN_KEYS for "
        "the admin routes) first, or ALLOW_OPEN=true to let everybody ask."
    )


def _key_header(env: Mapping[str, str]) -> str:
    """What a caller of our server adds, where it asks for a key."""
    return " -H 'Authorization: Bearer YOUR_KEY'" if any(env.get(name) for name in KEYS) else ""


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def run_server(config: E2EConfig, store: Store, settings: ServeSettings, tell: Callable[[str], None]) -> None:
    """Run our server over the champion until Ctrl-C or SIGTERM; returns when all its processes are gone.

    It is started again after a crash. HOST and the server's other settings come from the environment.

    Raises:
        NotFound: nothing was deployed yet.
        PortTaken: another program listens on the port.
        ServerFailed: it was never ready, or crashed too often.
    """
    host, port = _host(os.environ), settings.port
    environment = {
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_REGISTRY_URI": store.uri,
        "MLFLOW_MODEL_URI": model_registry.best_uri(config.registered_model_name),
        "HOST": host,
        "PORT": str(port),
        "ENGINE": config.engine,
        # not below the folder that we happen to be started in
        "FEEDBACK_FILE": str(config.feedback_file),
        "PROMPT_FILE": os.environ.get("PROMPT_FILE") or str(FEEDBACK_FILE.with_name("prompt.json")),
    }
    if is_port_taken(host, port):
        raise PortTaken(
            f"Another program listens on port {port}.",
            hint=f"Stop it, or choose another port: {PROGRAM} --mode serve --start --port N",
        )
    log_file = new_log(config.log_dir, f"server-{port}.log")
    url = url_from_here(host, port)
    try:
        with sigterm_as_ctrl_c():
            supervise(
                start=lambda: ServerProcess([sys.executable, str(SERVER)], log_file, environment, GRACE_S),
                wait_ready=lambda server: _wait_ready(server, url, tell),
                tell=tell,
            )
        tell("The server was ended from outside, in good order.")
    except KeyboardInterrupt:
        interruption.handled()
        tell("The server has ended.")


def _wait_ready(server: ServerProcess, url: str, tell: Callable[[str], None]) -> None:
    wait_until_ready(server, lambda: ask(f"{url}/health/ready")[0] == 200, "the server", READY_TIMEOUT_S)
    curl = f"curl {url}/ask{_key_header(os.environ)} {_ASK}"
    tell(f"Ready       {url}/docs   (Ctrl-C ends it; log: {server.log_file})\n  {curl}")
