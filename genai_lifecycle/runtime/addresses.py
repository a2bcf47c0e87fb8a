"""Addresses of databases and servers: made absolute, taken apart, and shown without the password in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"
_SECRET_IN_QUERY = re.compile(r"([?&]\w*password=)[^&#]*", re.IGNORECASE)


def without_password(uri: str) -> str:
    """`uri` with the password of its user part and of its query, if any, as stars."""
    uri = _SECRET_IN_QUERY.sub(r"\1***", uri)
    head, separator, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    user, at, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{head}{separator}{name}:***{at}{host}" if colon else uri


def without_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """(the address of a server without its user part, what MLflow's client reads in its place from the environment).

    What MLflow does not know, it puts into no error and no log.
    """
    parts = urlsplit(uri)
    if not (uri.startswith("http") and parts.username and parts.password):
        return uri, {}
    user = {"MLFLOW_TRACKING_USERNAME": unquote(parts.username), "MLFLOW_TRACKING_PASSWORD": unquote(parts.password)}
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), user


# --- SQLite ---------------------------------------------------------------------------------------


def sqlite_file(uri: str) -> Path:
    """The file of a SQLite address."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def absolute_address(uri: str) -> str:
    """A SQLite address as every process understands it, wherever it was started; any other as it is.

    Raises:
        ValueError: it names no file.
    """
    if not uri.startswith("sqlite:"):
        return uri
    file, mark, query = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or not file or file == ":memory:" or file.startswith("file:"):
        raise ValueError("it names no file")
    return f"{SQLITE}{os.path.abspath(file)}{mark}{query}"
