"""What is in the store: runs, versions with their aliases, logged models. Read only; removing is in `trash.py`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from genai_lifecycle.store.runs import PROCESS_TAG, STAGE_TAG, is_dead
from genai_lifecycle.store.seam import seam
from genai_server.registry.filters import equals

CLEANED_TAG = "lifecycle.cleaned"  # on a run that `clean` has begun to remove, so that it goes on with it
_PAGE = 1000
_PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class Run:
    """One run, nested or not."""

    run_id: str
    experiment_id: str
    name: str
    stage: str  # experiment | template | deploy | test | ... ; empty for a run of somebody else's
    parent: str | None
    status: str
    started_ms: int
    location: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    in_trash: bool

    @property
    def is_left_open(self) -> bool:
        """RUNNING, though the process that made it is gone."""
        return self.status == "RUNNING" and is_dead(self.tags.get(PROCESS_TAG, ""))


@dataclass(frozen=True)
class Version:
    """One registered version."""

    name: str
    version: str
    aliases: tuple[str, ...]
    source: str
    location: str  # where its files are
    run_id: str
    created_ms: int
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def model_id(self) -> str | None:
        """Of the logged model that it was made from."""
        found = self.source.removeprefix("models:/")
        return found if self.source.startswith("models:/m-") else None

    @property
    def source_run_id(self) -> str | None:
        """Of the run whose files it has, where it was registered by that address."""
        found = re.match(r"runs:/(\w+)", self.source)
        return found[1] if found else None


@dataclass(frozen=True)
class Model:
    """One logged model, registered or not."""

    model_id: str
    experiment_id: str
    run_id: str | None
    created_ms: int
    location: str


@dataclass(frozen=True)
class Experiment:
    experiment_id: str
    name: str
    location: str


@seam
def look_at(uri: str) -> None:
    """Point MLflow at a store as it is: nothing is made there."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)


@seam
def experiments() -> list[Experiment]:
    """Every experiment that is not in the trash."""
    import mlflow

    found = _pages(lambda token: mlflow.MlflowClient().search_experiments(max_results=_PAGE, page_token=token))
    return [Experiment(item.experiment_id, item.name, item.artifact_location) for item in found]


@seam
def runs(*experiment_ids: str, wanted: str = "") -> list[Run]:
    """Every run of the experiments, newest first, with those in the trash.

    Args:
        wanted: in MLflow's words, which of them; "" = all.
    """
    import mlflow
    from mlflow.entities import ViewType

    client = mlflow.MlflowClient()
    found = _pages(
        lambda token: client.search_runs(
            list(experiment_ids), wanted, run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
    )
    return sorted(map(_run, found), key=lambda run: -run.started_ms)


def evaluations(model_name: str) -> list[Run]:
    """The evaluations of a registered model in every experiment, newest first."""
    places = [place.experiment_id for place in experiments()]
    return runs(*places, wanted=f"tags.`{STAGE_TAG}` = 'evaluate' and {equals('params.model_name', model_name)}")


def _run(item: Any) -> Run:
    tags = item.data.tags
    return Run(
        run_id=item.info.run_id,
        experiment_id=item.info.experiment_id,
        name=item.info.run_name or "",
        stage=tags.get(STAGE_TAG, ""),
        parent=tags.get(_PARENT_TAG),
        status=item.info.status,
        started_ms=item.info.start_time or 0,
        location=item.info.artifact_uri or "",
        tags=tags,
        params=item.data.params,
        in_trash=item.info.lifecycle_stage == "deleted",
    )


@seam
def versions(name: str | None = None) -> list[Version]:
    """Every version of the registered model, newest first; without a name, of every model."""
    import mlflow

    client = mlflow.MlflowClient()
    models = _pages(lambda token: client.search_registered_models(max_results=_PAGE, page_token=token))
    names = [model.name for model in models if name in (None, model.name)]
    return [version for each in names for version in _versions(client, each)]


def _versions(client: Any, name: str) -> list[Version]:
    by_version: dict[str, list[str]] = {}
    for alias, number in client.get_registered_model(name).aliases.items():
        by_version.setdefault(str(number), []).append(alias)
    wanted = equals("name", name)
    found = _pages(lambda token: client.search_model_versions(wanted, max_results=_PAGE, page_token=token))
    made = [_version(client, item, by_version.get(str(item.version), ())) for item in found if item.name == name]
    return sorted(made, key=lambda version: -int(version.version))


def _version(client: Any, item: Any, aliases: Sequence[str]) -> Version:
    location = client.get_model_version_download_uri(item.name, item.version)
    return Version(
        item.name, str(item.version), tuple(sorted(aliases)), item.source or "", location or "", item.run_id or "",
        item.creation_timestamp, dict(item.tags),
    )  # fmt: skip


@seam
def models(*experiment_ids: str) -> list[Model]:
    """Every logged model of the experiments that is not deleted."""
    import mlflow

    client = mlflow.MlflowClient()
    found = _pages(lambda token: client.search_logged_models(list(experiment_ids), max_results=50, page_token=token))
    return [
        Model(item.model_id, item.experiment_id, item.source_run_id, item.creation_timestamp, item.artifact_location)
        for item in found
    ]


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


# --- files ----------------------------------------------------------------------------------------


def local_folder(location: str) -> Path | None:
    """The folder of an artifact address; None where it is in S3 or behind a server."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return None if "://" in location or location.startswith("mlflow-artifacts:") else Path(location)


@seam
def size_bytes(location: str) -> int:
    """Bytes of all files below an artifact address; 0 where nothing is there."""
    folder = local_folder(location)
    if folder is not None:
        return folder_bytes(folder)
    return _size_below(location)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; a file that goes away meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _size_below(location: str) -> int:
    import mlflow

    total = 0
    for item in mlflow.artifacts.list_artifacts(artifact_uri=location):
        total += _size_below(f"{location}/{item.path.rpartition('/')[2]}") if item.is_dir else item.file_size or 0
    return total
