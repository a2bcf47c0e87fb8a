"""Which MLflow store a run uses, and opening it. Runs, traces and versions are in the files beside this one.

A named server or store is a promise; where none is named, an MLflow server that answers on port 5050 is
used, and where none answers, the backend store (SQLite) directly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.config import CHECKOUT, LOCAL_SERVER_PORT, E2EConfig
from genai_lifecycle.errors import ConfigError, StorageFailed, TrackingUnavailable
from genai_lifecycle.tracking.seam import seam, storage_failed

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 3.0
MIN_FREE_BYTES = 200_000_000  # a run needs room for the weights' copy, traces and plots


@dataclass(frozen=True)
class Store:
    """An opened tracking store with the experiment that runs go to."""

    uri: str
    kind: str  # named | server | direct
    description: str  # one line for the first lines of output
    experiment_id: str
    artifact_root: str

    @property
    def direct(self) -> bool:
        """True when the database is used without a server, by this process alone."""
        return not self.uri.startswith("http")


def choose(config: E2EConfig) -> tuple[str, str, str]:
    """(uri, kind, description) of the store that `config` asks for. Raises TrackingUnavailable."""
    if config.tracking_uri:
        if config.tracking_uri.startswith("http"):
            _require_mlflow(config.tracking_uri)
        return config.tracking_uri, "named", f"{without_password(config.tracking_uri)} (as named)"
    local = f"http://127.0.0.1:{LOCAL_SERVER_PORT}"
    answer = probe(local)
    if answer == "mlflow":
        return local, "server", f"{local} (an MLflow server answers on port {LOCAL_SERVER_PORT})"
    why = f"no server on port {LOCAL_SERVER_PORT}"
    if answer == "other":
        why = f"what answers on port {LOCAL_SERVER_PORT} is not MLflow"
    return config.backend_store_uri, "direct", f"{short(config.backend_store_uri)} (directly: {why})"


def probe(url: str) -> str:
    """What answers at `url`: "mlflow", "other" (something else) or "nothing"."""
    import requests

    try:
        health = requests.get(f"{url.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
        version = requests.get(f"{url.rstrip('/')}/version", timeout=PROBE_TIMEOUT_S)
    except requests.ConnectionError as exc:
        return "other" if "RemoteDisconnected" in str(exc) or "BadStatusLine" in str(exc) else "nothing"
    except requests.RequestException:
        return "other"
    looks_right = health.text.strip() == "OK" and version.ok and version.text.strip()[:1].isdigit()
    return "mlflow" if looks_right else "other"


def _require_mlflow(uri: str) -> None:
    hint = "Start the server, correct --tracking-uri (or MLFLOW_TRACKING_URI), or leave it out to use SQLite directly."
    answer = probe(uri)
    if answer == "nothing":
        raise TrackingUnavailable(f"No MLflow server answers at {without_password(uri)}.", hint=hint)
    if answer == "other":
        raise TrackingUnavailable(f"What answers at {without_password(uri)} is not an MLflow server.", hint=hint)


def open_store(config: E2EConfig) -> Store:
    """Choose the store, check that it can be written, point MLflow at it and find or make the experiment.

    Raises:
        TrackingUnavailable: the named server or database does not answer.
        StorageFailed: the database's folder or the artifact root is full or read-only.
        ConfigError: the experiment keeps its artifacts elsewhere than `config.data_dir`.
    """
    uri, kind, description = choose(config)
    direct = not uri.startswith("http")
    if direct:
        _prepare_folders(uri, config.data_dir)
        _make_database(uri)
    experiment_id, artifact_root = _open_experiment(uri, config, direct)
    return Store(uri, kind, description, experiment_id, artifact_root)


def _prepare_folders(uri: str, data_dir: str) -> None:
    if uri.startswith("sqlite:///"):
        check_writable(Path(uri.removeprefix("sqlite:///")).parent)
    check_writable(Path(data_dir))


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
    free = shutil.disk_usage(folder).free
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

    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-database-") as folder:
        part = Path(folder) / path.name
        mlflow.MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster; its database is as good
            os.link(part, path)


@seam
def _open_experiment(uri: str, config: E2EConfig, direct: bool) -> tuple[str, str]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    experiment = mlflow.get_experiment_by_name(config.experiment_name)
    wanted = str(Path(config.data_dir).resolve() / config.experiment_name) if direct else None
    if experiment is None:
        mlflow.create_experiment(config.experiment_name, artifact_location=wanted)
        experiment = mlflow.get_experiment_by_name(config.experiment_name)
    elif experiment.lifecycle_stage == "deleted":
        mlflow.MlflowClient().restore_experiment(experiment.experiment_id)
        log.info("The experiment %s was in MLflow's trash; it was restored.", config.experiment_name)
    elif direct and not _is_below(experiment.artifact_location, config.data_dir):
        _refuse_other_root(experiment.artifact_location, config)
    mlflow.set_experiment(experiment_id=experiment.experiment_id)
    return experiment.experiment_id, experiment.artifact_location


def _is_below(location: str, folder: str) -> bool:
    """Whether an experiment's artifact location is a folder inside the artifact root."""
    return Path(location.removeprefix("file://")).is_relative_to(Path(folder).resolve())


def _refuse_other_root(location: str, config: E2EConfig) -> None:
    if location.startswith("mlflow-artifacts:"):
        raise ConfigError(
            f"The experiment {config.experiment_name!r} was made through an MLflow server, which keeps its artifacts.",
            hint="Start that server and name it with --tracking-uri, or choose another --experiment-name.",
        )
    raise ConfigError(
        f"The experiment {config.experiment_name!r} keeps its artifacts in {location}, not in {config.data_dir}.",
        hint="Choose another --experiment-name, or give the former --data-dir. MLflow cannot move an experiment.",
    )


def short(uri: str) -> str:
    """A database address as a person reads it: paths below the checkout are relative, passwords are stars."""
    return without_password(uri).replace(f"{CHECKOUT}/", "")


def without_password(uri: str) -> str:
    """`uri` with the password of its user part, if any, as stars."""
    head, separator, rest = uri.partition("://")
    if "@" not in rest:
        return uri
    user, _, host = rest.rpartition("@")
    return f"{head}{separator}{user.split(':')[0]}:***@{host}"
