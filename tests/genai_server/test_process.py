"""`fastapi_server.py` as a process: where it listens, what it finishes, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from conftest import REPO, free_port, saved_model
from tiny_model import make_gpt2

pytestmark = pytest.mark.slow


LONG = {"question": "What is MLflow?", "max_new_tokens": 600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("process")
    return saved_model(base, make_gpt2(base / "gpt2", positions=1024))


@pytest.fixture
def start(folder, tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen, str]]]:
    """Starts a server and waits until it is ready; none outlives the test."""
    started: list[subprocess.Popen] = []

    def start_one(host: str = "127.0.0.1", **variables: str) -> tuple[subprocess.Popen, str]:
        port = free_port()
        environment = os.environ | {"MLFLOW_MODEL_URI": str(folder), "HOST": host, "PORT": str(port), "THREADS": "1"}
        environment |= {"FEEDBACK_FILE": str(tmp_path / "feedback.jsonl"), **variables}
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "fastapi_server.py"], cwd=REPO, env=environment, stdout=log, stderr=log
        )
        started.append(process)
        return process, f"http://{f'[{host}]' if ':' in host else host}:{port}"

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"never ready; exit code {process.poll()}")


def running(url: str) -> bool:
    return 'genai_num_requests_running{model_name="saved"} 1.0' in httpx.get(f"{url}/metrics", timeout=30).text


def test_sigterm_lets_it_finish_what_it_accepted_and_exit_with_0(start):
    process, url = start("::1" if has_ipv6() else "127.0.0.1", ALLOWED_HOSTS="[::1],127.0.0.1")
    wait_until_ready(url, process)
    for host, status in (("localhost", 200), ("evil.example", 400)):
        assert httpx.get(f"{url}/livez", headers={"host": host}).status_code == status
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/ask", json=LONG, timeout=60)))
    asking.start()
    deadline = time.monotonic() + 30
    while not running(url):
        assert time.monotonic() < deadline and not answers
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    asking.join(10)
    (answer,) = answers
    assert answer.status_code == 200 and answer.json()["completion_tokens"] > 10


def test_a_request_that_does_not_end_holds_the_process_for_its_grace_only(start):
    """The body never comes whole; its own limit would be 30 s."""
    process, url = start(GRACE_S="3")
    wait_until_ready(url, process)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /ask HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(f"{head}{{".encode())
        time.sleep(0.5)  # it has been read
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(20) == 0
    assert time.monotonic() - began > 2


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
