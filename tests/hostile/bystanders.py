"""What others see of a server while it is attacked: a probe, one more caller, and a timer as the control.

A program, so that its latencies are the server's and not those of a busy test process: `python -I bystanders.py PORT
KEY` runs until its standard input is closed, then prints JSON. It imports little and sleeps nearly all the time. Each
latency includes the connection. Does not know which attack is under way.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

PROBE_EVERY_S = 0.03
PAUSE_S = 0.05  # between two questions
TICK_S = 0.01  # of the timer
LATE_S = 0.005  # a tick that is later than this counts as a stall of the machine
TIMEOUT_S = 60.0
QUESTION = json.dumps({"question": "What is MLflow?", "max_new_tokens": 8, "temperature": 0}).encode()
RETRY = ("429", "503")  # what a polite caller asks again after


class Stalls:
    """The control: when this process itself was not run, which no server can be blamed for."""

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []  # from, to

    def watch(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            due = time.monotonic() + TICK_S
            time.sleep(TICK_S)
            if (now := time.monotonic()) - due > LATE_S:
                self._stalls.append((due, now))

    def within(self, began: float, ended: float) -> float:
        """Seconds of that time."""
        return sum(max(0.0, min(ended, to) - max(began, since)) for since, to in self._stalls)

    @property
    def longest_s(self) -> float:
        return max((to - since for since, to in self._stalls), default=0.0)


class Caller:
    """Asks one request after the other, each on a connection of its own, until it is told to stop."""

    def __init__(self, port: int, request: bytes, pause_s: float):
        self._port, self._request, self._pause_s = port, request, pause_s
        self._times: list[tuple[float, float]] = []  # from, to
        self._began: float | None = None  # of the one under way
        self.answers: Counter[str] = Counter()  # status, or what went wrong

    def run(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            self._began = time.monotonic()
            self._ask_until_answered(is_over)
            self._times.append((self._began, time.monotonic()))
            self._began = None
            time.sleep(self._pause_s)

    def _ask_until_answered(self, is_over: threading.Event) -> None:
        """As a client does that waits and asks again where the server says so: the wait is part of its latency."""
        while not is_over.is_set():
            status, retry_after_s = ask(self._port, self._request)
            self.answers[status] += 1
            if status not in RETRY:
                return
            time.sleep(min(retry_after_s, 5.0))

    def summary(self, stalls: Stalls) -> dict[str, object]:
        """`worst_s` as measured; `server_s` without the time in which the machine did not run us."""
        times = list(self._times)
        if self._began is not None:  # unanswered: it took at least this long
            times.append((self._began, time.monotonic()))
        return {
            "count": len(times),
            "worst_s": max((to - since for since, to in times), default=0.0),
            "server_s": max((to - since - stalls.within(since, to) for since, to in times), default=0.0),
            "answers": dict(self.answers),
        }


def ask(port: int, request: bytes) -> tuple[str, float]:
    """The status, or what went wrong, and how long to wait before the next try."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as exc:
        return type(exc).__name__, 0.0
    head = answer.partition(b"\r\n\r\n")[0].lower()
    if not head:
        return "no answer", 0.0
    after = head.partition(b"retry-after:")[2].split()
    return head.split()[1].decode(), float(after[0]) if after else 0.1


def request_for(method: str, path: str, port: int, key: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"X-API-Key: {key}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode() + body


def main(port: int, key: str) -> None:
    sys.setswitchinterval(0.001)
    is_over, stalls = threading.Event(), Stalls()
    probe = Caller(port, request_for("GET", "/health/live", port, key), PROBE_EVERY_S)
    caller = Caller(port, request_for("POST", "/ask", port, key, QUESTION), PAUSE_S)
    watched: list[Callable[[threading.Event], None]] = [stalls.watch, probe.run, caller.run]
    for run in watched:
        threading.Thread(target=run, args=(is_over,), daemon=True).start()
    sys.stdin.read()
    summary = {"probe": probe.summary(stalls), "caller": caller.summary(stalls), "stall_s": stalls.longest_s}
    is_over.set()
    sys.stdout.write(json.dumps(summary))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
