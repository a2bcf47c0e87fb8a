"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from genai_server.errors import SettingsError
from genai_server.limits import MAX_TIMEOUT_S
from genai_server.model_info import ModelIdentity
from genai_server.runtime.logs import FORMATS, LEVELS
from genai_server.runtime.store import absolute_address

T = TypeVar("T")
Env = Mapping[str, str]

_HOST = re.compile(r"\*|(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN = re.compile(r"\*|https?://[^*/\s]+")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(/[^/@]+|@(?P<alias>[^/@]+))")
PROMPT_REFRESH_S = 30.0
DATA_FOLDER = "local_mlflow_backend"  # what a person would miss; `make clean` leaves it alone
MIN_KEY_CHARACTERS = 8
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


# --- reading a variable: its value, or None where it is not set (an empty one counts as that) ---


def _text(env: Env, name: str) -> str | None:
    return env.get(name) or None


def _lower(env: Env, name: str) -> str | None:
    return (env.get(name) or "").lower() or None


def _address(env: Env, name: str) -> str | None:
    return absolute_address(env.get(name) or "") or None


def _host(env: Env, name: str) -> str | None:
    """An IPv6 address may stand in brackets, as in a URL."""
    return (env.get(name) or "").strip("[]") or None


def _integer(env: Env, name: str) -> int | None:
    return _number(env, name, int, "whole number")


def _float(env: Env, name: str) -> float | None:
    return _number(env, name, float, "number")


def _number(env: Env, name: str, kind: Callable[[str], T], description: str) -> T | None:
    text = env.get(name)
    try:
        return kind(text) if text else None
    except ValueError as exc:
        raise SettingsError(f"{name}={text!r} is not a {description}.") from exc


def _flag(env: Env, name: str) -> bool | None:
    text = (env.get(name) or "").lower()
    _require(text in ("", *_YES, *_NO), name, repr(text), "of true or false")
    return text in _YES if text else None


def _list(env: Env, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (env.get(name) or "").split(",") if part.strip())


def _keys(env: Env, name: str) -> tuple[str, ...]:
    """From the variable (separated by commas) and its file (one a line), which must be there when it is named."""
    keys = _list(env, name)
    # whoever set the variable means the server to be closed
    _require(bool(keys) or not env.get(name), name, "without a key", "with one, or leave it out")
    text = _secret_file(env, f"{name}_FILE")
    if text is None:
        return keys
    in_file = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not in_file:
        raise SettingsError(f"{name}_FILE holds no key; write one a line, or leave the variable out.")
    return (*keys, *in_file)


def _secret(env: Env, name: str) -> str | None:
    """From the variable or its file. A file that is named must be there and hold a secret."""
    secret = _secret_file(env, f"{name}_FILE")
    if secret is None:
        return env.get(name) or None
    _require(bool(secret.strip()), f"{name}_FILE", "empty", "with the secret in it")
    return secret.strip()


def _secret_file(env: Env, name: str) -> str | None:
    """The text of the file that the variable names; None where it names none.

    A device counts as none: a container without a secret has /dev/null in its place.
    """
    path = env.get(name)
    if not path or Path(path).is_char_device():
        return None
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = f"{name} cannot be read ({type(exc).__name__})"
        raise SettingsError(f"{reason}; name a text file that the server's user may read.") from exc


def model_identity(env: Env = os.environ, name: str = "MODEL_INFO_FILE") -> ModelIdentity | None:
    """Who the model is that is served from a folder, as the file MODEL_INFO_FILE (a bundle's manifest.json) says; None
    where none is named. A file that is named must be there."""
    path = env.get(name)
    if not path:
        return None
    try:
        manifest = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{name} cannot be read ({type(exc).__name__}); name a manifest.json.") from exc
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise SettingsError(f'{name} names no model ({{"model": {{"name": ...}}}}); name a manifest.json.')
    more = {key: manifest.get(key) for key in ("run_id", "base_model", "weights_sha256")}
    return ModelIdentity(model["name"], model.get("version"), model.get("alias"), **more)


# --- checking a value ---


@dataclass(frozen=True)
class Check:
    """Whether a value is allowed, and how to say what is."""

    holds: Callable[[Any], bool]
    allowed: str


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise SettingsError(f"{name} is {value}; use a value {allowed}.")


def _above_0(most: int) -> Check:
    return Check(lambda value: 0 < value <= most, f"above 0, up to {most}")


def _at_least(least: int) -> Check:
    return Check(lambda value: value >= least, f"{least} or more")


def _one_of(values: tuple[str, ...]) -> Check:
    return Check(lambda value: value in values, f"of {', '.join(values)}")


def _each(pattern: re.Pattern[str], allowed: str) -> Check:
    return Check(lambda values: all(pattern.fullmatch(value) for value in values), allowed)


def _setting(
    default: T, env: str, read: Callable[[Env, str], Any] = _text, check: Check | None = None, *, secret: bool = False
) -> T:
    """A field of ServerSettings with the variable that decides it; a secret is in no repr."""
    made: T = field(default=default, repr=not secret, metadata={"env": env, "read": read, "check": check})
    return made


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = _setting("models:/langchain-e2e-model@champion", "MLFLOW_MODEL_URI")  # or a folder
    # None = looked for, see runtime/store.py; may have a password
    tracking_uri: str | None = _setting(None, "MLFLOW_TRACKING_URI", _address, secret=True)
    host: str = _setting("127.0.0.1", "HOST", _host)
    # where callers reach it, when that is not `host`: a container's port is published
    published_host: str = _setting("", "PUBLISHED_HOST", _host)
    port: int = _setting(5001, "PORT", _integer, Check(lambda port: 1 <= port <= 65535, "from 1 to 65535"))
    api_keys: tuple[str, ...] = _setting((), "API_KEYS", _keys, secret=True)  # of callers; none = open
    # for what changes the server; none = that is closed
    admin_keys: tuple[str, ...] = _setting((), "ADMIN_KEYS", _keys, secret=True)
    allow_open: bool = _setting(False, "ALLOW_OPEN", _flag)  # whether other machines may ask without a key
    # names in the Host header, without port; *.example.com for all below it
    allowed_hosts: tuple[str, ...] = _setting(
        (), "ALLOWED_HOSTS", _list, _each(_HOST, "like example.com,*.example.org, without port")
    )
    # web pages of other origins that may ask
    cors_origins: tuple[str, ...] = _setting(
        (), "CORS_ORIGINS", _list, _each(_ORIGIN, "like https://example.com, without path")
    )
    max_body_bytes: int = _setting(1_000_000, "MAX_BODY_BYTES", _integer, _at_least(1000))
    # questions under way or waiting; the next one gets 429
    queue_limit: int = _setting(512, "QUEUE_LIMIT", _integer, _at_least(1))
    # then the answer so far is returned
    request_timeout_s: float = _setting(60.0, "REQUEST_TIMEOUT_S", _float, _above_0(MAX_TIMEOUT_S))
    grace_s: float = _setting(30.0, "GRACE_S", _float, _above_0(600))  # after SIGTERM, for what was accepted
    # share of requests that are traced to MLflow
    trace_sampling_ratio: float = _setting(
        0.0, "MLFLOW_TRACE_SAMPLING_RATIO", _float, Check(lambda ratio: 0 <= ratio <= 1, "from 0 to 1")
    )
    trace_experiment: str = _setting("serving", "TRACE_EXPERIMENT")  # in MLflow
    trace_texts: bool = _setting(False, "TRACE_TEXTS", _flag)  # whether questions and answers stand in the traces
    # who the model in a folder is
    model_identity: ModelIdentity | None = _setting(None, "MODEL_INFO_FILE", model_identity, secret=True)
    webhook_secret: str = _setting("", "WEBHOOK_SECRET", _secret, secret=True)  # of MLflow's; empty = no such route
    # ledger of all feedback; the traces wait beside it
    feedback_file: str = _setting(f"{DATA_FOLDER}/feedback.jsonl", "FEEDBACK_FILE")
    # how often the prompt in production is looked up; None = see `refresh_s`
    prompt_refresh_s: float | None = _setting(
        None, "PROMPT_REFRESH_S", _float, Check(lambda s: s is None or 0 <= s <= 86400, "from 0 (never) to 86400")
    )
    prompt_file: str = _setting(f"{DATA_FOLDER}/prompt.json", "PROMPT_FILE")  # its last good copy
    log_format: str = _setting("text", "LOG_FORMAT", _lower, _one_of(FORMATS))
    log_level: str = _setting("info", "LOG_LEVEL", _lower, _one_of(LEVELS))

    @classmethod
    def from_env(cls, env: Env = os.environ) -> ServerSettings:
        """Settings from the environment; what is not set has its default."""
        values = {each.name: each.metadata["read"](env, each.metadata["env"]) for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def __post_init__(self) -> None:
        for each in fields(self):
            if check := each.metadata["check"]:
                value = getattr(self, each.name)
                shown = list(value) if isinstance(value, tuple) else value
                _require(check.holds(value), each.metadata["env"], shown, check.allowed)
        self._check_keys()
        self._check_openness()
        self._check_webhook()

    def _check_keys(self) -> None:
        for name, keys in (("API_KEYS", self.api_keys), ("ADMIN_KEYS", self.admin_keys)):
            # headers carry nothing but ASCII unharmed
            is_plain = all(len(key) >= MIN_KEY_CHARACTERS and key.isascii() for key in keys)
            allowed = f"of {MIN_KEY_CHARACTERS} ASCII characters or more"
            _require(is_plain, f"A key of {name} or {name}_FILE", "too short or not plain", allowed)
        if set(self.api_keys) & set(self.admin_keys):
            raise SettingsError("The same key is in API_KEYS and in ADMIN_KEYS; take it out of one of them.")

    def _check_openness(self) -> None:
        if self.has_keys or self.allow_open or self.is_local:
            return
        host, remedy = f"HOST is {self.host}", "HOST=127.0.0.1"
        if self.published_host:
            host, remedy = f"PUBLISHED_HOST is {self.published_host}", "publish it on 127.0.0.1"
        raise SettingsError(
            f"{host}, which other machines can reach, and there is no key; "
            f"set API_KEYS or API_KEYS_FILE, or {remedy}, or set ALLOW_OPEN=true to let everybody ask."
        )

    def _check_webhook(self) -> None:
        if self.webhook_secret:
            is_long = len(self.webhook_secret) >= MIN_KEY_CHARACTERS
            allowed = f"of {MIN_KEY_CHARACTERS} characters or more"
            _require(is_long, "WEBHOOK_SECRET or WEBHOOK_SECRET_FILE", "too short", allowed)
            allowed = "like models:/NAME@ALIAS, or leave WEBHOOK_SECRET out"
            _require(self.followed is not None, "MLFLOW_MODEL_URI", self.model_uri, allowed)

    @property
    def followed(self) -> tuple[str, str] | None:
        """Name and alias of the model, where its address has an alias that may move."""
        match = _REGISTERED.fullmatch(self.model_uri)
        return (match["name"], match["alias"]) if match and match["alias"] else None

    @property
    def registered_name(self) -> str | None:
        """Name of the model in the registry; None for a folder, which has no versions."""
        match = _REGISTERED.fullmatch(self.model_uri)
        return match["name"] if match else None

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


def in_address(host: str) -> str:
    """The host as it stands in http://HOST:PORT."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, which may be anywhere
        return False
