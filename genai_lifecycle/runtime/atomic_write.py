"""Writes a text file in one step: a reader sees the former one or the new one, and a full disk leaves the former."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from genai_lifecycle.runtime.file_errors import storage_failed


def write_whole(path: Path, text: str) -> None:
    """Write `path`, with the folders above it. Raises StorageFailed when that fails."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, "utf-8")
        os.replace(half, path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            half.unlink()
        raise storage_failed(exc) from exc
