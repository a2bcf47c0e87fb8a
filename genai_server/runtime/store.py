"""Which MLflow the model is looked up in and traces go to: the one that was named, else that of this checkout.

Where none is named, the order is the orchestrator's: an MLflow server that answers on port 5050, else its database. A
model in a folder, as in a bundle, needs no MLflow: then nothing is looked for.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from genai_server.errors import NoStore

SQLITE = "sqlite:///"
CODE = Path(__file__).resolve().parents[2]
DATA_ROOT = CODE if (CODE / "pyproject.toml").is_file() else Path.cwd()  # an installed copy keeps nothing beside itself
DATABASE = f"{SQLITE}{DATA_ROOT / 'local_mlflow_backend' / 'mlflow.db'}"
LOCAL_SERVER = "http://127.0.0.1:5050"
PATIENCE_S = 3.0  # with what listens on that port


@dataclass(frozen=True)
class Store:
    """An MLflow server or database."""

    uri: str | None  # for MLflow's client; None = there is none
    description: str = ""  # for people
    login: Mapping[str, str] = field(default_factory=dict, repr=False)  # variables by which MLflow's client logs in


def find_store(model_uri: str, tracking_uri: str | None, env: Mapping[str, str] = os.environ) -> Store:
    """The store for a model at `model_uri`. Makes none.

    Args:
        tracking_uri: as named, or None.

    Raises:
        NoStore: the model is to be looked up in a database that is not there.
    """
    is_registered = model_uri.startswith("models:/")
    uri_named = tracking_uri or (env.get("MLFLOW_REGISTRY_URI") if is_registered else None)
    if uri_named or not is_registered:
        store = _named_store(uri_named) if uri_named else Store(None)
    elif _is_mlflow(LOCAL_SERVER):
        store = Store(LOCAL_SERVER, f"{LOCAL_SERVER} (an MLflow server answers there)")
    else:
        uri = absolute_address(env.get("MLFLOW_BACKEND_STORE_URI") or DATABASE)
        store = Store(uri, f"{_shown(uri)} (directly: no MLflow server on port {urlsplit(LOCAL_SERVER).port})")
    if is_registered:
        _require_database(store.uri)
    return store


def absolute_address(uri: str) -> str:
    """A SQLite address for every process, wherever it was started; any other as it is."""
    file, mark, query = uri.removeprefix(SQLITE).partition("?")
    is_file = uri.startswith(SQLITE) and file and not file.startswith((":memory:", "file:"))
    return f"{SQLITE}{os.path.abspath(file)}{mark}{query}" if is_file else uri


def _named_store(uri: str) -> Store:
    """User and password are for MLflow's client alone: what is not in the address is in no error and no log."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a bracket without its other half
        raise NoStore("MLFLOW_TRACKING_URI is no address.", "Use http://HOST:PORT, or sqlite:///FILE.") from None
    if not (uri.startswith("http") and parts.username and parts.password):
        return Store(uri, f"{_shown(uri)} (as named)")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    login = {"MLFLOW_TRACKING_USERNAME": unquote(parts.username), "MLFLOW_TRACKING_PASSWORD": unquote(parts.password)}
    return Store(address, f"{address} (as named)", login)


def _shown(uri: str) -> str:
    """Of a database's address what stands before its user and behind its password; below the data root relative."""
    scheme, separator, rest = uri.partition("://")
    place = f"***@{rest.rpartition('@')[2]}" if "@" in rest and not uri.startswith(SQLITE) else rest
    return f"{scheme}{separator}{place.partition('?')[0]}".replace(f"{DATA_ROOT}/", "")


def _is_mlflow(url: str) -> bool:
    """Whether an MLflow server answers, in time."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_answers_as_mlflow(url)), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)  # what listens may answer a byte a second
    return answers == [True]


def _answers_as_mlflow(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback address
    try:
        with opener.open(f"{url}/version", timeout=PATIENCE_S) as answer:
            version = answer.read(64).decode("ascii", "replace").strip()
        with opener.open(f"{url}/health", timeout=PATIENCE_S) as answer:
            return version[:1].isdigit() and bool(answer.read(64).strip() == b"OK")
    except (OSError, HTTPException):  # refused, silent, an error's status, or no HTTP at all
        return False


def _require_database(uri: str | None) -> None:
    """MLflow would make an empty one."""
    file = Path((uri or "").removeprefix(SQLITE).partition("?")[0])
    if uri and uri.startswith(f"{SQLITE}/") and not file.is_file():
        raise NoStore(
            f"There is no MLflow database {file}.",
            "Run make all (--mode all) first, or name the store that has the model in MLFLOW_TRACKING_URI.",
        )
