"""Mode `server-config`: how to run an MLflow server over this storage, as commands to type; secrets are left out."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from genai_lifecycle.config import LOCAL_SERVER_PORT, PORTS, PROGRAM, E2EConfig
from genai_lifecycle.runtime.addresses import without_password
from genai_lifecycle.runtime.s3_address import is_s3
from genai_lifecycle.serving.mlflow_server import server_command
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store.s3.session import CHECKSUMS, ENDPOINT

MINIO_IMAGE = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"  # MinIO's last community image; gone from Docker Hub


@dataclass(frozen=True)
class ServerConfigSettings(Settings):
    """Where that server is to listen."""

    port: int = setting(LOCAL_SERVER_PORT, "port of the MLflow server", limits=PORTS)


def describe(config: E2EConfig, settings: ServerConfigSettings) -> str:
    """What `--mode server-config` prints."""
    command = " ".join(shlex.quote(without_password(word)) for word in server_command(config, settings.port))
    return "\n".join(
        [
            *(_s3_environment(config) if is_s3(config.data_dir) else []),
            "An MLflow server over this storage:",
            f"  {command}",
            "",
            "Every mode uses it by itself when it listens on port 5050; on another port or host:",
            f"  {PROGRAM} --mode all --tracking-uri http://127.0.0.1:{settings.port}",
            "",
            "It is not needed: without a server the same database is used directly. `--mode ui` runs one for looking",
            "around. For access from other machines add --host 0.0.0.0 and --allowed-hosts NAME,NAME:* in front of a",
            "proxy that asks for a password.",
            *(_minio() if is_s3(config.data_dir) else []),
        ]
    )


def _s3_environment(config: E2EConfig) -> list[str]:
    """What the server's environment needs: it alone holds the keys, its clients need none."""
    settings = {ENDPOINT: config.s3_endpoint_url} | CHECKSUMS if config.s3_endpoint_url else {}
    return [
        "The server alone goes to S3. It finds its keys where every AWS program does: AWS_ACCESS_KEY_ID and",
        "AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the machine's role. In its environment:",
        *(f"  export {name}={shlex.quote(value)}" for name, value in settings.items()),
        f"  export AWS_DEFAULT_REGION={shlex.quote(_region())}",
        "",
    ]


def _region() -> str:
    return os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _minio() -> list[str]:
    """A store to try it with. Docker takes the keys from the environment, so they are in no list of processes."""
    return [
        "",
        "A store of your own, MinIO, with the same two keys (the secret has 8 characters or more):",
        '  MINIO_ROOT_USER="$AWS_ACCESS_KEY_ID" MINIO_ROOT_PASSWORD="$AWS_SECRET_ACCESS_KEY" '
        "docker run -d --name minio -p 127.0.0.1:9000:9000 -p 127.0.0.1:9001:9001 "
        '-v "$PWD/minio:/data" -e MINIO_ROOT_USER -e MINIO_ROOT_PASSWORD '
        f"{MINIO_IMAGE} server /data --console-address :9001",
        "It answers at http://127.0.0.1:9000 (its console at port 9001).",
    ]
