"""Which MLflow store a run uses, and opening it. Runs, traces and versions are in the files beside this one.

A named server or store is a promise; where none is named, an MLflow server that answers on port 5050 is
used, and where none answers, the backend store (SQLite) directly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genai_lifecycle.config import DATA_ROOT, LOCAL_SERVER_PORT, E2EConfig
from genai_lifecycle.errors import ConfigError, StorageFailed, TrackingUnavailable
from genai_lifecycle.runtime.addresses import SQLITE, sqlite_file, without_credentials, without_password
from genai_lifecycle.runtime.file_errors import storage_failed
from genai_lifecycle.runtime.machine import free_bytes
from genai_lifecycle.runtime.s3_address import S3Root, is_s3, name_in
from genai_lifecycle.store import postgresql
from genai_lifecycle.store.seam import seam

if TYPE_CHECKING:
    from mlflow.entities import Experiment

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 3.0
MIN_FREE_BYTES = 200_000_000  # a run needs room for the weights' copy, traces and plots
EXPERIMENT_TAG = "lifecycle.experiment"  # of an experiment, and its runs, that was named otherwise: the name as given


@dataclass(frozen=True)
class Store:
    """An opened tracking store with the experiment that runs go to."""

    uri: str
    kind: str  # named | server | direct
    description: str  # one line for the first lines of output
    experiment_id: str  # empty where the run only reads, and there is no such experiment
    artifact_root: str
    experiment_name: str
    elsewhere: str = ""  # where the experiment that was asked for has its artifacts, when this is another one

    def activate(self) -> None:
        """MLflow has one store for a whole process: it is this one from here on."""
        _point_mlflow_at(self.uri)

    @property
    def direct(self) -> bool:
        """True when the database is used without a server, by this process alone."""
        return not self.uri.startswith("http")


def choose(config: E2EConfig) -> tuple[str, str, str]:
    """(uri, kind, description) of the store that `config` asks for. Raises TrackingUnavailable."""
    if config.tracking_uri:
        if config.tracking_uri.startswith("http"):
            _require_mlflow(config.tracking_uri)
        return _logged_in(config.tracking_uri), "named", f"{without_password(config.tracking_uri)} (as named)"
    local = f"http://127.0.0.1:{LOCAL_SERVER_PORT}"
    answer = probe(local)
    if answer == "mlflow":
        return local, "server", f"{local} (an MLflow server answers on port {LOCAL_SERVER_PORT})"
    why = f"no server on port {LOCAL_SERVER_PORT}"
    if answer == "other":
        why = f"what answers on port {LOCAL_SERVER_PORT} is not MLflow"
    return config.backend_store_uri, "direct", f"{short(config.backend_store_uri)} (directly: {why})"


def _logged_in(uri: str) -> str:
    """The address for MLflow, whose errors may be shown; user and password go to its client, here and in processes
    that we start, by the environment."""
    address, user = without_credentials(uri)
    os.environ.update(user)
    return address


def probe(url: str, login: tuple[str, str] | None = None) -> str:
    """What answers at `url`: "mlflow", "other" (something else) or "nothing".

    Args:
        login: user and password, where `url` has none.
    """
    import requests

    try:
        health = requests.get(f"{url.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S, auth=login)
        version = requests.get(f"{url.rstrip('/')}/version", timeout=PROBE_TIMEOUT_S, auth=login)
    except requests.ConnectionError as exc:
        return "other" if "RemoteDisconnected" in str(exc) or "BadStatusLine" in str(exc) else "nothing"
    except requests.RequestException:
        return "other"
    looks_right = health.text.strip() == "OK" and version.ok and version.text.strip()[:1].isdigit()
    return "mlflow" if looks_right else "other"


def still_answers() -> bool:
    """Whether the store in use can be asked: a server that answers, or a database (which says so itself)."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    return not uri.startswith("http") or probe(uri, _login()) == "mlflow"


def _login() -> tuple[str, str] | None:
    """User and password as MLflow's client has them from the environment."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    return (user, password) if user and password else None


def _require_mlflow(uri: str) -> None:
    hint = "Start the server, correct --tracking-uri (or MLFLOW_TRACKING_URI), or leave it out to use SQLite directly."
    answer = probe(_logged_in(uri), _login())
    if answer == "nothing":
        raise TrackingUnavailable(f"No MLflow server answers at {without_password(uri)}.", hint=hint)
    if answer == "other":
        raise TrackingUnavailable(f"What answers at {without_password(uri)} is not an MLflow server.", hint=hint)


def open_store(config: E2EConfig, *, writes: bool = True) -> Store:
    """Choose the store, check that it can be written, point MLflow at it and find or make the experiment.

    Args:
        writes: False where the run logs nothing: no experiment is made or restored then, and keys for S3 that may only
            read are enough.

    Raises:
        TrackingUnavailable: the named server or database does not answer.
        StorageFailed: the database's folder or the artifact root is full or read-only, or the S3 store does not work.
        ConfigError: the experiment's artifacts are kept by a server that is not in use.
    """
    uri, kind, description = choose(config)
    direct = not uri.startswith("http")
    if direct:
        _prepare_places(uri, config, writes)
        _make_database(uri)
    experiment, elsewhere = _open_experiment(uri, config, direct, writes)
    artifact_root = experiment.artifact_location
    if kind == "server":
        _say_what_is_not_used(uri, artifact_root, config)
    if is_s3(artifact_root) and not (direct and is_s3(config.data_dir)):  # a server that lets its clients go to S3
        _open_s3(artifact_root, config, writes)
    return Store(uri, kind, description, experiment.experiment_id, artifact_root, experiment.name, elsewhere)


def _say_what_is_not_used(uri: str, artifact_root: str, config: E2EConfig) -> None:
    """A place that somebody gave, and that a server found on its port has no use for: it has its own."""
    given = {"--backend-store-uri": config.backend_store_uri != E2EConfig.backend_store_uri}
    given["--data-dir"] = config.data_dir != E2EConfig.data_dir and not _is_below(artifact_root, config.data_dir)
    if unused := [flag for flag, is_given in given.items() if is_given]:
        log.warning(
            "Not used: %s. The MLflow server at %s decides where things are kept; stop it, or name a store with"
            " --tracking-uri.", " and ".join(unused), uri,
        )  # fmt: skip


def in_experiment(store: Store, config: E2EConfig, name: str) -> Store:
    """The same store with another experiment, made where it is missing; runs go there from now on."""
    found, elsewhere = _open_experiment(store.uri, replace(config, experiment_name=name), store.direct)
    return replace(
        store, experiment_id=found.experiment_id, artifact_root=found.artifact_location, experiment_name=found.name,
        elsewhere=elsewhere,
    )  # fmt: skip


def _prepare_places(uri: str, config: E2EConfig, writes: bool) -> None:
    if uri.startswith(SQLITE):
        check_writable(sqlite_file(uri).parent)
    elif postgresql.is_postgresql(uri):
        postgresql.check(uri)
    if is_s3(config.data_dir):
        _open_s3(config.data_dir, config, writes)
    else:
        check_writable(Path(config.data_dir))


def _open_s3(root: str, config: E2EConfig, writes: bool) -> None:
    from genai_lifecycle.store.s3.preflight import open_root

    try:
        place = S3Root.parse(root)
    except ValueError as exc:  # only an MLflow server can have given it such a place
        raise ConfigError(
            f"The experiment {config.experiment_name!r} keeps its artifacts where they cannot be had: {exc}.",
            hint="Choose another --experiment-name, or have the server keep them elsewhere.",
        ) from exc
    open_root(place, config.s3_endpoint_url, config.s3_access_key, config.s3_secret_key, writes=writes)


def check_writable(folder: Path) -> None:
    """Make `folder` and write a small file in it. Raises StorageFailed when that fails or little space is left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-check-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise storage_failed(exc) from exc
    _, free = free_bytes(folder)
    if free < MIN_FREE_BYTES:
        raise StorageFailed(
            f"Only {free / 1e6:.0f} MB are free at {folder}; a run needs {MIN_FREE_BYTES / 1e6:.0f} MB.",
            hint="Free some space, or choose another place with --data-dir.",
        )


@seam
def _make_database(uri: str) -> None:
    """Build a new SQLite database under a temporary name and link it into place.

    MLflow builds its tables in many steps; killed between two of them, it could never open the file again.
    """
    import mlflow

    path = sqlite_file(uri)
    if not uri.startswith(SQLITE) or path.exists():
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-database-") as folder:
        part = Path(folder) / path.name
        mlflow.MlflowClient(f"{SQLITE}{part}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster; its database is as good
            os.link(part, path)


@seam
def _open_experiment(uri: str, config: E2EConfig, direct: bool, writes: bool = True) -> tuple[_Place, str]:
    """The experiment of this name, made where it is missing; with another name where that one, without a server, keeps
    its artifacts below another root. Then the other place is what is returned beside it."""
    import mlflow

    _point_mlflow_at(uri)
    asked, elsewhere = config.experiment_name, _elsewhere(config) if direct else ""
    if elsewhere:
        config = replace(config, experiment_name=name_in(absolute(config.data_dir), asked))
    experiment = mlflow.get_experiment_by_name(config.experiment_name)
    if not writes and (experiment is None or experiment.lifecycle_stage == "deleted"):
        return _Place("", config.experiment_name, experiment_location(config) if direct else ""), elsewhere
    if experiment is None:
        experiment = _make_experiment(uri, config, direct, {EXPERIMENT_TAG: asked} if elsewhere else {})
    elif direct and not _is_below(experiment.artifact_location, config.data_dir):
        _refuse_other_root(experiment.artifact_location, config)
    elif experiment.lifecycle_stage == "deleted":
        mlflow.MlflowClient().restore_experiment(experiment.experiment_id)
        log.info("The experiment %s was in MLflow's trash; it was restored.", config.experiment_name)
    mlflow.set_experiment(experiment_id=experiment.experiment_id)
    return _Place(experiment.experiment_id, experiment.name, experiment.artifact_location), elsewhere


def _point_mlflow_at(uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)


@dataclass(frozen=True)
class _Place:
    """An experiment and where its artifacts are."""

    experiment_id: str  # empty where there is no such experiment, and the run only reads
    name: str
    artifact_location: str


def _elsewhere(config: E2EConfig) -> str:
    """Where the experiment of this name keeps its artifacts, if that is not below the artifact root.

    MLflow cannot move it. One whose artifacts a server keeps is refused: without that server they are out of reach.
    """
    import mlflow

    experiment = mlflow.get_experiment_by_name(config.experiment_name)
    if experiment is None or _is_below(experiment.artifact_location, config.data_dir):
        return ""
    if experiment.artifact_location.startswith("mlflow-artifacts:"):
        raise ConfigError(
            f"The experiment {config.experiment_name!r} was made through an MLflow server, which keeps its artifacts.",
            hint="Start that server and name it with --tracking-uri, or choose another --experiment-name.",
        )
    return experiment.artifact_location


def _make_experiment(uri: str, config: E2EConfig, direct: bool, tags: Mapping[str, str]) -> Experiment:
    import mlflow

    location = experiment_location(config) if direct else None
    if location and postgresql.is_postgresql(uri):
        postgresql.require_short_enough(location)
    mlflow.create_experiment(config.experiment_name, artifact_location=location, tags=dict(tags))
    return mlflow.get_experiment_by_name(config.experiment_name)


def absolute(data_dir: str) -> str:
    """The artifact root as MLflow keeps it: an address in S3 as it is, a folder without links and dots."""
    return data_dir if is_s3(data_dir) else str(Path(data_dir).resolve())


def experiment_location(config: E2EConfig) -> str:
    """Where a new experiment's artifacts go when no server decides it."""
    return f"{absolute(config.data_dir)}/{config.experiment_name}"


def _is_below(location: str, folder: str) -> bool:
    """Whether an experiment's artifact location is a folder inside the artifact root."""
    if is_s3(location) or is_s3(folder):
        return f"{location}/".startswith(f"{folder}/")
    return Path(location.removeprefix("file://")).is_relative_to(Path(folder).resolve())


def _refuse_other_root(location: str, config: E2EConfig) -> None:
    raise ConfigError(
        f"The experiment {config.experiment_name!r} keeps its artifacts in {location}, not in {config.data_dir}.",
        hint="Choose another --experiment-name, or give the former --data-dir. MLflow cannot move an experiment.",
    )


def short(uri: str) -> str:
    """A database address as a person reads it: paths below the data root are relative, passwords are stars."""
    return without_password(uri).replace(f"{DATA_ROOT}/", "")
