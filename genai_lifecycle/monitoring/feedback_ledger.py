"""Reads the ledger in which a server keeps all feedback, and its full parts (`genai_server/feedback/ledger.py`).

A server may be writing into it all the while: what has no line break yet is left for the next time.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import StorageFailed

_NUMBERED = re.compile(r"\.\d{1,5}")  # what follows the name of a full part


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    id: str  # of its text: the same in the file and in the one it is renamed to
    request_id: str
    name: str
    value: bool | int | float | str | None
    comment: str | None
    source: str
    time_ms: int  # Unix time


@dataclass(frozen=True)
class LedgerContent:
    """What the ledger holds, oldest first."""

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]  # sentences
    is_half_written: bool


def read_ledger(path: Path, former: Path | None = None) -> LedgerContent:
    """Read the ledger, which may be missing, and before it its full parts, oldest first.

    So a line that moves into a part meanwhile is found now or the next time.

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
                entry = _entry(line)
            except (ValueError, TypeError, KeyError, OverflowError) as exc:
                unreadable.append(f"{file.name}, line {number}: {_why(exc)}")
            else:
                entries[entry.id] = entry
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


def _entry(line: bytes) -> Entry:
    told: Mapping[str, Any] = json.loads(line)
    if not isinstance(told, dict):
        raise TypeError("not an object")
    texts = {name: _text(told, name) for name in ("request_id", "name", "source")}
    value, comment = told.get("value"), told.get("comment")
    if not isinstance(value, (bool, int, float, str, type(None))) or not isinstance(comment, (str, type(None))):
        raise TypeError("'value' or 'comment' has a wrong type")
    return Entry(hashlib.sha256(line).hexdigest()[:32], **texts, value=value, comment=comment,
                 time_ms=int(float(told["time"]) * 1000))  # fmt: skip


def _text(told: Mapping[str, Any], name: str) -> str:
    if not isinstance(told.get(name), str) or not told[name]:
        raise TypeError(f"{name!r} is missing or not a text")
    return told[name]


def _why(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"not valid JSON ({exc.msg})"
    return f"{exc.args[0]!r} is missing" if isinstance(exc, KeyError) else str(exc)
