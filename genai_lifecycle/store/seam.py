"""`seam`: the decorator through which every call to MLflow passes, so that its errors become ours here."""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from genai_lifecycle.errors import Busy, LifecycleError, NotFound, StorageFailed, TrackingUnavailable
from genai_lifecycle.runtime import interruption
from genai_lifecycle.runtime.addresses import without_password
from genai_lifecycle.runtime.file_errors import NOT_WRITABLE, SPACE_HINT, storage_failed
from genai_lifecycle.store.s3 import problems
from genai_server.registry.alias_moves import MoveRefused

P = ParamSpec("P")
R = TypeVar("R")

_SQLITE_STORAGE = ("disk is full", "readonly database", "unable to open database", "disk i/o error")
# A missing alias is INVALID_PARAMETER_VALUE in MLflow 3.17, a missing model RESOURCE_DOES_NOT_EXIST; callers
# of a look-up that may find nothing ask for NotFound themselves.
_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"


def seam(function: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of MLflow, its database and its HTTP client into LifecycleErrors that keep their cause."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
        except LifecycleError:
            raise
        except Exception as exc:
            if ours := translated(exc):
                raise ours from exc
            raise
        interruption.deliver()
        return result

    return guarded


def translated(exc: BaseException) -> LifecycleError | None:
    """Our error for one of MLflow's, its database's or its HTTP client's; None for anything else."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(exc, MoveRefused):
        return Busy(str(exc), hint="Look which version is in use now, then run the same command again if need be.")
    if problem := s3_problem(exc):
        return problem
    chain = list(_causes(exc))
    for cause in chain:
        if isinstance(cause, RequestException) or "API request to" in str(cause)[:200]:
            return _gone()
        if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE:
            return storage_failed(cause)
        if isinstance(cause, sqlite3.Error) and any(word in str(cause).lower() for word in _SQLITE_STORAGE):
            return StorageFailed(f"The MLflow database cannot be written: {cause}.", hint=SPACE_HINT)
        if isinstance(cause, sqlite3.Error) or type(cause).__name__ == "OperationalError":
            return TrackingUnavailable(
                f"The MLflow database does not answer: {_first_line(cause)}.",
                hint="Is another program holding it, or was it moved? Run the same command again.",
            )
    if isinstance(exc, MlflowException):
        kind = NotFound if exc.error_code == _NOT_FOUND else LifecycleError
        return kind(f"MLflow refused the request: {_first_line(exc)}", hint="See --verbose for the full message.")
    return None


def s3_problem(exc: BaseException) -> StorageFailed | None:
    """What is wrong with the S3 store, where the error is of its client, or is MLflow's about files there.

    MLflow makes one text of the errors of many files, so the store is then asked once more.
    """
    from mlflow.exceptions import MlflowException

    if problem := problems.explained(exc):
        return problem
    found = re.search(r"s3://[^\s:]+", str(exc)) if isinstance(exc, MlflowException) else None
    if found is None:
        return None
    from genai_lifecycle.store.s3.preflight import diagnosed

    return diagnosed(found[0], str(exc))


def _gone() -> TrackingUnavailable:
    import mlflow

    return TrackingUnavailable(
        f"The MLflow server at {without_password(mlflow.get_tracking_uri())} stopped answering.",
        hint="Start it again and run the same command; or leave --tracking-uri out to use SQLite directly.",
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        # SQLAlchemy keeps the driver's own error in `orig`.
        if isinstance(orig := getattr(exc, "orig", None), BaseException):
            yield orig
        exc = exc.__cause__ or exc.__context__


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__
