"""An MLflow server behind a proxy that asks for a password: the whole life with it, and it is written nowhere."""

from __future__ import annotations

import base64
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import mlflow_server
import pytest
import requests
from cli_process import arguments_for, run_cli
from conftest import free_port, make_cases
from listening import answering

pytestmark = pytest.mark.slow


USER, PASSWORD, QUOTED = "ann@example.com", "hush/hush:1", "hush%2Fhush%3A1"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = [text.encode() for text in (PASSWORD, QUOTED, "hush", BASIC)]
_OF_A_CONNECTION = {"connection", "transfer-encoding", "content-encoding", "content-length", "host"}


def guarding(url: str) -> type[BaseHTTPRequestHandler]:
    """A proxy for whoever knows the password."""

    class Guard(BaseHTTPRequestHandler):
        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Basic {BASIC}":
                return self.answer(401, {}, b"Who are you?")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_A_CONNECTION}
            given = requests.request(self.command, f"{url}{self.path}", headers=headers, data=body, timeout=120)
            self.answer(given.status_code, given.headers, given.content)

        def answer(self, status, headers, content):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _OF_A_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_):
            pass

    return Guard


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """(the proxy's host and port, the folder of the server behind it)."""
    base = tmp_path_factory.mktemp("server")
    flags = [
        "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}", "--artifacts-destination", str(base / "artifacts"),
    ]  # fmt: skip
    with mlflow_server.running(flags, base / "log") as url, answering(guarding(url)) as proxy:
        yield proxy.removeprefix("http://"), base


def found_in(*folders: Path) -> list[tuple[str, bytes]]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [(str(path), secret) for path in files for secret in SECRETS if secret in path.read_bytes()]


def test_the_password_works_and_stands_nowhere(guarded, tmp_path, tiny_gpt2):
    host, base = guarded
    places = {"LIFECYCLE_STAGING_DIR": str(tmp_path / "staging"), "LIFECYCLE_LOG_DIR": str(tmp_path / "logs")}
    flags = ["--override-gate", "--model", str(tiny_gpt2), "--cases", str(make_cases(tmp_path / "cases.jsonl")),
             "--data-dir", str(tmp_path / "unused"), "--output-dir", str(tmp_path / "bundle")]  # fmt: skip
    named = f"http://{USER.replace('@', '%40')}:{QUOTED}@{host}"
    for mode in ("all", "serve", "evaluate", "doctor", "server-config", "ui"):
        done = run_cli(arguments_for(mode, "-v", *flags), MLFLOW_TRACKING_URI=named, **places)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not [secret for secret in SECRETS if secret in (done.stdout + done.stderr).encode()], mode
        if mode in ("all", "serve", "doctor", "ui"):
            assert f"{host}" in done.stdout
        if mode == "serve":
            assert f"MLFLOW_TRACKING_URI='http://{USER.replace('@', '%40')}:***@{host}'" in done.stdout
    assert (tmp_path / "staging" / "last_run.json").is_file() and (base / "mlflow.db").is_file()
    assert found_in(tmp_path, base) == []


@pytest.mark.parametrize("password", ["hush-wrong", None])
def test_a_wrong_one_is_told_without_it(guarded, tmp_path, password):
    host, _ = guarded
    named = f"http://ann:{password}@{host}" if password else f"http://{host}"
    done = run_cli(["--mode", "serve", "--tracking-uri", named, "--data-dir", str(tmp_path)])
    assert done.returncode == 3, done.stderr
    assert f"{host} is not an MLflow server" in done.stderr and "hush" not in done.stderr + done.stdout


def test_the_password_may_be_in_mlflows_own_variables(guarded, tmp_path):
    host, _ = guarded
    variables = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    done = run_cli(["--mode", "doctor", "--tracking-uri", f"http://{host}", "--data-dir", str(tmp_path)], **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"http://{host} answers" in done.stdout and "1 of 1 have their files" in done.stdout
