"""How each peer is started on the same weights and asked; a running one with its ready time and memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from load import Api

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
READY_TIMEOUT_S = 180.0
TEMPLATE = "Question: {question}\nAnswer:"  # qa-simple, which our packages have frozen


@dataclass(frozen=True)
class Peer:
    """A server under measurement."""

    name: str
    command: Callable[[int], Sequence[str]]  # from the port
    ready_path: str
    api: Callable[[str], Api]  # from http://127.0.0.1:PORT
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A peer that is ready."""

    base: str
    ready_s: float
    process: psutil.Process

    def memory_mib(self) -> float:
        """Proportional set size of the process and all its children: shared pages are counted once."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in family) / 2**20


@contextmanager
def running(peer: Peer, log: Path) -> Iterator[Running]:
    """Start a peer, wait until it is ready, and end it with all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PORT": str(port), "HF_HUB_OFFLINE": "1"} | dict(peer.environment)
    started = time.monotonic()
    with log.open("w") as output:
        child = subprocess.Popen(
            peer.command(port), cwd=REPO, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    process = psutil.Process(child.pid)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{base}{peer.ready_path}", child, log)
        yield Running(base, time.monotonic() - started, process)
    finally:
        family = [*process.children(recursive=True), process]
        for one in family:
            one.kill()
        psutil.wait_procs(family, timeout=20)


def _wait(url: str, child: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} was never ready:\n{log.read_text()[-3000:]}")


# --- the peers ------------------------------------------------------------------------------------


def our_server(package: Path) -> Peer:
    return _ours("our server", package, {"MLFLOW_TRACKING_URI": ""})


def our_server_observed(package: Path, work: Path) -> Peer:
    """With all that costs: every request traced into a SQLite store, and a key asked for."""
    settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{work / 'traces.db'}", "MLFLOW_TRACE_SAMPLING_RATIO": "1"}
    settings |= {"API_KEYS": KEY}
    return _ours("our server, traced, with keys", package, settings, {"Authorization": f"Bearer {KEY}"})


def _ours(name: str, package: Path, settings: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Peer:
    def body(question: str) -> dict:
        return {"question": question, "max_new_tokens": NEW_TOKENS}

    return Peer(
        name,
        lambda port: [sys.executable, "fastapi_server.py"],
        "/health/ready",
        lambda base: Api(
            f"{base}/ask",
            body,
            lambda answer: answer["completion_tokens"],
            f"{base}/health/live",
            headers or {},
            stream_url=f"{base}/ask/stream",
            stream_body=body,
        ),
        {"MLFLOW_MODEL_URI": str(package), **settings},
    )


def our_model_under_mlflow(package: Path) -> Peer:
    return Peer(
        "our model, mlflow models serve",
        lambda port: _mlflow_serve(package, port),
        "/ping",
        lambda base: Api(
            f"{base}/invocations",
            lambda question: {"inputs": [question], "params": {"max_new_tokens": NEW_TOKENS}},
            lambda answer: answer["predictions"][0]["completion_tokens"],
            f"{base}/ping",
        ),
    )


def naive_under_mlflow(model: Path, folder: Path) -> Peer:
    """Writes the naive PyFunc into `folder` first."""
    import mlflow

    settings = {"max_new_tokens": NEW_TOKENS, "template": TEMPLATE}
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(HERE / "peers" / "naive_pyfunc.py"),
        artifacts={"model": str(model)},
        model_config=settings,
        pip_requirements=[],
    )
    return Peer(
        "naive PyFunc, mlflow models serve",
        lambda port: _mlflow_serve(folder, port),
        "/ping",
        lambda base: Api(
            f"{base}/invocations",
            lambda question: {"dataframe_split": {"columns": ["question"], "data": [[question]]}},
            lambda answer: NEW_TOKENS,  # it does not say; the weights have no end of text
            f"{base}/ping",
        ),
    )


def litserve(model: Path) -> Peer:
    script = str(HERE / "peers" / "litserve_app.py")
    return Peer(
        "LitServe, batches of 32",
        lambda port: [sys.executable, script, str(model), str(port), str(NEW_TOKENS), TEMPLATE],
        "/health",
        lambda base: Api(
            f"{base}/predict",
            lambda question: {"question": question},
            lambda answer: answer["tokens"],
            f"{base}/health",
        ),
    )


def transformers_serve(model: Path) -> Peer:
    tool = str(Path(sys.executable).parent / "transformers")

    def body(question: str) -> dict:
        prompt = TEMPLATE.replace("{question}", question)
        return {"model": str(model), "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}

    return Peer(
        "transformers serve, continuous batching",
        lambda port: [tool, "serve", str(model), "--port", str(port), "--continuous-batching"],
        "/health",
        lambda base: Api(
            f"{base}/v1/completions",
            body,
            lambda answer: answer["usage"]["completion_tokens"],
            f"{base}/health",
            stream_url=f"{base}/v1/completions",
            stream_body=lambda question: {**body(question), "stream": True},
        ),
    )


NEW_TOKENS = 64
KEY = "a-key-of-this-benchmark"


def _mlflow_serve(package: Path, port: int) -> list[str]:
    return ["mlflow", "models", "serve", "-m", str(package), "-p", str(port), "--env-manager", "local"]
