"""The command of an MLflow server over the storage of a configuration."""

from __future__ import annotations

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.store.tracking_store import absolute


def server_command(config: E2EConfig, port: int, host: str = "127.0.0.1") -> list[str]:
    """The `mlflow server` command for the backend store and artifact root of `config`.

    Artifacts go through the server, so their addresses stay valid when the folder moves.
    """
    return [*base_command(config, host, port), "--artifacts-destination", absolute(config.data_dir)]


def base_command(config: E2EConfig, host: str, port: int) -> list[str]:
    """The part that says where to listen and which database to use."""
    return [
        "mlflow", "server",
        "--host", host,
        "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", config.backend_store_uri,
    ]  # fmt: skip
