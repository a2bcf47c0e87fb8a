"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from genai_server.errors import SettingsError


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = "models:/langchain-e2e-model@champion"  # a models:/ address or a folder
    tracking_uri: str | None = None  # None = MLflow's own default
    host: str = "127.0.0.1"
    port: int = 5001
    queue_limit: int = 256  # questions under way or waiting; the next one gets 429
    request_timeout_s: float = 60.0  # then the answer so far is returned
    grace_s: float = 30.0  # after SIGTERM, for what was accepted

    def __post_init__(self) -> None:
        _require(1 <= self.port <= 65535, "PORT", self.port, "from 1 to 65535")
        _require(self.queue_limit >= 1, "QUEUE_LIMIT", self.queue_limit, "1 or more")
        _require(0 < self.request_timeout_s <= 3600, "REQUEST_TIMEOUT_S", self.request_timeout_s, "above 0, up to 3600")
        _require(0 < self.grace_s <= 600, "GRACE_S", self.grace_s, "above 0, up to 600")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ServerSettings:
        """Settings from the environment; an empty variable counts as not set."""
        return cls(
            model_uri=env.get("MLFLOW_MODEL_URI") or cls.model_uri,
            tracking_uri=env.get("MLFLOW_TRACKING_URI") or None,
            host=env.get("HOST") or cls.host,
            port=_number(env, "PORT", cls.port, int),
            queue_limit=_number(env, "QUEUE_LIMIT", cls.queue_limit, int),
            request_timeout_s=_number(env, "REQUEST_TIMEOUT_S", cls.request_timeout_s, float),
            grace_s=_number(env, "GRACE_S", cls.grace_s, float),
        )


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise SettingsError(f"{name} is {value}; use a value {allowed}.")


def _number(env: Mapping[str, str], name: str, default, kind: type):
    text = env.get(name)
    if not text:
        return default
    try:
        return kind(text)
    except ValueError as exc:
        raise SettingsError(f"{name}={text!r} is not a {'whole ' if kind is int else ''}number.") from exc
