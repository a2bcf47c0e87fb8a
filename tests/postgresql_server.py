"""A real PostgreSQL for the tests: Debian's own, as an ordinary user in a folder below /tmp, on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import free_port

START_TIMEOUT_S = 60
ORDINARY_USERS = ("postgres", "nobody")  # PostgreSQL does not run as root


@dataclass(frozen=True)
class PostgreSQL:
    """A running server, and its user with a password that needs care in an address."""

    port: int
    folder: Path
    user: str = "lifecycle"
    password: str = "p@ss word:/?#%"

    def uri(self, database: str = "postgres", **changed: str) -> str:
        values = {"user": self.user, "password": self.password, "port": str(self.port)} | changed
        return (
            f"postgresql://{values['user']}:{quote(values['password'], safe='')}@127.0.0.1:{values['port']}/{database}"
        )

    def run(self, statement: str, database: str = "postgres") -> list[tuple]:
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Skips where PostgreSQL is not installed; fails there when CI=true."""
    programs = _programs()
    if programs is None:
        reason = "PostgreSQL is not installed (apt-get install postgresql)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = Path(tempfile.mkdtemp(prefix="lifecycle-postgresql-"))  # pytest's own folders are closed to other users
    try:
        yield from _running(programs, PostgreSQL(free_port(), folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    found = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else versions[-1].parent if versions else None


def _running(programs: Path, server: PostgreSQL) -> Iterator[PostgreSQL]:
    user = _ordinary_user(server.folder)
    password = server.folder / "password"
    password.write_text(server.password)
    data = server.folder / "data"
    # No fsync, and no host name of this machine: what is tested is not PostgreSQL's safety.
    make = [programs / "initdb", "-D", data, "-A", "scram-sha-256", "-U", server.user, f"--pwfile={password}",
            "-E", "UTF8", "--no-locale", "-N"]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True, cwd=server.folder, **user)
    start = [programs / "postgres", "-D", data, "-p", str(server.port), "-k", "", "-c", "listen_addresses=127.0.0.1",
             "-c", "fsync=off"]  # fmt: skip
    with (server.folder / "log").open("wb") as log:
        process = subprocess.Popen(start, stdout=log, stderr=log, cwd=server.folder, **user)
    try:
        _wait(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # "fast": clients are sent away
        process.wait(START_TIMEOUT_S)


def _ordinary_user(folder: Path) -> dict[str, int]:
    if os.geteuid() != 0:
        return {}
    names = {item.pw_name for item in pwd.getpwall()}
    user = pwd.getpwnam(next(name for name in ORDINARY_USERS if name in names))
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait(server: PostgreSQL, process: subprocess.Popen) -> None:
    import psycopg

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.run("SELECT 1")
            return
        except psycopg.OperationalError as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(server.folder / 'log').read_text()} {exc}")
            time.sleep(0.1)
