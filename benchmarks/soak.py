"""Hold the server under load for a minute, then take MLflow away: `python benchmarks/soak.py`.

Starts MLflow and our server of its own on the bundled model, every request traced. Each question is asked alone first;
then 64 clients ask them for 60 s, and each greedy answer must be the one that the question got alone. MLflow is killed
after two thirds. Prints a Markdown table; exit code 1 where anything failed or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import psutil
from questions import QUESTIONS
from servers import Peer, Running, our_server, running
from weights import BUNDLED, package

CLIENTS, SECONDS, WARM_UP_S = 64, 60.0, 20.0
SAMPLE_EVERY_S = 1.0
GROWTH_MIB = 10.0  # between the first and the last third after the warm-up; allocators breathe by a few
ASKED = 40  # questions, in turn
MOST_TOKENS = 48


@dataclass
class Log:
    """What the clients and the observer saw."""

    answers: int = 0
    mixed_up: int = 0  # other than the same question got alone
    statuses: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    memory: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # seconds, MiB of each process

    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "200")


async def ask(session: aiohttp.ClientSession, base: str, question: str) -> tuple[str, str]:
    """Status and answer."""
    body = {"question": question, "max_new_tokens": MOST_TOKENS, "temperature": 0}
    try:
        async with session.post(f"{base}/ask", json=body) as response:
            told = await response.json(content_type=None)
            return str(response.status), told.get("answer", "")
    except (aiohttp.ClientError, TimeoutError) as exc:
        return type(exc).__name__, ""


async def soak(server: Running, mlflow: psutil.Process, clients: int, seconds: float) -> tuple[Log, float]:
    """The log, and after how many seconds MLflow was killed."""
    log, questions = Log(), QUESTIONS[:ASKED]
    timeout, connector = aiohttp.ClientTimeout(total=300), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        alone = {question: (await ask(session, server.base, question))[1] for question in questions}
        if not all(alone.values()):
            raise RuntimeError("a question got no answer alone")
        turns, started = itertools.cycle(questions), time.monotonic()

        async def client() -> None:
            while time.monotonic() - started < seconds:
                question, asked = next(turns), time.monotonic()
                status, answer = await ask(session, server.base, question)
                log.statuses[status] = log.statuses.get(status, 0) + 1
                log.answers += status == "200"
                log.mixed_up += status == "200" and answer != alone[question]
                log.slowest_s = max(log.slowest_s, time.monotonic() - asked)

        observing = asyncio.create_task(_observe(server, started, log))
        killing = asyncio.create_task(_kill(mlflow, seconds * 2 / 3, started))
        await asyncio.gather(*(client() for _ in range(clients)))
        observing.cancel()
        return log, await killing


async def _observe(server: Running, started: float, log: Log) -> None:
    while True:
        log.memory.append((time.monotonic() - started, memory_of(server.process)))
        await asyncio.sleep(SAMPLE_EVERY_S)


async def _kill(mlflow: psutil.Process, after_s: float, started: float) -> float:
    await asyncio.sleep(after_s)
    for process in (*mlflow.children(recursive=True), mlflow):
        process.kill()
    return time.monotonic() - started


def memory_of(process: psutil.Process) -> dict[str, float]:
    """Resident MiB of the server, its engine and its writer of traces."""
    names = {"openvino_worker.py": "engine", "tracing/writer.py": "trace writer"}
    found = {"server": process.memory_info().rss / 2**20}
    for child in process.children():
        line = " ".join(child.cmdline())
        for file, name in names.items():
            if file in line:
                found[name] = child.memory_info().rss / 2**20
    return found


def growth(log: Log, name: str, warm_up_s: float) -> tuple[float, float, float]:
    """Median MiB of the first and of the last third after the warm-up, and the largest."""
    values = [sample[name] for at, sample in log.memory if at >= warm_up_s and name in sample]
    third = max(1, len(values) // 3)
    return statistics.median(values[:third]), statistics.median(values[-third:]), max(values)


def table(log: Log, seconds: float, clients: int, killed_at_s: float, warm_up_s: float) -> tuple[str, bool]:
    """The report, and whether all of it is as promised."""
    rows = [
        ("clients, seconds", f"{clients}, {seconds:.0f}"),
        ("answers", str(log.answers)),
        ("other than 200", f"{log.failed()} {_told(log.statuses)}".strip()),
        ("other than the same question alone", str(log.mixed_up)),
        ("slowest answer", f"{log.slowest_s:.2f} s"),
        ("MLflow killed after", f"{killed_at_s:.0f} s"),
    ]
    is_flat = True
    for name in ("server", "engine", "trace writer"):
        first, last, most = growth(log, name, warm_up_s)
        rows.append((f"resident memory of the {name}, MiB", f"{first:.0f} → {last:.0f}, at most {most:.0f}"))
        is_flat &= last - first <= GROWTH_MIB
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines), is_flat and not log.failed() and not log.mixed_up and log.answers > clients


def _told(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {status}" for status, count in statuses.items() if status != "200")


def mlflow_server(folder: Path) -> Peer:
    command = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1", "--host", "127.0.0.1"]
    destination = ["--artifacts-destination", str(folder / "artifacts")]
    return Peer(
        "MLflow",
        lambda port: [sys.executable, "-m", "mlflow", "server", *command, *destination, "--port", str(port)],
        "/health",
        lambda base: None,
    )


def traced_server(folder: Path, tracking_uri: str) -> Peer:
    ours = our_server(folder)
    traced = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_TRACE_SAMPLING_RATIO": "1", "LOG_LEVEL": "warning"}
    return Peer(ours.name, ours.command, ours.ready_path, ours.api, {**ours.environment, **traced})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--package", type=Path, help="a saved model; left out: the bundled one is packaged")
    given = parser.parse_args(arguments)
    warm_up_s = min(WARM_UP_S, given.seconds / 3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = given.package or package(BUNDLED, folder, "fp32")
        with running(mlflow_server(folder), folder / "mlflow.log") as mlflow:
            with running(traced_server(model, mlflow.base), folder / "server.log") as server:
                log, killed_at_s = asyncio.run(soak(server, mlflow.process, given.clients, given.seconds))
    text, is_good = table(log, given.seconds, given.clients, killed_at_s, warm_up_s)
    print(text)
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
