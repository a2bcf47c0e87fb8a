"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genai_server.errors import SettingsError
from genai_server.logs import FORMATS, LEVELS
from genai_server.store import absolute_address

_HOST = re.compile(r"\*|(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN = re.compile(r"\*|https?://[^*/\s]+")
_ALIASED = re.compile(r"models:/([^/@]+)@([^/@]+)")
PROMPT_REFRESH_S = 30.0
DATA_FOLDER = "local_mlflow_backend"  # what a person would miss; `make clean` leaves it alone
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = "models:/langchain-e2e-model@champion"  # a models:/ address or a folder
    tracking_uri: str | None = field(default=None, repr=False)  # None = looked for, see store.py; may have a password
    host: str = "127.0.0.1"
    port: int = 5001
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # empty = no key is asked for
    allowed_hosts: tuple[str, ...] = ("*",)  # names in the Host header, without port; *.example.com for all below it
    cors_origins: tuple[str, ...] = ()  # web pages of other origins that may ask
    max_body_bytes: int = 1_000_000
    queue_limit: int = 512  # questions under way or waiting; the next one gets 429
    request_timeout_s: float = 60.0  # then the answer so far is returned
    grace_s: float = 30.0  # after SIGTERM, for what was accepted
    trace_sampling_ratio: float = 0.0  # share of requests that are traced to MLflow
    trace_experiment: str = "serving"  # MLflow experiment of the traces
    trace_texts: bool = False  # whether questions and answers stand in the traces
    model_identity: Mapping[str, Any] = field(default_factory=dict, repr=False)  # who the model in a folder is
    webhook_secret: str = field(default="", repr=False)  # of MLflow's webhook; empty = no such route
    feedback_file: str = f"{DATA_FOLDER}/feedback.jsonl"  # ledger of all feedback; the traces wait beside it
    prompt_refresh_s: float | None = None  # how often the prompt in production is looked up; None = see `refresh_s`
    prompt_file: str = f"{DATA_FOLDER}/prompt.json"  # its last good copy
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        _require(1 <= self.port <= 65535, "PORT", self.port, "from 1 to 65535")
        plain = all(len(key) >= 8 and key.isascii() for key in self.api_keys)  # headers carry nothing else unharmed
        _require(plain, "A key of API_KEYS or API_KEYS_FILE", "too short or not plain", "of 8 ASCII characters or more")
        hosts = all(_HOST.fullmatch(host) for host in self.allowed_hosts)
        _require(hosts, "ALLOWED_HOSTS", list(self.allowed_hosts), "like example.com,*.example.org, without port")
        origins = all(_ORIGIN.fullmatch(origin) for origin in self.cors_origins)
        _require(origins, "CORS_ORIGINS", list(self.cors_origins), "like https://example.com, without path")
        _require(self.max_body_bytes >= 1000, "MAX_BODY_BYTES", self.max_body_bytes, "1000 or more")
        _require(self.queue_limit >= 1, "QUEUE_LIMIT", self.queue_limit, "1 or more")
        _require(0 < self.request_timeout_s <= 3600, "REQUEST_TIMEOUT_S", self.request_timeout_s, "above 0, up to 3600")
        _require(0 < self.grace_s <= 600, "GRACE_S", self.grace_s, "above 0, up to 600")
        ratio = self.trace_sampling_ratio
        _require(0 <= ratio <= 1, "MLFLOW_TRACE_SAMPLING_RATIO", ratio, "from 0 to 1")
        refresh = self.prompt_refresh_s
        _require(refresh is None or 0 <= refresh <= 86400, "PROMPT_REFRESH_S", refresh, "from 0 (never) to 86400")
        if self.webhook_secret:
            is_long = len(self.webhook_secret) >= 8
            _require(is_long, "WEBHOOK_SECRET or WEBHOOK_SECRET_FILE", "too short", "of 8 characters or more")
            allowed = "like models:/NAME@ALIAS, or leave WEBHOOK_SECRET out"
            _require(self.followed is not None, "MLFLOW_MODEL_URI", self.model_uri, allowed)
        _require(self.log_format in FORMATS, "LOG_FORMAT", self.log_format, f"of {', '.join(FORMATS)}")
        _require(self.log_level in LEVELS, "LOG_LEVEL", self.log_level, f"of {', '.join(LEVELS)}")

    @property
    def followed(self) -> tuple[str, str] | None:
        """Name and alias of the model, where its address has an alias that may move."""
        found = _ALIASED.fullmatch(self.model_uri)
        return (found[1], found[2]) if found else None

    @property
    def has_registry(self) -> bool:
        """Whether there is an MLflow to look prompts up in: it was named, or the model comes from one."""
        return bool(self.tracking_uri) or self.model_uri.startswith("models:/")

    @property
    def refresh_s(self) -> float:
        """How often the prompt in production is looked up; 0 = never. A model in a folder, as in a bundle, keeps
        the prompt it was exported with, unless PROMPT_REFRESH_S is set."""
        if self.prompt_refresh_s is not None:
            return self.prompt_refresh_s
        return PROMPT_REFRESH_S if self.model_uri.startswith("models:/") else 0.0

    @property
    def spool_file(self) -> Path:
        """Where traces wait for their MLflow: beside the ledger of feedback, and for each experiment its own."""
        where = f"{self.tracking_uri} {self.trace_experiment}".encode()  # may have a password
        return Path(self.feedback_file).with_name(f"traces-{hashlib.sha256(where).hexdigest()[:12]}.db")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ServerSettings:
        """Settings from the environment; an empty variable counts as not set."""
        return cls(
            model_uri=env.get("MLFLOW_MODEL_URI") or cls.model_uri,
            tracking_uri=absolute_address(env.get("MLFLOW_TRACKING_URI") or "") or None,
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
            trace_experiment=env.get("TRACE_EXPERIMENT") or cls.trace_experiment,
            trace_texts=_flag(env, "TRACE_TEXTS"),
            model_identity=model_identity(env),
            webhook_secret=_webhook_secret(env),
            feedback_file=env.get("FEEDBACK_FILE") or cls.feedback_file,
            prompt_refresh_s=_number(env, "PROMPT_REFRESH_S", None, float),
            prompt_file=env.get("PROMPT_FILE") or cls.prompt_file,
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


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = (env.get(name) or "false").lower()
    _require(text in (*_YES, *_NO), name, repr(text), "of true or false")
    return text in _YES


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (env.get(name) or "").split(",") if part.strip())


def _keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """From API_KEYS (separated by commas) and API_KEYS_FILE (one a line). A file that is named must be there."""
    given = _list(env, "API_KEYS")
    # who wrote something there wants a closed server
    _require(bool(given) or not env.get("API_KEYS"), "API_KEYS", "without a key", "with one, or leave it out")
    path = env.get("API_KEYS_FILE")
    if not path:
        return given
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"API_KEYS_FILE cannot be read ({type(exc).__name__}); name a text file.") from exc
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise SettingsError("API_KEYS_FILE holds no key; write one a line, or leave the variable out.")
    return (*given, *keys)


def _webhook_secret(env: Mapping[str, str]) -> str:
    """From WEBHOOK_SECRET or the file WEBHOOK_SECRET_FILE. A file that is named must be there and hold one."""
    path = env.get("WEBHOOK_SECRET_FILE")
    if not path:
        return env.get("WEBHOOK_SECRET") or ""
    try:
        secret = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"WEBHOOK_SECRET_FILE cannot be read ({type(exc).__name__}); name a text file.") from exc
    _require(bool(secret), "WEBHOOK_SECRET_FILE", "empty", "with the secret in it")
    return secret


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
