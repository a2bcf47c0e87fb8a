"""One sha256 for all files of a served model that deploy lays out, so that a change to any of them can be found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def artifacts_sha256(folder: Path, names: Iterable[str]) -> str:
    """sha256 over path and sha256 of every file below `folder` in one of `names` (files or folders), by path.

    What Python compiles into `__pycache__` on its own does not count.
    """
    found = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    lines = sorted(
        f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n"
        for path in found
        if "__pycache__" not in path.relative_to(folder).parts
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
