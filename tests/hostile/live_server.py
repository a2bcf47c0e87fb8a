"""`fastapi_server.py` as a real process to be attacked: its address, its engine, its memory, and how it ended.

Linux only: what a process holds for itself is read from /proc.
"""

from __future__ import annotations

import http.client
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
IDLE_CPU_S = 0.25  # in half a second; a bystander's questions take a tenth of a core
ENGINE = "openvino_worker.py"
# A caller's key, and the operator's, which opens every route.
KEY, ADMIN_KEY, SECRET = "key-of-a-caller", "key-of-the-operator", "secret-of-the-webhook"
KEYS = {"API_KEYS": KEY, "ADMIN_KEYS": ADMIN_KEY}
# What /admin/reload is sent: the two versions in turn, so that each one is a load.
RELOADS = [{"version": "2"}, {"version": "1"}]
OPEN_FILES = 1024  # what a login shell and many service managers allow at first; a program may raise it


@dataclass(frozen=True)
class Memory:
    """What processes hold for themselves alone, in MiB.

    That is their USS without pages that are a file's as well: the kernel takes those away and brings them back.
    """

    server: float
    engines: float

    @property
    def total(self) -> float:
        return self.server + self.engines


class LiveServer:
    """A running server; `start` makes one."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.port, self.log = process, port, log

    def status(self, path: str, timeout_s: float = 5.0) -> str:
        """The status of a GET, or what went wrong."""
        return self._get(path, timeout_s)[0]

    def metric(self, name: str) -> float:
        """The sum of one metric over its labels."""
        lines = self._get("/metrics", 5.0)[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def _get(self, path: str, timeout_s: float) -> tuple[str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"X-API-Key": KEY})
            response = connection.getresponse()
            return str(response.status), response.read().decode()
        except (OSError, http.client.HTTPException) as exc:
            return type(exc).__name__, ""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.status("/health/ready") == "200"

    def is_idle(self) -> bool:
        """Ready, and with nothing under way but what a bystander asks: for half a second it computes little."""
        if not self.is_ready() or self.metric("genai_num_requests_waiting"):
            return False
        before_s = self._cpu_s()
        time.sleep(0.5)
        return self._cpu_s() - before_s < IDLE_CPU_S

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in (psutil.Process(self.process.pid), *self.engines())]
        return sum(time.user + time.system for time in times)

    def engines(self) -> list[psutil.Process]:
        """The processes that compute, oldest first."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return sorted(filter(_is_engine, children), key=lambda child: child.create_time())
        return []

    def memory(self) -> Memory:
        return Memory(_own_mib(psutil.Process(self.process.pid)), sum(map(_own_mib, self.engines())))

    def highest_mib(self) -> float:
        """The most that the server itself has held since its start."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    def limit(self, what: int, most: int) -> None:
        """A resource limit of the server and of all its processes, from now on."""
        server = psutil.Process(self.process.pid)
        for process in (server, *server.children(recursive=True)):
            process.rlimit(what, (most, most))

    def wait(self, timeout_s: float) -> int | None:
        """The exit code; None where it still runs then."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        return None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for all that is left."""
        family = [self.process.pid, *(child.pid for child in self.engines())]
        self.process.terminate()
        self.wait(STOP_TIMEOUT_S)
        for pid in family:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.process.wait()


@contextmanager
def started(folder: Path, settings: Mapping[str, str]) -> Iterator[LiveServer]:
    """A server with these settings that keeps its files in `folder`, once it is ready."""
    server = start(folder, settings)
    try:
        yield server
    finally:
        server.stop()


def start(folder: Path, settings: Mapping[str, str]) -> LiveServer:
    """As `started`; the caller ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "HOME": str(folder), "PORT": str(port), "LOG_LEVEL": "warning", "FEEDBACK_FILE": str(folder / "feedback.jsonl"),
        "PROMPT_FILE": str(folder / "prompt.json"), **KEYS, **settings,
    }  # fmt: skip
    log = folder / "server.log"
    with log.open("ab") as output:
        command = [sys.executable, "fastapi_server.py"]
        process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=output, stderr=output)
    psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE, _open_files())
    server = LiveServer(process, port, log)
    try:
        wait_until(lambda: server.is_ready() or process.poll() is not None, READY_TIMEOUT_S)
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.poll()}:\n{log.read_text()[-3000:]}")
    except BaseException:
        server.stop()
        raise
    return server


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came so far in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return False


def _own_mib(process: psutil.Process) -> float:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Private_Hugetlb:"))) / 1024


def _open_files() -> tuple[int, int]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES, hard


def _is_engine(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(ENGINE in word for word in process.cmdline())
    return False
