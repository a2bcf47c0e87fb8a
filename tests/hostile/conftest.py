"""Fixtures of the tests marked `hostile`: a champion, a server under attack, the bystanders, and the table."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile import live_server, report
from hostile.live_server import KEY, LiveServer

HERE, REPO = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
ALONE_S = 4.0
SETTLING_S = 8
RECOVERY_S = 15.0  # then a server that still works for an attacker is given up, and another one started
ATTACK_TIMEOUT_S = 160.0
WARM_UP_ANSWERS = 100  # of the longest: they fill the engine's cache of keys and values once

rows_key = pytest.StashKey[list[report.Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    default = REPO / "local_staging" / "hostile.md"
    parser.addoption("--hostile-report", type=Path, default=default, help="where the table of attacks is written")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[rows_key] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.stash[rows_key]:
        return
    text = report.table(config.stash[rows_key])
    terminalreporter.section("attacks")
    terminalreporter.write_line(text)
    path = config.getoption("--hostile-report")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", "utf-8")


# --- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Champion:
    """The settings to serve it from its store, and the folder of the same model."""

    settings: Mapping[str, str]
    folder: Path


@pytest.fixture(scope="session")
def champion(tmp_path_factory, prepared) -> Champion:
    """The bundled model in a store of its own, through the real modes: version 1 is the champion, 2 the same again."""
    from cli_process import run_cli

    base = tmp_path_factory.mktemp("champion")
    uri, artifacts = f"sqlite:///{base / 'mlflow.db'}", base / "artifacts"
    prompt = ["prompts", "create", "--name", "qa", "--template", "Question: {{question}}\nAnswer:"]
    for mode in (prompt, ["deploy", "--precision", "fp32"], ["test"], ["deploy", "--precision", "fp32"]):
        flags = ["--tracking-uri", uri, "--data-dir", str(artifacts)]
        done = run_cli(["--mode", *mode, *flags], HOME=str(base))
        assert done.returncode == 0, done.stdout + done.stderr
    return Champion({"MLFLOW_TRACKING_URI": uri}, next(artifacts.rglob("MLmodel")).parent)


@dataclass
class Attacked:
    """The server that most attacks share, with what it was like before the first one."""

    settings: Mapping[str, str]
    folder: Path
    server: LiveServer
    memory: live_server.Memory | None = None
    restarts: int = 0

    def recovered(self) -> LiveServer:
        """The server, idle again; another one where it does not come so far."""
        if self.server.process.poll() is not None or not live_server.wait_until(self.server.is_idle, RECOVERY_S):
            self.server.stop()
            self.restarts += 1
            self.server = live_server.start(self.folder, self.settings)
        return self.server

    def warm_up(self) -> None:
        """Both versions once, and ordinary work of every kind: what stays resident is there afterwards."""
        self.reload(2)
        attack_with(self.server, "batches", {"size": WARM_UP_ANSWERS})
        for form in ("json", "csv"):
            attack_with(self.server, "rows", {"count": WARM_UP_ANSWERS, "form": form})
        attack_with(self.server, "body", parquet_body(WARM_UP_ANSWERS))
        attack_with(self.server, "slow_readers", {"connections": 50, "seconds": 2})

    def reload(self, count: int, **arguments: Any) -> dict[str, Any]:
        """The outcome of so many reloads, to one version and back to the other."""
        arguments |= {"bodies": live_server.RELOADS, "count": count}
        return attack_with(self.server, "reloads", arguments, live_server.ADMIN_KEY)

    def settled(self) -> live_server.Memory:
        """Memory once nothing is under way: the least of some seconds, since the server gives back in quiet moments."""
        server, sizes = self.recovered(), []
        live_server.wait_until(lambda: len(server.engines()) == 1, 5.0)  # the version before has ended
        for _ in range(SETTLING_S):
            sizes.append(server.memory())
            time.sleep(1)
        return min(sizes, key=lambda size: size.total)


@pytest.fixture(scope="session")
def attacked(champion, tmp_path_factory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("server")
    settings = {**champion.settings, "WEBHOOK_SECRET": live_server.SECRET}
    shared = Attacked(settings, folder, live_server.start(folder, settings))
    try:
        shared.warm_up()
        shared.memory = shared.settled()
        yield shared
    finally:
        shared.server.stop()


@pytest.fixture(scope="session")
def alone(attacked) -> report.Views:
    """What the bystanders see when nobody attacks."""
    with watched(attacked.recovered()) as views:
        time.sleep(ALONE_S)
    return views()


@pytest.fixture
def server_with(champion, tmp_path) -> Iterator[Callable[..., LiveServer]]:
    """Starts a server of the test's own, with settings on top of the champion's."""
    servers: list[LiveServer] = []

    def start(**settings: str) -> LiveServer:
        servers.append(live_server.start(tmp_path / "server", {**champion.settings, **settings}))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


# --- attacks --------------------------------------------------------------------------------------


@contextmanager
def watched(server: LiveServer) -> Iterator[Callable[[], report.Views]]:
    """Bystanders during the block; afterwards the yielded function has what they saw."""
    command = [sys.executable, "-I", str(HERE / "bystanders.py"), str(server.port), KEY]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    summary, others, busy = "", 0.0, CpuOfOthers()
    try:
        time.sleep(0.3)  # they have begun
        yield lambda: report.Views.from_summary(json.loads(summary), others)
        summary, _ = process.communicate("", timeout=30)
        others = busy.cores()
    finally:
        process.kill()
        process.wait()


class CpuOfOthers:
    """The control for the machine: how much of it programs take that are none of ours, from now on."""

    def __init__(self) -> None:
        self._since, self._before_s = time.monotonic(), self._others_s()

    def cores(self) -> float:
        return max(0.0, (self._others_s() - self._before_s) / (time.monotonic() - self._since))

    def _others_s(self) -> float:
        everyone, ours_s = psutil.cpu_times(), 0.0
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                ours_s += sum(process.cpu_times()[:4])  # with its children that have ended
        return everyone.user + everyone.nice + everyone.system - ours_s


def attack_with(server: LiveServer, name: str, arguments: Mapping[str, Any], key: str = KEY) -> dict[str, Any]:
    """Run one of attackers.py in a process of its own to its end; its `Outcome` as a dict."""
    command = [sys.executable, str(HERE / "attackers.py"), str(server.port), key, name]
    done = subprocess.run(
        command, input=json.dumps(arguments), capture_output=True, text=True, timeout=ATTACK_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parquet_body(rows: int, question: str = "a") -> dict[str, str]:
    """Arguments of the attack `body`: one question, that many times; it is packed to some KB."""
    import pyarrow as pa
    from pyarrow import parquet

    packed = io.BytesIO()
    parquet.write_table(pa.table({"question": pa.repeat(question, rows)}), packed)
    content = base64.b64encode(packed.getvalue()).decode()
    return {"path": "/invocations", "content": content, "content_type": "application/vnd.apache.parquet"}


@pytest.fixture
def record(request) -> Callable[[report.Row], None]:
    """Puts a row into the table and fails where the bar was not kept."""

    def put(row: report.Row) -> None:
        request.config.stash[rows_key].append(row)
        assert not row.judge(), f"{row.attack}: {'; '.join(row.broken)}"

    return put
