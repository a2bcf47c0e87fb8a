"""A folder on a disk that can be full, or that takes nothing: a mount of its own where that is allowed."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SIZE_BYTES = 512 * 1024


@dataclass(frozen=True)
class Disk:
    folder: Path
    fill: Callable[[], None]  # no byte can be written from now on
    free: Callable[[], None]


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Where nothing can be mounted, a full disk is a process whose files may not grow."""
    folder.mkdir()
    if _mounted(folder, f"size={SIZE_BYTES}"):
        try:
            yield Disk(folder, lambda: _fill(folder / "filler"), (folder / "filler").unlink)
        finally:
            _unmount(folder)
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            yield Disk(folder, lambda: _limit(0, limits[1]), lambda: _limit(*limits))
        finally:
            _limit(*limits)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder in which nothing can be made. For root, who may mount nothing here: one that is below a file."""
    folder.mkdir()
    if _mounted(folder, "ro"):
        try:
            yield folder
        finally:
            _unmount(folder)
    elif os.geteuid():
        folder.chmod(0o555)
        yield folder
    else:
        folder.rmdir()
        folder.touch()
        yield folder / "below"


def _mounted(folder: Path, options: str) -> bool:
    with suppress(FileNotFoundError):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def _limit(soft: int, hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
