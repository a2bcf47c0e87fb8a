"""Removing runs, traces, versions and logged models for good, as `mlflow gc` does, but only the ones that are named.

`mlflow gc` itself also removes what others have put into MLflow's trash. A server keeps its trash to itself: there
things are only put into it, and the server's operator runs `mlflow gc`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from genai_lifecycle.store.maintenance.inventory import CLEANED_TAG, Model, Run, local_folder
from genai_lifecycle.store.seam import seam
from genai_lifecycle.store.tracking_store import Store

_TRACES_AT_ONCE = 100  # what one call of MLflow deletes


@seam
def remove_run(store: Store, run: Run) -> None:
    """Its traces, its files, then the run itself. Killed in between, it is in the trash with our mark on it."""
    import mlflow

    client = mlflow.MlflowClient()
    _remove_traces(run)
    if not run.in_trash:
        client.set_tag(run.run_id, CLEANED_TAG, datetime.now(UTC).isoformat(timespec="seconds"))
        client.delete_run(run.run_id)
    if store.direct:
        _remove_files(run.location)
        _backend(store)._hard_delete_run(run.run_id)


@seam
def remove_model(store: Store, model: Model) -> None:
    """A logged model that no version points at."""
    import mlflow

    if not store.direct:
        mlflow.MlflowClient().delete_logged_model(model.model_id)
        return
    _remove_files(model.location)
    _backend(store)._hard_delete_logged_model(model.model_id)


def _remove_traces(run: Run) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    while found := client.search_traces(
        locations=[run.experiment_id], run_id=run.run_id, include_spans=False, max_results=_TRACES_AT_ONCE
    ):
        client.delete_traces(run.experiment_id, trace_ids=[trace.info.trace_id for trace in found])


def _remove_files(location: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(location).delete_artifacts()
    folder = local_folder(location)
    if folder is not None:
        _remove_empty(folder.parent)  # ID/artifacts leaves ID behind


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, or never made
        folder.rmdir()


def _backend(store: Store):
    """MLflow's own store, as `mlflow gc` gets it."""
    from mlflow.tracking._tracking_service.utils import _get_store

    return _get_store(store.uri)
