"""How to run an MLflow server over the storage of a configuration: commands as text, secrets left out."""

from __future__ import annotations

import shlex
from pathlib import Path

from genai_lifecycle.config import LOCAL_SERVER_PORT, E2EConfig
from genai_lifecycle.tracking.store import without_password


def server_command(config: E2EConfig, host: str = "127.0.0.1") -> list[str]:
    """The `mlflow server` command for the backend store and artifact root of `config`.

    Artifacts go through the server, so their addresses stay valid when the folder moves.
    """
    return [*base_command(config, host), "--artifacts-destination", str(Path(config.data_dir).resolve())]


def base_command(config: E2EConfig, host: str) -> list[str]:
    """The part that says where to listen and which database to use."""
    return [
        "mlflow", "server",
        "--host", host,
        "--port", str(config.port or LOCAL_SERVER_PORT),
        "--workers", "1",
        "--backend-store-uri", config.backend_store_uri,
    ]  # fmt: skip


def describe(config: E2EConfig) -> str:
    """What `--mode server-config` prints."""
    command = " ".join(shlex.quote(without_password(word)) for word in server_command(config))
    port = config.port or LOCAL_SERVER_PORT
    return "\n".join(
        [
            "An MLflow server over this storage:",
            f"  {command}",
            "",
            "Every mode uses it by itself when it listens on port 5050; on another port or host:",
            f"  python e2e_mlflow.py --mode all --tracking-uri http://127.0.0.1:{port}",
            "",
            "It is not needed: without a server the same database is used directly. `--mode ui` runs one for looking",
            "around. For access from other machines add --host 0.0.0.0 and --allowed-hosts NAME,NAME:* in front of a",
            "proxy that asks for a password.",
        ]
    )
