"""An MLflow that takes connections and never answers: feedback is answered at once, other routes do not wait, the
server ends in seconds, and a server that is killed loses no feedback that it said it has."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import REPO, free_port
from stand_in_server import wait_until

pytestmark = pytest.mark.slow


AT_ONCE = 50
SOON_S = 15.0  # generous: the machine is busy with other tests; MLflow's own time-outs add up to more than 40 s


@pytest.fixture
def hole() -> Iterator[str]:
    """The address of something that listens, takes connections and is silent."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=500)
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:  # closed
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection in held:
        connection.close()


@dataclass
class Server:
    process: subprocess.Popen
    url: str
    folder: Path

    def give(self, number: int) -> tuple[int, str, float]:
        """Feedback: status, what was answered, seconds."""
        began = time.monotonic()
        said = {"request_id": f"r-{number}", "value": True}
        response = httpx.post(f"{self.url}/feedback", json=said, timeout=120)
        return response.status_code, response.json().get("kept"), time.monotonic() - began

    def give_all(self, first: int) -> list[tuple[int, str, float]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.give, range(first, first + AT_ONCE)))

    def ledger(self) -> list[str]:
        lines = (self.folder / "feedback.jsonl").read_text("utf-8").splitlines()
        return sorted(json.loads(line)["request_id"] for line in lines)

    def ended_after_s(self) -> float:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        return time.monotonic() - began


@pytest.fixture
def server(saved_tiny, tmp_path) -> Iterator[Callable[[str], Server]]:
    """Starts a server that traces everything to this MLflow, and waits until it is ready."""
    started: list[subprocess.Popen] = []

    def start(tracking_uri: str) -> Server:
        port = free_port()
        environment = os.environ | {
            "MLFLOW_MODEL_URI": str(saved_tiny), "PORT": str(port), "THREADS": "1", "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_TRACE_SAMPLING_RATIO": "1", "FEEDBACK_FILE": str(tmp_path / "feedback.jsonl"),
            "PROMPT_FILE": str(tmp_path / "prompt.json"),
        }  # fmt: skip
        for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            environment.pop(name, None)  # the server's own
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "fastapi_server.py"], cwd=REPO, env=environment, stdout=log, stderr=log
            )
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is None and answers(f"{url}/health/ready"), 180)
        return Server(process, url, tmp_path)

    yield start
    for process in started:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def test_fifty_at_once_are_answered_and_nothing_else_waits(server, hole):
    running = server(hole)
    probes: list[float] = []
    has_ended = threading.Event()

    def probe() -> None:
        while not has_ended.wait(0.05):
            for path, body in (("/health/live", None), ("/ask", {"question": "a", "max_new_tokens": 2})):
                began = time.monotonic()
                url = f"{running.url}{path}"
                response = httpx.post(url, json=body, timeout=120) if body else httpx.get(url, timeout=120)
                assert response.status_code == 200
                probes.append(time.monotonic() - began)

    probing = threading.Thread(target=probe)
    probing.start()
    first, second = running.give_all(0), running.give_all(AT_ONCE)
    has_ended.set()
    probing.join()
    for status, kept, seconds in (*first, *second):
        assert (status, kept) == (200, "ledger") and seconds < SOON_S
    assert probes and max(probes) < SOON_S
    assert running.ledger() == sorted(f"r-{number}" for number in range(2 * AT_ONCE))
    # its thread is stuck with MLflow, and so is the trace writer
    assert running.ended_after_s() < SOON_S and running.process.returncode == 0


def test_a_killed_server_loses_nothing_that_it_said_it_has(server, hole):
    running = server(hole)
    kept: list[str] = []

    def give(number: int) -> None:
        try:
            status, _, _ = running.give(number)
        except httpx.HTTPError:  # killed before it answered
            return
        if status == 200:
            kept.append(f"r-{number}")

    with ThreadPoolExecutor(8) as pool:
        giving = [pool.submit(give, number) for number in range(200)]
        wait_until(lambda: len(kept) >= 40, 120)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        for each in giving:
            each.result()
    assert len(kept) >= 40 and set(kept) <= set(running.ledger())
