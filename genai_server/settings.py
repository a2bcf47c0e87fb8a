"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genai_server.errors import SettingsError
from genai_server.logs import FORMATS, LEVELS


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = "models:/langchain-e2e-model@champion"  # a models:/ address or a folder
    tracking_uri: str | None = None  # None = MLflow's own default
    host: str = "127.0.0.1"
    port: int = 5001
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # empty = no key is asked for
    allowed_hosts: tuple[str, ...] = ("*",)  # names in the Host header, without port; *.example.com for all below it
    cors_origins: tuple[str, ...] = ()  # web pages of other origins that may ask
    max_body_bytes: int = 1_000_000
    queue_limit: int = 256  # requests under way or waiting; the next one gets 429
    request_timeout_s: float = 60.0  # then the answer so far is returned
    grace_s: float = 30.0  # after SIGTERM, for what was accepted
    trace_sampling_ratio: float = 0.0  # share of requests that are traced to MLflow
    trace_experiment: str = "serving"  # MLflow experiment of the traces
    trace_texts: bool = False  # whether questions and answers stand in the traces
    feedback_file: str = "local_staging/feedback.jsonl"  # ledger of the feedback that reached no MLflow
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        _require(1 <= self.port <= 65535, "PORT", self.port, "from 1 to 65535")
        _require(all(len(key) >= 8 for key in self.api_keys), "API_KEYS", "too short", "of 8 characters or more each")
        _require(self.max_body_bytes >= 1000, "MAX_BODY_BYTES", self.max_body_bytes, "1000 or more")
        _require(self.queue_limit >= 1, "QUEUE_LIMIT", self.queue_limit, "1 or more")
        _require(0 < self.request_timeout_s <= 3600, "REQUEST_TIMEOUT_S", self.request_timeout_s, "above 0, up to 3600")
        _require(0 < self.grace_s <= 600, "GRACE_S", self.grace_s, "above 0, up to 600")
        ratio = self.trace_sampling_ratio
        _require(0 <= ratio <= 1, "MLFLOW_TRACE_SAMPLING_RATIO", ratio, "from 0 to 1")
        _require(self.log_format in FORMATS, "LOG_FORMAT", self.log_format, f"of {', '.join(FORMATS)}")
        _require(self.log_level in LEVELS, "LOG_LEVEL", self.log_level, f"of {', '.join(LEVELS)}")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ServerSettings:
        """Settings from the environment; an empty variable counts as not set."""
        return cls(
            model_uri=env.get("MLFLOW_MODEL_URI") or cls.model_uri,
            tracking_uri=env.get("MLFLOW_TRACKING_URI") or None,
            host=env.get("HOST") or cls.host,
            port=_number(env, "PORT", cls.port, int),
            api_keys=_keys(env),
            allowed_hosts=_list(env, "ALLOWED_HOSTS") or cls.allowed_hosts,
            cors_origins=_list(env, "CORS_ORIGINS"),
            max_body_bytes=_number(env, "MAX_BODY_BYTES", cls.max_body_bytes, int),
            queue_limit=_number(env, "QUEUE_LIMIT", cls.queue_limit, int),
            request_timeout_s=_number(env, "REQUEST_TIMEOUT_S", cls.request_timeout_s, float),
            grace_s=_number(env, "GRACE_S", cls.grace_s, float),
            trace_sampling_ratio=_number(env, "MLFLOW_TRACE_SAMPLING_RATIO", cls.trace_sampling_ratio, float),
            trace_experiment=env.get("MLFLOW_EXPERIMENT_NAME") or cls.trace_experiment,
            trace_texts=(env.get("TRACE_TEXTS") or "false").lower() in ("1", "true", "yes"),
            feedback_file=env.get("FEEDBACK_FILE") or cls.feedback_file,
            log_format=(env.get("LOG_FORMAT") or cls.log_format).lower(),
            log_level=(env.get("LOG_LEVEL") or cls.log_level).lower(),
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


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (env.get(name) or "").split(",") if part.strip())


def _keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """From API_KEYS (separated by commas) and API_KEYS_FILE (one a line). A file that is named must be there."""
    path = env.get("API_KEYS_FILE")
    if not path:
        return _list(env, "API_KEYS")
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"API_KEYS_FILE cannot be read ({type(exc).__name__}); name a text file.") from exc
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise SettingsError("API_KEYS_FILE holds no key; write one a line, or leave the variable out.")
    return (*_list(env, "API_KEYS"), *keys)


def model_identity(env: Mapping[str, str] = os.environ) -> Mapping[str, Any]:
    """The identity of a model that is served from a folder, as the file MODEL_INFO_FILE tells it (a bundle's
    manifest.json); empty where none is named. A file that is named must be there."""
    path = env.get("MODEL_INFO_FILE")
    if not path:
        return {}
    try:
        told = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"MODEL_INFO_FILE cannot be read ({type(exc).__name__}); name a manifest.json.") from exc
    model = told.get("model") if isinstance(told, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise SettingsError('MODEL_INFO_FILE names no model ({"model": {"name": ...}}); name a manifest.json.')
    return told
