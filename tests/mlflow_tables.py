"""MLflow's empty tables, made once and copied from then on: MLflow takes three seconds for each new database.

Only SQLite files in this process and its forks are meant; what MLflow does itself is left to real processes.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

template: Path | None = None  # where the tables are, or will be


def copy_from(file: Path) -> None:
    """From now on a new database of MLflow's is a copy of `file`, which the first one makes for every process."""
    from mlflow.store.db import utils

    global template
    template, migrate = file, utils._upgrade_db

    def copy(engine) -> None:
        database = engine.url.database
        if engine.url.get_backend_name() != "sqlite" or not database or _has_version(database):
            return migrate(engine)
        _make_template(file, migrate)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(database)) as target:
            source.backup(target)

    utils._upgrade_db = copy


def _has_version(database: str) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall())


def _make_template(file: Path, migrate) -> None:
    from mlflow.store.db.utils import InitialBase
    from sqlalchemy import create_engine

    with FileLock(f"{file}.lock"):
        if file.exists():
            return
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a process that was killed here
        engine = create_engine(f"sqlite:///{part}")
        InitialBase.metadata.create_all(engine)
        migrate(engine)
        engine.dispose()
        part.rename(file)
