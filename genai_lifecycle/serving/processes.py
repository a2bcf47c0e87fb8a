"""Running a server as a child in the foreground: port, log, waiting until it is ready, and an end that leaves nothing.

The child is in a process group of its own below `guard.py`, which ends the group when we are gone. Which server
that is, and whether it is started again after a crash, is decided elsewhere.
"""

from __future__ import annotations

import errno
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from genai_lifecycle.errors import ConfigError, ServerFailed
from genai_lifecycle.runtime.file_errors import storage_failed

log = logging.getLogger(__name__)

GUARD = Path(__file__).parent / "guard.py"
POLL_S = 0.2
ANSWER_TIMEOUT_S = 2.0
PLAIN_LINE_EVERY_S = 5.0
LAST_LINES = 12  # of the log, shown when a server fails


class ServerProcess:
    """A running server. As a context manager it is stopped at the end of the block, whatever the reason.

    Args:
        command: program and arguments.
        log_file: what the server prints is added here.
        environment: variables on top of ours.
        grace_s: seconds between SIGTERM and SIGKILL when it is stopped, also when we are killed.

    Raises:
        ServerFailed: the program cannot be started.
        StorageFailed: the log file cannot be written.
    """

    def __init__(self, command: Sequence[str], log_file: Path, environment: Mapping[str, str], grace_s: float):
        self.log_file = log_file
        # Unbuffered, so that the last words of a killed server are in the log.
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
        with _opened(log_file) as output:
            # A session of its own keeps the terminal's Ctrl-C and hang-up away from the guard: only we get it.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(GUARD), str(grace_s), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        group = self._guard.stdout.readline()
        if not group:
            self._guard.communicate()
            raise ServerFailed(f"{command[0]} cannot be started.\n{last_lines(log_file)}", hint=f"See {log_file}.")
        self.group = int(group)  # process group, and process id of the server itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def poll(self) -> int | None:
        """The exit code of a server that has ended (128 + number after a signal), else None."""
        return self._checked(self._guard.poll())

    def wait(self) -> int:
        """Wait until the server has ended; returns its exit code."""
        return self._checked(self._guard.wait())

    def stop(self) -> None:
        """Ask the whole group to end, wait for it, and kill it after the grace period or a second Ctrl-C."""
        self._guard.stdin.close()
        try:
            self.wait()
        except KeyboardInterrupt:
            self._kill()
            self.wait()
        self._guard.stdout.close()

    def _checked(self, code: int | None) -> int | None:
        if code is not None and code < 0:  # somebody killed the guard itself
            self._kill()
        return code

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Inside the block SIGTERM raises KeyboardInterrupt, so that both end a server the same, orderly way."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals nowhere else
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_port_taken(host: str, port: int) -> bool:
    """Whether another program listens there. Raises ConfigError when nobody could: no permission, no such host."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a server that has just ended counts
            probe.bind((host, port))
    except PermissionError as exc:
        raise ConfigError(f"Port {port} needs special rights.", hint="Use --port with 1024 or more.") from exc
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return True
        reason = f"HOST is {host!r}, which is no address of this machine."
        raise ConfigError(reason, hint="Use 127.0.0.1, ::1 or 0.0.0.0.") from exc
    return False


def url_from_here(host: str, port: int) -> str:
    """Where this machine asks a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # these are every address of it
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ask(url: str) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") where nothing answers. Goes straight to the address, past any proxy."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", address.path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def wait_until_ready(server: ServerProcess, is_ready: Callable[[], bool], name: str, timeout_s: float) -> None:
    """Wait until `is_ready()`, with a line of progress. Raises ServerFailed, with the server's last words.

    A server that has ended is never ready, whoever answers on its port.
    """
    deadline = time.monotonic() + timeout_s
    with _progress(f"Waiting for {name}") as tick:
        while server.poll() is None:
            if is_ready() and server.poll() is None:
                return
            if time.monotonic() > deadline:
                raise failed(server, f"{name} was not ready within {timeout_s:.0f} s.")
            tick()
            time.sleep(POLL_S)
    raise failed(server, f"{name} ended with exit code {server.poll()} before it was ready.")


def failed(server: ServerProcess, message: str) -> ServerFailed:
    """An error with the last lines of the server's log."""
    return ServerFailed(f"{message}\n{last_lines(server.log_file)}", hint=f"The whole log is {server.log_file}.")


def new_log(folder: Path, name: str) -> Path:
    """The path of an empty log; the one before it is kept as NAME.1. Raises StorageFailed."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(folder / f"{name}.1")
        path.touch()
    except OSError as exc:
        raise storage_failed(exc) from exc
    return path


def last_lines(path: Path) -> str:
    """The end of a log, indented; says so when it is empty."""
    lines = [line for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-LAST_LINES:]) or "    (it printed nothing)"


def _opened(log_file: Path):
    try:
        return log_file.open("ab")
    except OSError as exc:
        raise storage_failed(exc) from exc


@contextmanager
def _progress(what: str) -> Iterator[Callable[[], None]]:
    """A counting line on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, bar_format="{desc}: {elapsed}", leave=False) as line:
            yield line.refresh
    else:
        yield _plain_lines(what)


def _plain_lines(what: str) -> Callable[[], None]:
    started = told = time.monotonic()

    def tick() -> None:
        nonlocal told
        if time.monotonic() - told >= PLAIN_LINE_EVERY_S:
            told = time.monotonic()
            log.info("%s: %.0f s", what, told - started)

    return tick
