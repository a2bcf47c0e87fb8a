"""Where traces wait for MLflow: a small SQLite file between the server, which puts, and the writer, which takes.

It outlives both, so that a load peak, a dead MLflow and a restart cost time and no trace. Knows neither MLflow nor
what a record says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

LIMIT_BYTES = 64_000_000  # some 50,000 traces without texts
LOCK_TIMEOUT_S = 5.0


class Spool:
    """Records in the order in which they came. Every method raises sqlite3.Error where the file does not serve.

    Args:
        limit_bytes: of the file; `put` raises when it is full.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
        # Nobody waits for the disk: the end of a process loses nothing, a power cut may lose the last records.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS traces (id INTEGER PRIMARY KEY, record TEXT NOT NULL)")
        self._db.execute("CREATE TABLE IF NOT EXISTS dropped (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
        (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
        self._db.execute(f"PRAGMA max_page_count = {limit_bytes // page_bytes}")

    def put(self, records: Iterable[str]) -> None:
        """All of them, or none."""
        with self._db:
            self._db.executemany("INSERT INTO traces (record) VALUES (?)", ((record,) for record in records))

    def first(self, count: int) -> dict[int, str]:
        """The oldest, by their numbers."""
        return dict(self._db.execute("SELECT id, record FROM traces ORDER BY id LIMIT ?", (count,)))

    def remove(self, numbers: Sequence[int]) -> None:
        with self._db:
            self._db.executemany("DELETE FROM traces WHERE id = ?", ((number,) for number in numbers))

    def drop(self, number: int) -> None:
        """Remove one that can never be written, and count it."""
        with self._db:
            self._db.execute("INSERT INTO dropped VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1")
            self._db.execute("DELETE FROM traces WHERE id = ?", (number,))

    @property
    def dropped(self) -> int:
        """How many ever were."""
        return (self._db.execute("SELECT count FROM dropped").fetchone() or (0,))[0]

    def __len__(self) -> int:
        """Costs nothing however many there are: they go as they came."""
        last, first = (self._db.execute(f"SELECT {end}(id) FROM traces").fetchone()[0] for end in ("max", "min"))
        return 0 if last is None or first is None else last - first + 1

    def close(self) -> None:
        self._db.close()
