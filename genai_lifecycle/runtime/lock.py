"""One process at a time on one folder. The lock goes with the process, however that ends.

The lock of a store, which several machines may share, is in `store/store_lock.py`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genai_lifecycle.errors import Busy
from genai_lifecycle.runtime.file_errors import storage_failed

LOCK_FILE = ".lifecycle.lock"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`. Raises Busy when another process has it, StorageFailed when it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+")
    except OSError as exc:
        raise storage_failed(exc) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            raise Busy(
                f"Another run (process {file.read().strip() or 'unknown'}) works on {folder}.",
                hint="Wait until it has ended.",
            ) from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
