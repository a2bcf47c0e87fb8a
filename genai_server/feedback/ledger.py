"""The ledger of feedback: a file to which one JSON line is added for each, on the disk before the caller is answered.

At 10 MB it is renamed to `NAME.1`, then `NAME.2` and so on, the highest number being the newest; together they keep
50 MB. Several servers may write one ledger. Knows nothing of MLflow, nor what a line says.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import re
from io import FileIO
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT_BYTES = 10_000_000  # of one file
MOST_PARTS = 4  # full ones, beside the one that is written
_NUMBERED = re.compile(r"\.\d{1,5}")  # a date is somebody else's name


class Ledger:
    """Every method raises OSError where the disk does not serve."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, line: bytes) -> None:
        """All of it, or nothing. Returns when it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as file:
            end = file.seek(0, os.SEEK_END)
            rest = _line_break_after_a_torn_line(file, end) + line + b"\n"
            try:
                while rest:  # a disk that becomes full takes a part, and raises at the next one
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)  # else the next line would be part of half a line
                raise

    def absorb(self, former: Path) -> list[Path]:
        """Make the files of another ledger full parts of this one; returns them."""
        parts = [part for part in [*_parts(former), former] if part.is_file()]
        if parts:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened():  # another server that is starting does the same
                for part in parts:
                    if part.is_file():
                        os.rename(part, self._next_part())
        return parts

    def _opened(self) -> FileIO:
        """The file with room in it, which nobody else writes to until it is closed."""
        while True:
            file = self.path.open("a+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self._is_current(file):
                    if os.fstat(file.fileno()).st_size <= LIMIT_BYTES:
                        return file
                    self._rename()
            except BaseException:
                file.close()
                raise
            file.close()

    def _is_current(self, file: FileIO) -> bool:
        """Whether no other server has renamed it while we waited."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _rename(self) -> None:
        """One step, so that a reader misses no line: it reads the numbered files first."""
        os.rename(self.path, self._next_part())
        for oldest in _parts(self.path)[:-MOST_PARTS]:
            log.warning(
                "The oldest part of the feedback ledger, %s, is dropped: there is room for %d full ones. Import them "
                "(--mode import-feedback) or move them away in time.", oldest, MOST_PARTS,
            )  # fmt: skip
            oldest.unlink(missing_ok=True)

    def _next_part(self) -> Path:
        parts = _parts(self.path)
        return self.path.with_name(f"{self.path.name}.{_number(parts[-1]) + 1 if parts else 1}")


def _parts(ledger: Path) -> list[Path]:
    """The full ones, oldest first."""
    every = ledger.parent.glob(f"{glob.escape(ledger.name)}.*")
    return sorted((part for part in every if _NUMBERED.fullmatch(part.name[len(ledger.name) :])), key=_number)


def _number(part: Path) -> int:
    return int(part.suffix[1:])


def _line_break_after_a_torn_line(file: FileIO, end: int) -> bytes:
    """After a power cut the file may end with half a line, which must not become part of the next one."""
    return b"" if end == 0 or os.pread(file.fileno(), 1, end - 1) == b"\n" else b"\n"
