"""Where MLflow's tables say that artifacts are, and changing that after they have moved.

The only code that opens MLflow's database itself: MLflow has no call for it. Everything else goes through MLflow.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genai_lifecycle.errors import Busy, ConfigError, NotFound, StorageFailed
from genai_lifecycle.runtime.addresses import sqlite_file, without_password
from genai_lifecycle.runtime.file_errors import storage_failed
from genai_lifecycle.runtime.s3_address import is_s3
from genai_lifecycle.store import postgresql
from genai_lifecycle.store.seam import seam


@dataclass(frozen=True)
class MovedColumn:
    """Addresses in one column of MLflow's tables that are below the old place."""

    column: str  # table.column
    rows: int
    before: str  # one of them, and what becomes of it
    after: str


LOCK_PATIENCE_S = 5.0  # for a database that another program writes to at this moment
# Every column of MLflow 3.17 with an absolute artifact address, seen in a filled store and in its schema:
# (table, column, condition). Model versions made from a logged model have `models:/m-...` in `source`, which stays.
# Left alone: datasets.dataset_source and the tag mlflow.source.name, which say where something came from.
COLUMNS = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("trace_tags", "value", "key IN ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')"),
    ("workspaces", "trace_archival_location", ""),  # not in every version of the schema
)


@dataclass(frozen=True)
class Prefix:
    """One form of the old address, and what it becomes."""

    old: str
    new: str


def prefixes(old: str, new: str) -> tuple[Prefix, ...]:
    """The forms in which MLflow keeps addresses below `old`: a path, `file://` and `file:`; an address in S3 has one.

    Args:
        old, new: absolute folders or s3:// addresses, without a slash at the end.
    """
    if is_s3(old):
        return (Prefix(old, new),)
    as_file = [Prefix(f"{scheme}{quote(old)}", new if is_s3(new) else f"{scheme}{quote(new)}")
               for scheme in ("file://", "file:")]  # fmt: skip
    return (Prefix(old, new), *as_file)


class Locations:
    """The artifact addresses in an opened database, read and changed in one transaction."""

    def __init__(self, connection: Any):
        self._connection = connection
        self._columns = [item for item in COLUMNS if self._has(*item[:2])]

    def below(self, forms: Sequence[Prefix]) -> list[MovedColumn]:
        """How many addresses of each column would be changed, with one of them; columns without any are left out."""
        found = [self._counted(*column, form) for column in self._columns for form in forms]
        return [item for item in found if item.rows]

    def rewrite(self, forms: Sequence[Prefix]) -> int:
        """Change them; returns how many. Nothing is kept unless the block of `opened` ends well."""
        return sum(self._rewritten(*column, form) for column in self._columns for form in forms)

    def of_models(self, forms: Sequence[Prefix]) -> list[str]:
        """The new addresses of every model that is not deleted and has an address below the old place."""
        found = self._new_addresses("logged_models", "artifact_location", "lifecycle_stage <> 'deleted'", forms)
        found += self._new_addresses("model_versions", "storage_location", "current_stage <> 'Deleted_Internal'", forms)
        return sorted(set(found))

    def _has(self, table: str, column: str) -> bool:
        from sqlalchemy import inspect

        found = inspect(self._connection)
        return found.has_table(table) and column in {item["name"] for item in found.get_columns(table)}

    def _counted(self, table: str, column: str, condition: str, form: Prefix) -> MovedColumn:
        said = f"SELECT count(*), min({column}) FROM {table} WHERE {_below(column, condition)}"
        rows, example = self._run(said, form).one()
        return MovedColumn(f"{table}.{column}", rows, example or "", _moved(example or "", form))

    def _rewritten(self, table: str, column: str, condition: str, form: Prefix) -> int:
        return self._run(_update(table, column, condition), form).rowcount

    def _new_addresses(self, table: str, column: str, condition: str, forms: Sequence[Prefix]) -> list[str]:
        said = f"SELECT {column} FROM {table} WHERE {_below(column, condition)}"
        return [_moved(row[0], form) for form in forms for row in self._run(said, form)]

    def _run(self, statement: str, form: Prefix):
        from sqlalchemy import text

        values = {"old": form.old, "old_length": len(form.old), "new": form.new, "new_length": len(form.new)}
        return self._connection.execute(text(statement), values)


def _below(column: str, condition: str) -> str:
    """Whole path prefixes only. What is below the new place already stays: a second run changes nothing."""
    old = f"({column} = :old OR substr({column}, 1, :old_length + 1) = :old || '/')"
    done = f"({column} = :new OR substr({column}, 1, :new_length + 1) = :new || '/')"
    return f"{old} AND NOT {done}" + (f" AND {condition}" if condition else "")


def _update(table: str, column: str, condition: str) -> str:
    moved = f":new || substr({column}, :old_length + 1)"
    return f"UPDATE {table} SET {column} = {moved} WHERE {_below(column, condition)}"


def _moved(address: str, form: Prefix) -> str:
    return form.new + address[len(form.old) :]


# --- opening --------------------------------------------------------------------------------------


@contextmanager
def opened(uri: str) -> Iterator[Locations]:
    """The addresses in the database; what was changed is kept when the block ends well, and only then.

    Raises:
        NotFound: there is no such database, or it is not MLflow's.
        Busy: another program writes to it.
        ConfigError, TrackingUnavailable: PostgreSQL, see `postgresql.check`.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    require_database(uri)
    patience = {"timeout": LOCK_PATIENCE_S} if uri.startswith("sqlite") else {"connect_timeout": int(LOCK_PATIENCE_S)}
    try:
        with create_engine(uri, poolclass=NullPool, connect_args=patience).begin() as connection:
            locations = Locations(connection)
            if not locations._has("experiments", "artifact_location"):
                raise NotFound(f"{without_password(uri)} is not a database of MLflow.", hint="See --backend-store-uri.")
            yield locations
    except DBAPIError as exc:
        raise _explained(exc) from exc


def require_database(uri: str) -> None:
    """Raises NotFound where the SQLite file is not there; see `postgresql.check` for the other kind."""
    if postgresql.is_postgresql(uri):
        postgresql.check(uri)
    elif not sqlite_file(uri).is_file():
        raise NotFound(
            f"There is no database {sqlite_file(uri)}.", hint="Name the one you use with --backend-store-uri."
        )


def _explained(exc: Exception):
    said = str(getattr(exc, "orig", exc)).strip()
    if "locked" in said or "lock timeout" in said:
        return Busy("Another program writes to the MLflow database.", hint="Wait until it has ended, or end it.")
    if "too long" in said:
        return ConfigError("The new address is too long for MLflow's tables.", hint="Choose a shorter place.")
    return StorageFailed(f"The MLflow database cannot be changed: {said.splitlines()[0][:200]}.", hint="Nothing was.")


def back_up(uri: str) -> Path | None:
    """A copy of the SQLite database beside it, whole also while others read and write; None for PostgreSQL.

    Raises:
        StorageFailed: it cannot be written. Nothing is left of it then.
    """
    if postgresql.is_postgresql(uri):
        return None
    file = sqlite_file(uri)
    copy = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}.backup")
    part = copy.with_name(f".{copy.name}.part")
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        os.replace(part, copy)
    except sqlite3.Error as exc:
        raise StorageFailed(f"The database cannot be copied to {copy}: {exc}.", hint="Free some space there.") from exc
    except OSError as exc:
        raise storage_failed(exc) from exc
    finally:
        part.unlink(missing_ok=True)
    return copy


# --- are the files there --------------------------------------------------------------------------


@seam
def has_model(address: str) -> bool:
    """Whether there is a logged model at this address: in a folder, in S3, or kept by the server in use."""
    import mlflow

    if "://" not in address and not address.startswith("mlflow-artifacts:"):
        return (Path(address) / "MLmodel").is_file()
    return any(item.path.rpartition("/")[2] == "MLmodel" for item in mlflow.artifacts.list_artifacts(address))
