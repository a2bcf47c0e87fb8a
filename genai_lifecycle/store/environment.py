"""Environment variables and log levels that MLflow, transformers and matplotlib read when they are imported.

Call `prepare` before the first heavy import. A variable that the user has set stays as it is.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

_DEFAULTS = {
    # Nothing is sent to anyone.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A server that stops answering ends the run in seconds; MLflow's own defaults are minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ASYNC_TRACE_LOGGING_RETRY_TIMEOUT": "5",
    # One writer: several get into each other's way on SQLite, and wait for its lock instead of writing.
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS": "1",
    # Spans of many traces share one database transaction: about a third faster on SQLite.
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "200",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "500",
    # Quiet.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bar for every loaded checkpoint follows this one
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MPLBACKEND": "Agg",
}
_LOOPBACK = "127.0.0.1,localhost,::1"
_NOISY = ("mlflow", "alembic", "transformers", "huggingface_hub", "httpx", "urllib3", "matplotlib", "git")


def prepare(staging_dir: Path, verbose: bool = False) -> None:
    """Set what is not set yet, keep caches inside the checkout, and quieten the libraries unless `verbose`."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MPLCONFIGDIR", str(staging_dir / "matplotlib"))
    _go_straight_to_this_machine()
    if verbose:
        return
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for module in ("mlflow", "transformers", "torch", "pydantic", "langchain_core"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")


def _go_straight_to_this_machine() -> None:
    """A proxy does not know our loopback address; requests, MLflow and boto3 read who is to be asked without it."""
    named = [os.environ[name] for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)]
    hosts = dict.fromkeys(host for value in [*named, _LOOPBACK] for host in value.split(","))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)
