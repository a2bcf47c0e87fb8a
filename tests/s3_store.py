"""A real S3 store for the tests: OpenStack Swift with its S3 API, started by s3-up on ports of its own.

`killed` and started again at will; `front` adds a second entrance to the same store with other settings (other keys,
another region, TLS), so that each of its refusals is a real one.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

S3_UP = Path(__file__).resolve().parents[2] / "shared" / "bin" / "s3-up"  # not part of this project
PORTS = 5  # the store and what is behind it listen on as many, one after the other
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class S3Store:
    """A running store. Its keys are those of its one account."""

    port: int
    state: Path
    key: str = "lifecycle:admin"
    secret: str = "lifecycle-secret"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        with S3_UP.open() as once:  # two test processes must not install it at the same time
            fcntl.flock(once, fcntl.LOCK_EX)
            self._run()
        self._wait_for_buckets()

    def _wait_for_buckets(self) -> None:
        """Its entrance answers before what is behind it does: until then a bucket that is there seems missing."""
        from botocore.exceptions import ClientError

        client, deadline = self.client(), time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                for bucket in client.list_buckets()["Buckets"]:
                    client.head_bucket(Bucket=bucket["Name"])
                return
            except ClientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """As a crash would; what was stored stays."""
        self._run("--kill")

    def stop(self) -> None:
        self._run("--stop")

    def client(self):
        """boto3 alone."""
        from boto3.session import Session
        from botocore.config import Config

        return Session(self.key, self.secret, region_name="us-east-1").client(
            "s3", endpoint_url=self.url, config=Config(request_checksum_calculation="when_required")
        )

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Every object of a bucket, by its key; empty where there is no such bucket."""
        client = self.client()
        try:
            pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
        except client.exceptions.NoSuchBucket:
            return {}
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    @contextmanager
    def front(self, name: str, settings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
        """A second entrance with these settings on top; yields its port.

        Args:
            settings: section of Swift's proxy-server.conf -> option -> value.
        """
        from conftest import free_port

        config, port = configparser.RawConfigParser(), free_port()
        config.read(self.state / str(self.port) / "etc" / "proxy-server.conf")
        for section, options in ({"DEFAULT": {"bind_port": str(port)}} | dict(settings)).items():
            for option, value in options.items():
                config.set(section, option, value)
        path = self.state / f"{name}.conf"
        with path.open("w") as file:
            config.write(file)
        with (self.state / f"{name}.log").open("w") as log:
            process = subprocess.Popen(["swift-proxy-server", str(path)], stdout=log, stderr=log, process_group=0)
        try:
            _wait_for(port)
            yield str(port)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def relay(self, tls: ssl.SSLContext | None = None, dropped: int = 0) -> Iterator[int]:
        """A listener in front of the store; yields its port.

        Args:
            tls: callers have to speak TLS.
            dropped: so many connections are closed at once, then all are passed on.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            left = [dropped]

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        near, _ = listener.accept()
                        left[0] -= 1
                        threading.Thread(target=self._pass_on, args=(near, tls, left[0] >= 0), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            yield listener.getsockname()[1]
            listener.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, near: socket.socket, tls: ssl.SSLContext | None, drop: bool) -> None:
        with contextlib.suppress(OSError), near:
            if drop:
                return
            speaking = tls.wrap_socket(near, server_side=True) if tls else near
            with speaking, socket.create_connection(("127.0.0.1", self.port)) as far:
                threading.Thread(target=_copy, args=(far, speaking), daemon=True).start()
                _copy(speaking, far)

    def _run(self, *flags: str) -> None:
        environment = os.environ | {"S3_UP_STATE": str(self.state)}
        done = subprocess.run(
            [str(S3_UP), *flags, str(self.port)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running(state: Path) -> Iterator[S3Store]:
    """A store that keeps its files below `state`; skips the test where none can be had, fails it in CI."""
    if not S3_UP.exists():
        reason = "no S3 store: there is no s3-up to start one"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    store = S3Store(_free_ports(), state)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _free_ports() -> int:
    """The first of several free ports in a row."""
    for first in range(21000 + os.getpid() % 3000 * PORTS, 65000, PORTS):
        try:
            for port in range(first, first + PORTS):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the second entrance did not start"
            time.sleep(0.1)
