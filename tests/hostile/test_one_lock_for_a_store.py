"""Two runs on one database, one straight on SQLite and one through an MLflow server over it: the second is refused."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import forked
import mlflow_server
import pytest
from cli_process import run_cli
from conftest import free_port, make_cases

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.store.tracking_store import open_store

pytestmark = pytest.mark.slow


HOLD = """
import sys, time
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.lifecycle import MLflow3E2ELifecycle
lifecycle = MLflow3E2ELifecycle(E2EConfig.from_env({"tracking_uri": sys.argv[1], "data_dir": sys.argv[2]}))
with lifecycle._alone():  # as every stage that writes does
    print("held", flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Routes:
    """Two ways to one store."""

    base: Path
    direct: str
    server: str

    def run(self, uri: str, model: Path) -> forked.CompletedProcess[str]:
        """A mode that takes the lock, and ends soon where it gets it: there is nothing to deploy."""
        cases = make_cases(self.base / "cases.jsonl")
        return run_cli([
            "--mode", "deploy", "--tracking-uri", uri, "--data-dir", self.data_dir, "--model", str(model),
            "--cases", str(cases),
        ])  # fmt: skip

    @property
    def data_dir(self) -> str:
        return str(self.base / "artifacts")

    @contextmanager
    def held(self, uri: str, log: Path) -> Iterator[forked.Popen]:
        """A process that has the lock."""
        with log.open("w") as output:
            process = forked.Popen([sys.executable, "-c", HOLD, uri, self.data_dir], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while "held" not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()
            process.wait(30)


@pytest.fixture(scope="module")
def routes(tmp_path_factory) -> Iterator[Routes]:
    base = tmp_path_factory.mktemp("store")
    direct = f"sqlite:///{base / 'mlflow.db'}"
    open_store(E2EConfig(tracking_uri=direct, data_dir=str(base / "artifacts"), staging_dir=base / "staging"))
    flags = [
        "--host",
        "127.0.0.1",
        "--port",
        str(free_port()),
        "--workers",
        "1",
        "--backend-store-uri",
        direct,
        "--no-serve-artifacts",
        "--default-artifact-root",
        str(base / "artifacts"),
    ]  # as --mode ui starts it
    with mlflow_server.running(flags, base / "log") as url:  # fmt: skip
        yield Routes(base, direct, url)


@pytest.mark.parametrize("first", ["direct", "server"])
def test_the_second_is_refused_whatever_its_route_and_a_killed_one_holds_nobody_up(routes, tiny_gpt2, tmp_path, first):
    mine, others = (routes.direct, routes.server) if first == "direct" else (routes.server, routes.direct)
    with routes.held(mine, tmp_path / "log") as process:
        for uri in (others, mine):
            refused = routes.run(uri, tiny_gpt2)
            assert refused.returncode == 12, refused.stderr
            assert (
                f"Another run (process {process.pid} on " in refused.stderr and "works on this store" in refused.stderr
            )
        process.kill()  # -9: no clean-up runs
        process.wait(30)
        assert "No prompt is in production yet" in routes.run(others, tiny_gpt2).stderr


def test_ctrl_c_gives_the_lock_back(routes, tiny_gpt2, tmp_path):
    with routes.held(routes.direct, tmp_path / "log") as process:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert left(routes.direct) == []
    assert "No prompt is in production yet" in routes.run(routes.server, tiny_gpt2).stderr


def left(uri: str) -> list[str]:
    """The leases in the store."""
    import mlflow

    return [key for found in mlflow.MlflowClient(uri, uri).search_experiments() for key in found.tags if "lease" in key]
