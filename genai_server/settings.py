"""`ServerSettings`: everything that the environment decides, read once."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from genai_server.errors import SettingsError
from genai_server.limits import MAX_TIMEOUT_S
from genai_server.model_info import ModelIdentity
from genai_server.runtime import environment as read
from genai_server.runtime.environment import Env, require
from genai_server.runtime.logs import FORMATS, LEVELS

T = TypeVar("T")

_HOST = re.compile(r"\*|(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN = re.compile(r"\*|https?://[^*/\s]+")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(/[^/@]+|@(?P<alias>[^/@]+))")
PROMPT_REFRESH_S = 30.0
DATA_FOLDER = "local_mlflow_backend"  # what a person would miss; `make clean` leaves it alone
MIN_KEY_CHARACTERS = 8


@dataclass(frozen=True)
class Check:
    """Whether a value is allowed, and how to say what is."""

    holds: Callable[[Any], bool]
    allowed: str


def _above_0(most: int) -> Check:
    return Check(lambda value: 0 < value <= most, f"above 0, up to {most}")


def _at_least(least: int) -> Check:
    return Check(lambda value: value >= least, f"{least} or more")


def _one_of(values: tuple[str, ...]) -> Check:
    return Check(lambda value: value in values, f"of {', '.join(values)}")


def _each(pattern: re.Pattern[str], allowed: str) -> Check:
    return Check(lambda values: all(pattern.fullmatch(value) for value in values), allowed)


def _setting(
    default: T,
    env: str,
    reader: Callable[[Env, str], Any] = read.text,
    check: Check | None = None,
    secret: bool = False,
) -> T:
    """A field of ServerSettings with the variable that decides it; a secret is in no repr."""
    made: T = field(default=default, repr=not secret, metadata={"env": env, "reader": reader, "check": check})
    return made


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server process. Raises SettingsError naming the variable that is wrong."""

    model_uri: str = _setting("models:/langchain-e2e-model@champion", "MLFLOW_MODEL_URI")  # or a folder
    # None = looked for, see runtime/store.py; may have a password
    tracking_uri: str | None = _setting(None, "MLFLOW_TRACKING_URI", read.address, secret=True)
    host: str = _setting("127.0.0.1", "HOST", read.host)
    # where callers reach it, when that is not `host`: a container's port is published
    published_host: str = _setting("", "PUBLISHED_HOST", read.host)
    port: int = _setting(5001, "PORT", read.integer, Check(lambda port: 1 <= port <= 65535, "from 1 to 65535"))
    api_keys: tuple[str, ...] = _setting((), "API_KEYS", read.keys, secret=True)  # of callers; none = open
    # for what changes the server; none = that is closed
    admin_keys: tuple[str, ...] = _setting((), "ADMIN_KEYS", read.keys, secret=True)
    allow_open: bool = _setting(False, "ALLOW_OPEN", read.flag)  # whether other machines may ask without a key
    # names in the Host header, without port; *.example.com for all below it
    allowed_hosts: tuple[str, ...] = _setting(
        (), "ALLOWED_HOSTS", read.names, _each(_HOST, "like example.com,*.example.org, without port")
    )
    # web pages of other origins that may ask
    cors_origins: tuple[str, ...] = _setting(
        (), "CORS_ORIGINS", read.names, _each(_ORIGIN, "like https://example.com, without path")
    )
    max_body_bytes: int = _setting(1_000_000, "MAX_BODY_BYTES", read.integer, _at_least(1000))
    # questions under way or waiting; the next one gets 429
    queue_limit: int = _setting(512, "QUEUE_LIMIT", read.integer, _at_least(1))
    # then the answer so far is returned
    request_timeout_s: float = _setting(60.0, "REQUEST_TIMEOUT_S", read.decimal, _above_0(MAX_TIMEOUT_S))
    grace_s: float = _setting(30.0, "GRACE_S", read.decimal, _above_0(600))  # after SIGTERM, for what was accepted
    # share of requests that are traced to MLflow
    trace_sampling_ratio: float = _setting(
        0.0, "MLFLOW_TRACE_SAMPLING_RATIO", read.decimal, Check(lambda ratio: 0 <= ratio <= 1, "from 0 to 1")
    )
    trace_experiment: str = _setting("serving", "TRACE_EXPERIMENT")  # in MLflow
    trace_texts: bool = _setting(False, "TRACE_TEXTS", read.flag)  # whether questions and answers stand in the traces
    # who the model in a folder is
    model_identity: ModelIdentity | None = _setting(None, "MODEL_INFO_FILE", read.model_identity, secret=True)
    webhook_secret: str = _setting("", "WEBHOOK_SECRET", read.secret, secret=True)  # of MLflow's; empty = no such route
    # ledger of all feedback; the traces wait beside it
    feedback_file: str = _setting(f"{DATA_FOLDER}/feedback.jsonl", "FEEDBACK_FILE")
    # how often the prompt in production is looked up; None = see `refresh_s`
    prompt_refresh_s: float | None = _setting(
        None, "PROMPT_REFRESH_S", read.decimal, Check(lambda s: s is None or 0 <= s <= 86400, "from 0 (never) to 86400")
    )
    prompt_file: str = _setting(f"{DATA_FOLDER}/prompt.json", "PROMPT_FILE")  # its last good copy
    log_format: str = _setting("text", "LOG_FORMAT", read.lower_case, _one_of(FORMATS))
    log_level: str = _setting("info", "LOG_LEVEL", read.lower_case, _one_of(LEVELS))

    @classmethod
    def from_env(cls, env: Env = os.environ) -> ServerSettings:
        """Settings from the environment; what is not set has its default."""
        values = {each.name: each.metadata["reader"](env, each.metadata["env"]) for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def __post_init__(self) -> None:
        for each in fields(self):
            if check := each.metadata["check"]:
                value = getattr(self, each.name)
                shown = list(value) if isinstance(value, tuple) else value
                require(check.holds(value), each.metadata["env"], shown, check.allowed)
        self._check_keys()
        self._check_openness()
        self._check_webhook()

    def _check_keys(self) -> None:
        for name, keys in (("API_KEYS", self.api_keys), ("ADMIN_KEYS", self.admin_keys)):
            # headers carry nothing but ASCII unharmed
            is_plain = all(len(key) >= MIN_KEY_CHARACTERS and key.isascii() for key in keys)
            allowed = f"of {MIN_KEY_CHARACTERS} ASCII characters or more"
            require(is_plain, f"A key of {name} or {name}_FILE", "too short or not plain", allowed)
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
            require(is_long, "WEBHOOK_SECRET or WEBHOOK_SECRET_FILE", "too short", allowed)
            allowed = "like models:/NAME@ALIAS, or leave WEBHOOK_SECRET out"
            require(self.followed is not None, "MLFLOW_MODEL_URI", self.model_uri, allowed)

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
