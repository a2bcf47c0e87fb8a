"""Scratch folders of a stage: gone when the stage ends, and swept by the next one when it was killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genai_lifecycle.errors import Busy
from genai_lifecycle.runtime.file_errors import storage_failed
from genai_lifecycle.runtime.lock import only_run

PREFIX = "scratch-"


@contextmanager
def scratch_folder(staging_dir: Path, stage: str) -> Iterator[Path]:
    """An empty folder below `staging_dir`, removed at the end. Raises StorageFailed when it cannot be made."""
    try:
        staging_dir.mkdir(parents=True, exist_ok=True)
        _sweep(staging_dir)
        own = Path(tempfile.mkdtemp(dir=staging_dir, prefix=f"{PREFIX}{stage}-"))
    except OSError as exc:
        raise storage_failed(exc, "LIFECYCLE_STAGING_DIR") from exc
    try:
        with only_run(own):
            files = own / "files"
            files.mkdir()
            yield files
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _sweep(staging_dir: Path) -> None:
    """Remove the folders of stages that were killed: nobody holds their lock any more."""
    for left in staging_dir.glob(f"{PREFIX}*"):
        try:
            with only_run(left):
                shutil.rmtree(left, ignore_errors=True)
        except Busy:
            continue
