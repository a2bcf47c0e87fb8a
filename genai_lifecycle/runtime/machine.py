"""What this machine offers: disk space, folders that can be written, ports, installed versions. Knows no MLflow."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)")


def free_bytes(folder: Path) -> tuple[int, int]:
    """(number of the disk, bytes free on it) where `folder` is, or would be. Raises OSError."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.stat().st_dev, shutil.disk_usage(folder).free


def why_not_writable(folder: Path) -> str:
    """What keeps us from making a file in `folder`, which may have to be made first; empty where nothing does."""
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as exc:
        return f"{folder}: {exc.strerror}"


def listener(port: int) -> str:
    """What listens on the port, for example `python (process 4711)`; empty where it cannot be told."""
    import psutil

    try:
        sockets = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # not everywhere may one see the processes of others
        return ""
    for item in sockets:
        if item.status == psutil.CONN_LISTEN and item.laddr.port == port and item.pid:
            return _process(item.pid)
    return ""


def _process(pid: int) -> str:
    import psutil

    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"


def pins(*files: Path) -> Mapping[str, str]:
    """The exact versions in requirements files. Raises OSError."""
    return _pins(line for file in files for line in file.read_text("utf-8").splitlines())


def pins_of(distribution: str) -> Mapping[str, str]:
    """The exact versions that an installed package asks for. Raises PackageNotFoundError."""
    return _pins(requires(distribution) or ())


def _pins(lines: Iterable[str]) -> Mapping[str, str]:
    return {found[1]: found[2] for line in lines if (found := _PIN.match(line.strip()))}


def installed(name: str) -> str | None:
    """The installed version without its local part (2.13.0, not 2.13.0+cpu); None where there is none."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None
