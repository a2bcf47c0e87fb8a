"""Readers of environment variables: each returns the checked value, or None where the variable is empty or not set.

All of them raise SettingsError, which names the variable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from genai_server.errors import SettingsError
from genai_server.model_info import ModelIdentity
from genai_server.runtime.store import absolute_address

T = TypeVar("T")
Env = Mapping[str, str]

_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise SettingsError(f"{name} is {value}; use a value {allowed}.")


def text(env: Env, name: str) -> str | None:
    return env.get(name) or None


def lower_case(env: Env, name: str) -> str | None:
    return (env.get(name) or "").lower() or None


def address(env: Env, name: str) -> str | None:
    return absolute_address(env.get(name) or "") or None


def host(env: Env, name: str) -> str | None:
    """An IPv6 address may stand in brackets, as in a URL."""
    return (env.get(name) or "").strip("[]") or None


def integer(env: Env, name: str) -> int | None:
    return _number(env, name, int, "whole number")


def decimal(env: Env, name: str) -> float | None:
    return _number(env, name, float, "number")


def _number(env: Env, name: str, kind: Callable[[str], T], description: str) -> T | None:
    text = env.get(name)
    try:
        return kind(text) if text else None
    except ValueError as exc:
        raise SettingsError(f"{name}={text!r} is not a {description}.") from exc


def flag(env: Env, name: str) -> bool | None:
    text = (env.get(name) or "").lower()
    require(text in ("", *_YES, *_NO), name, repr(text), "of true or false")
    return text in _YES if text else None


def names(env: Env, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (env.get(name) or "").split(",") if part.strip())


def keys(env: Env, name: str) -> tuple[str, ...]:
    """From the variable (separated by commas) and its file (one a line), which must be there when it is named."""
    keys = names(env, name)
    # whoever set the variable means the server to be closed
    require(bool(keys) or not env.get(name), name, "without a key", "with one, or leave it out")
    text = _secret_file(env, f"{name}_FILE")
    if text is None:
        return keys
    in_file = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not in_file:
        raise SettingsError(f"{name}_FILE holds no key; write one a line, or leave the variable out.")
    return (*keys, *in_file)


def secret(env: Env, name: str) -> str | None:
    """From the variable or its file. A file that is named must be there and hold a secret."""
    secret = _secret_file(env, f"{name}_FILE")
    if secret is None:
        return env.get(name) or None
    require(bool(secret.strip()), f"{name}_FILE", "empty", "with the secret in it")
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
