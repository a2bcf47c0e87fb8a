"""A server of a few lines with the contract of fastapi_server.py, and what the tests of processes need beside it.

Run as a file it answers 200 on every path; STAND_IN says how it misbehaves. GET /crash and /end make it do so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLD = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_MODEL_URI", "HOST", "PORT")
ENGINE = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(300)
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(3)
        if self.path == "/end":
            os._exit(0)
        body = json.dumps({"pid": os.getpid()} | {name: os.environ.get(name) for name in TOLD}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


def serve() -> None:
    behaviour = os.environ.get("STAND_IN", "")
    if behaviour == "broken":
        raise SystemExit("MLFLOW_MODEL_URI names no model.")
    if behaviour == "too late":  # as MLflow's server does where another one has its port
        time.sleep(1)
        return
    stubborn = "stubborn" in behaviour
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: os._exit(0))
    if "engine" in behaviour:  # a second process that never ends by itself, and not when it is asked to either
        engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True)
        engine.stdout.readline()
        sys.stdout.write(f"engine {engine.pid}\n")
    ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in os.environ["HOST"] else socket.AF_INET
    server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
    sys.stdout.write(f"server {os.getpid()}\n")
    server.serve_forever()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def wait_until(is_so: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)


def wait_until_gone(pids: Iterable[int], timeout_s: float = 15.0) -> None:
    wait_until(lambda: not any(is_alive(pid) for pid in pids), timeout_s)


if __name__ == "__main__":
    serve()
