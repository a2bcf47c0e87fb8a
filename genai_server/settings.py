"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genai_server.errors import SettingsError
from genai_server.runtime.logs import FORMATS, LEVELS
from genai_server.runtime.store import absolute_address

_HOST = re.compile(r"\*|(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN = re.compile(r"\*|https?://[^*/\s]+")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(/[^/@]+|@(?P<alias>[^/@]+))")
PROMPT_REFRESH_S = 30.0
DATA_FOLDER = "local_mlflow_backend"  # what a person would miss; `make clean` leaves it alone
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = "models:/langchain-e2e-model@champion"  # a models:/ address or a folder
    tracking_uri: str | None = field(default=None, repr=False)  # None = looked for, see store.py; may have a password
    host: str = "127.0.0.1"
    published_host: str = ""  # where callers reach it, when that is not `host`: a container's port is published
    port: int = 5001
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # of callers; without any key none is asked for
    admin_keys: tuple[str, ...] = field(default=(), repr=False)  # for what changes the server; empty = that is closed
    allow_open: bool = False  # whether other machines may ask without a key
    allowed_hosts: tuple[str, ...] = ()  # names in the Host header, without port; *.example.com for all below it
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
        for name, keys in (("API_KEYS", self.api_keys), ("ADMIN_KEYS", self.admin_keys)):
            plain = all(len(key) >= 8 and key.isascii() for key in keys)  # headers carry nothing else unharmed
            _require(
                plain, f"A key of {name} or {name}_FILE", "too short or not plain", "of 8 ASCII characters or more"
            )
        if set(self.api_keys) & set(self.admin_keys):
            raise SettingsError("The same key is in API_KEYS and in ADMIN_KEYS; take it out of one of them.")
        if not (self.has_keys or self.allow_open or self.is_local):
            host, remedy = f"HOST is {self.host}", "HOST=127.0.0.1"
            if self.published_host:
                host, remedy = f"PUBLISHED_HOST is {self.published_host}", "publish it on 127.0.0.1"
            raise SettingsError(
                f"{host}, which other machines can reach, and there is no key; "
                f"set API_KEYS or API_KEYS_FILE, or {remedy}, or set ALLOW_OPEN=true to let everybody ask."
            )
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
        found = _REGISTERED.fullmatch(self.model_uri)
        return (found["name"], found["alias"]) if found and found["alias"] else None

    @property
    def registered_name(self) -> str | None:
        """Name of the model in the registry; None for a folder, which has no versions."""
        found = _REGISTERED.fullmatch(self.model_uri)
        return found["name"] if found else None

    @property
    def has_keys(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.api_keys or self.admin_keys)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return _is_loopback(self.published_host or self.host)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names that callers may use for it beside localhost's; by default any, but none where only this machine
        reaches it, since a name in a Host header there is a web page's that wants to ask in our place."""
        if self.allowed_hosts or not self.is_local:
            return self.allowed_hosts or ("*",)
        return (in_address(self.published_host or self.host),)  # 127.0.0.2, say

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
            host=_host(env, "HOST") or cls.host,
            published_host=_host(env, "PUBLISHED_HOST"),
            port=_number(env, "PORT", cls.port, int),
            api_keys=_keys(env, "API_KEYS"),
            admin_keys=_keys(env, "ADMIN_KEYS"),
            allow_open=_flag(env, "ALLOW_OPEN"),
            allowed_hosts=_list(env, "ALLOWED_HOSTS"),
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


def _host(env: Mapping[str, str], name: str) -> str:
    """An IPv6 address may come as it stands in an address, in brackets."""
    return (env.get(name) or "").strip("[]")


def in_address(host: str) -> str:
    """The host as it stands in http://HOST:PORT."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, which may be anywhere
        return False


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (env.get(name) or "").split(",") if part.strip())


def _keys(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """From the variable (separated by commas) and its file (one a line), which must be there when it is named."""
    given = _list(env, name)
    # who wrote something there wants a closed server
    _require(bool(given) or not env.get(name), name, "without a key", "with one, or leave it out")
    text = _secret_file(env, f"{name}_FILE")
    if text is None:
        return given
    keys = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not keys:
        raise SettingsError(f"{name}_FILE holds no key; write one a line, or leave the variable out.")
    return (*given, *keys)


def _webhook_secret(env: Mapping[str, str]) -> str:
    """From WEBHOOK_SECRET or the file WEBHOOK_SECRET_FILE. A file that is named must be there and hold one."""
    secret = _secret_file(env, "WEBHOOK_SECRET_FILE")
    if secret is None:
        return env.get("WEBHOOK_SECRET") or ""
    _require(bool(secret.strip()), "WEBHOOK_SECRET_FILE", "empty", "with the secret in it")
    return secret.strip()


def _secret_file(env: Mapping[str, str], name: str) -> str | None:
    """The text of the file that the variable names; None where it names none.

    A device names none either: a container that is given no secret has /dev/null in its place.
    """
    path = env.get(name)
    if not path or Path(path).is_char_device():
        return None
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = f"{name} cannot be read ({type(exc).__name__})"
        raise SettingsError(f"{reason}; name a text file that the server's user may read.") from exc


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
