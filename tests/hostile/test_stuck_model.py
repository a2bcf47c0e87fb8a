"""A model that is not ours and never comes back, in an answer or while it loads: callers and the operator go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from stand_in_server import free_port

from genai_server.answering import answerers
from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

pytestmark = pytest.mark.slow


REPO = Path(__file__).resolve().parents[2]
INFO = ModelInfo(model="m", model_uri="models:/m/1", model_version="1", prompt="p/1")
MODEL = """
import os
import time
import mlflow

class Stuck(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        time.sleep(float(os.environ.get("LOADS_FOR_S", "0")))

    def predict(self, context, model_input, params=None):
        time.sleep(3600)

mlflow.models.set_model(Stuck())
"""


class Pyfunc:
    def __init__(self):
        self.go_on, self.calls = threading.Event(), 0

    def predict(self, data, params=None):
        self.calls += 1
        self.go_on.wait(60)
        return ["late"] * len(data)


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(answerers, "STUCK_AFTER_S", 1.0)
    pyfunc, failed = Pyfunc(), threading.Event()
    settings = ServerSettings(request_timeout_s=0.3)
    load = lambda *_: LoadedModel(ThreadAnswerer(pyfunc, threads=2), INFO)  # noqa: E731
    with TestClient(create_app(settings, load, on_failure=failed.set)) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client, pyfunc, failed
        pyfunc.go_on.set()


def test_its_callers_get_an_error_at_their_deadline(served):
    """Before, they waited for ever, and so did everybody after the fourth."""
    client, pyfunc, failed = served
    for path, body in (("/ask", {"question": "q"}), ("/ask/batch", {"questions": [{"question": "q"}]})):
        answer = client.post(path, json=body)
        text = answer.text
        assert answer.status_code == 504 or '"status":504' in text
        assert "did not answer within 0.3 s" in text
    assert client.get("/health/ready").status_code == 503, "both threads are lost"
    assert client.get("/health/live").status_code == 200
    assert client.post("/ask", json={"question": "q"}).status_code == 503
    assert failed.wait(10), "stuck for good"
    assert client.get("/health/live").status_code == 503


def test_a_model_that_comes_back_is_asked_again(served):
    client, pyfunc, failed = served
    for _ in range(2):
        assert client.post("/ask", json={"question": "q"}).status_code == 504
    pyfunc.go_on.set()
    end = time.monotonic() + 10
    while client.get("/health/ready").status_code != 200 and time.monotonic() < end:
        time.sleep(0.02)
    assert client.post("/ask", json={"question": "q"}).json()["answer"] == "late"


def started(tmp_path: Path, loads_for_s: float) -> tuple[subprocess.Popen, str]:
    """The real server over a model from a folder."""
    import mlflow

    (tmp_path / "model.py").write_text(MODEL)
    mlflow.pyfunc.save_model(tmp_path / "saved", python_model=str(tmp_path / "model.py"))
    port = free_port()
    environment = {
        **os.environ, "MLFLOW_MODEL_URI": str(tmp_path / "saved"), "PORT": str(port), "REQUEST_TIMEOUT_S": "1",
        "GRACE_S": "1", "FEEDBACK_FILE": str(tmp_path / "feedback.jsonl"), "LOADS_FOR_S": str(loads_for_s),
    }  # fmt: skip
    server = subprocess.Popen([sys.executable, str(REPO / "fastapi_server.py")], cwd=tmp_path, env=environment)
    return server, f"http://127.0.0.1:{port}"


def wait_for_status(url: str, status: int) -> None:
    import httpx

    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5).status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"{url} never answered {status}")


def ends_within(server: subprocess.Popen, seconds: float) -> int:
    try:
        return server.wait(seconds)
    finally:
        if server.poll() is None:
            server.kill()


def test_sigterm_does_not_wait_for_a_first_load_that_hangs(tmp_path):
    server, url = started(tmp_path, 3600)
    wait_for_status(f"{url}/health/live", 200)
    time.sleep(0.5)
    server.send_signal(signal.SIGTERM)
    assert ends_within(server, 10) == 0


def test_sigterm_does_not_wait_for_a_model_that_is_stuck(tmp_path):
    import httpx

    server, url = started(tmp_path, 0)
    wait_for_status(f"{url}/health/ready", 200)
    assert httpx.post(f"{url}/ask", json={"question": "q"}, timeout=20).status_code == 504
    server.send_signal(signal.SIGTERM)
    assert ends_within(server, 10) == 0
