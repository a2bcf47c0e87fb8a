"""Runs: starting, logging to, ending and finding them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from genai_lifecycle.runtime import interruption
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.seam import seam
from genai_lifecycle.store.tracking_store import EXPERIMENT_TAG, Store, still_answers
from genai_server.registry.filters import equals

STAGE_TAG = "lifecycle.stage"
WINNER_TAG = "lifecycle.winner"  # prompt that won, as name/version
_LINKED, _DESCRIPTION, _LONGEST_DESCRIPTION = "mlflow.linkedPrompts", "mlflow.note.content", 5000
EVALUATE = "evaluate"  # stage of a run: one prompt over the cases, in an experiment or an evaluation
PROCESS_TAG = "lifecycle.process"  # host:pid, to tell a run that died from one under way


@contextmanager
def run(name: str, stage: str, *, nested: bool = False, tags: Mapping[str, str] | None = None) -> Iterator[str]:
    """An MLflow run named `name`; yields its id. Ended as FINISHED, FAILED or, after Ctrl-C, KILLED."""
    tags = {STAGE_TAG: stage, PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"} | dict(tags or {})
    run_id = ""
    try:
        with interruption.held():  # a run that has begun is one that we end
            run_id = _start(name, tags, nested)
        _tag_experiment()
        yield run_id
    except BaseException as exc:
        if run_id:
            _end_after(exc)
        raise
    _end("FINISHED")


@seam
def _start(name: str, tags: Mapping[str, str], nested: bool) -> str:
    import mlflow

    return mlflow.start_run(run_name=name, nested=nested, tags=dict(tags)).info.run_id


@seam
def _tag_experiment() -> None:
    """Say on the run under way that its experiment was asked for by another name, for the sake of its artifacts."""
    import mlflow

    experiment = mlflow.get_experiment(mlflow.active_run().info.experiment_id)
    if asked := experiment.tags.get(EXPERIMENT_TAG):
        mlflow.set_tag(EXPERIMENT_TAG, asked)


@seam
def _end(status: str) -> None:
    import mlflow

    mlflow.end_run(status)


def _end_after(exc: BaseException) -> None:
    """Say how the run ended, unless the tracking server is gone: the error under way matters more."""
    from genai_lifecycle.errors import LifecycleError, TrackingUnavailable

    if isinstance(exc, TrackingUnavailable) and not still_answers():
        return
    try:
        _end("FAILED" if isinstance(exc, Exception) else "KILLED")
    except LifecycleError as second:
        exc.add_note(f"The run could not be ended either: {second.args[0]}")


@seam
def log_results(params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    """Params and metrics of the run under way."""
    import mlflow

    if params:
        mlflow.log_params(dict(params))
    if metrics:
        mlflow.log_metrics(dict(metrics))


def linked(prompt: PromptRef) -> dict[str, str]:
    """The tag by which MLflow shows the prompt version on a run or a trace; empty where it is in no registry."""
    return {_LINKED: json.dumps([{"name": prompt.name, "version": str(prompt.version)}])} if prompt.version else {}


@seam
def describe(text: str) -> None:
    """What MLflow's UI shows first of the run under way: Markdown, cut at the length that MLflow takes."""
    import mlflow

    mlflow.set_tag(_DESCRIPTION, text[:_LONGEST_DESCRIPTION])


@seam
def log_folder(folder: Path) -> None:
    """Every file below `folder` as artifacts of the run under way, with the same relative paths."""
    import mlflow

    mlflow.log_artifacts(str(folder))


@seam
def set_tag(run_id: str, name: str, value: str) -> None:
    import mlflow

    mlflow.MlflowClient().set_tag(run_id, name, value)


@seam
def latest_winner(store: Store) -> tuple[str, str] | None:
    """(run id, winner as name/version) of the newest experiment that ended well, or None."""
    found = _newest(store, f"tags.`{STAGE_TAG}` = 'experiment'")
    return (found.info.run_id, found.data.tags[WINNER_TAG]) if found else None


@seam
def measured(store: Store, identity: Mapping[str, str], cases_sha256: str | None = None) -> Mapping[str, float]:
    """Metrics of the newest experiment of a prompt with the same weights (and cases); empty when there is none.

    Args:
        identity: has "prompt" (name/version) and "weights_sha256".
    """
    wanted = {name: identity.get(name, "") for name in ("prompt", "weights_sha256")}
    wanted |= {"cases_sha256": cases_sha256} if cases_sha256 else {}
    same = " and ".join(equals(f"params.{name}", value) for name, value in wanted.items())
    found = _newest(store, f"tags.`{STAGE_TAG}` = '{EVALUATE}' and {same}")
    return found.data.metrics if found else {}


def _newest(store: Store, filter_string: str):
    import mlflow

    found = mlflow.MlflowClient().search_runs(
        [store.experiment_id],
        filter_string=f"{filter_string} and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


@seam
def files_of(run_id: str) -> list[str]:
    """Paths of the artifacts at the top of a run's folder."""
    import mlflow

    return [item.path for item in mlflow.MlflowClient().list_artifacts(run_id)]


@seam
def download(run_id: str, path: str, folder: Path) -> Path:
    """One artifact of a run, copied below `folder`."""
    import mlflow

    # By the address of its artifacts: asked for a run's file, MLflow says of every failure that there is no such file.
    root = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
    folder.mkdir(parents=True, exist_ok=True)
    return Path(mlflow.artifacts.download_artifacts(f"{root}/{path}", dst_path=str(folder)))


@seam
def close_dead_runs(store: Store) -> int:
    """Mark as KILLED the runs that a process on this host left RUNNING when it died; returns how many."""
    import mlflow

    client = mlflow.MlflowClient()
    found = client.search_runs([store.experiment_id], filter_string="attributes.status = 'RUNNING'", max_results=1000)
    dead = [item.info.run_id for item in found if is_dead(item.data.tags.get(PROCESS_TAG, ""))]
    for run_id in dead:
        client.set_terminated(run_id, status="KILLED")
    return len(dead)


def is_dead(process: str) -> bool:
    host, _, pid = process.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(pid) == os.getpid()  # we have only just started: a run of ours is another process's with our number
