"""Reads the ledger in which a server keeps all feedback, and its full parts (`genai_server/feedback/ledger.py`).

A server may be writing into it all the while: what has no line break yet is left for the next time.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.validation import STRICT, Invalid, parse

NotEmpty = Annotated[str, MinLen(1)]
_NUMBERED = re.compile(r"\.\d{1,5}")  # what follows the name of a full part


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    request_id: NotEmpty
    name: NotEmpty
    source: NotEmpty
    time: float  # Unix time in seconds
    value: Any = None  # bool, number, text; None where there is a comment only
    comment: str | None = None
    id: str = ""  # of its text: the same in the file and in the one it is renamed to
    __pydantic_config__ = STRICT | {"extra": "ignore"}

    def __post_init__(self) -> None:
        if isinstance(self.value, (list, dict)):
            raise ValueError("has a list or an object as its 'value'")

    @property
    def time_ms(self) -> int:
        return int(self.time * 1000)


@dataclass(frozen=True)
class LedgerContent:
    """What the ledger holds, oldest first."""

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]  # sentences
    is_half_written: bool


def read_ledger(path: Path, former: Path | None = None) -> LedgerContent:
    """Read the ledger, which may be missing, and before it its full parts, oldest first.

    So a line that moves into a part meanwhile is read now or the next time.

    Args:
        former: where servers of earlier versions kept it; what the next one has not moved yet is read as well.

    Raises:
        StorageFailed: a file is there and cannot be read.
    """
    entries: dict[str, Entry] = {}
    unreadable: list[str] = []
    is_half_written = False
    for file in [*(_files(former) if former else ()), *_files(path)]:
        content = _content(file)
        *lines, rest = content.split(b"\n")
        is_half_written = bool(rest)
        for number, line in enumerate(lines, 1):
            try:
                entry = parse(Entry, line)
            except Invalid as exc:
                unreadable.append(f"{file.name}, line {number}: {exc}")
            else:
                identity = hashlib.sha256(line).hexdigest()[:32]
                entries[identity] = replace(entry, id=identity)
    return LedgerContent(tuple(entries.values()), tuple(unreadable), is_half_written)


def _files(ledger: Path) -> Iterator[Path]:
    every = ledger.parent.glob(f"{glob.escape(ledger.name)}.*")
    parts = [part for part in every if _NUMBERED.fullmatch(part.name[len(ledger.name) :])]
    yield from sorted(parts, key=lambda part: int(part.suffix[1:]))
    yield ledger


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise StorageFailed(f"The ledger {file} cannot be read: {exc.strerror}.", hint="See --feedback-file.") from exc
