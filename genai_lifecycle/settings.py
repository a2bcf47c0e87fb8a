"""How a setting is declared: once, as a field of a frozen dataclass that inherits `Settings`.

The field says its default, limits, variable and help; the flags, --help and docs/cli.md are made from that
(`cli/flags.py`). Flags beat environment variables, environment variables beat defaults. No setting is declared here:
what the whole life shares is in `config.py`, what one mode needs is in its stage's file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from genai_lifecycle.errors import ConfigError


def setting(default: Any, help: str, *, secret: bool = False, **declaration: Any) -> Any:
    """The field of a setting. `declaration` has what `Setting` knows beside name, kind, default and help."""
    return field(default=default, repr=not secret, metadata={"help": help} | declaration)


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, with all that its declaration says."""

    name: str
    kind: type  # bool | int | str | Path | tuple; the environment gives text and paths only
    default: Any
    help: str
    flag: str  # "" where only the environment decides; without dashes it is a word that needs no flag
    group: str  # settings that a mode knows together; a setting without a group is one of its own
    env: str = ""
    metavar: str | None = None
    limits: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[str, Any], Any] | None = None  # (what the message calls it, value) -> value, or ConfigError

    def checked(self, name: str, value: Any) -> Any:
        """`value` as the settings hold it. Raises ConfigError, which calls it `name`."""
        if value is None:
            return None
        if self.kind is Path:
            value = Path(value).expanduser()
        if self.kind is tuple:
            value = tuple(value)
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise ConfigError(f"{name} is {value}.", hint=f"Use {self.limits[0]} to {self.limits[1]}.")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{name} is {value!r}.", hint=f"Use one of {', '.join(self.choices)}.")
        return self.check(name, value) if self.check else value


@cache
def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """What a settings class declares, in its order."""
    hints = get_type_hints(cls)
    return tuple(
        Setting(**{
            "name": item.name, "kind": _kind(hints[item.name]), "default": item.default, "group": item.name,
            "flag": f"--{item.name.replace('_', '-')}", **item.metadata,
        })
        for item in fields(cls) if item.metadata
    )  # fmt: skip


def _own(cls: type[Settings]) -> tuple[Setting, ...]:
    return settings_of(cls)  # type: ignore[arg-type]  # mypy takes the hash of a class for that of its instances


def _kind(hint: Any) -> type:
    """`int` for `int` and for `int | None`, `tuple` for `tuple[str, ...]`."""
    first: type = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    return get_origin(first) or first


@dataclass(frozen=True)
class Settings:
    """A group of settings. Every value is checked when it is made; ConfigError names the flag, or the variable."""

    from_environment: frozenset[str] = field(default=frozenset(), repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for item in _own(type(self)):
            name = item.env if item.name in self.from_environment else item.flag or item.env
            object.__setattr__(self, item.name, item.checked(name, getattr(self, item.name)))

    @classmethod
    def from_env(
        cls, flags: Mapping[str, Any], env: Mapping[str, str] = os.environ, groups: Collection[str] | None = None
    ) -> Self:
        """Settings from flags, then `env`, then defaults.

        Args:
            flags: name -> value; what was not given is absent, or None.
            groups: other settings keep their defaults, and their variables are not read; None = all are read.
        """
        known = [item for item in _own(cls) if groups is None or item.group in groups]
        variables = {item.name: env[item.env] for item in known if env.get(item.env)}
        given = {item.name: flags[item.name] for item in known if flags.get(item.name) is not None}
        return cls(**variables | given, from_environment=frozenset(variables.keys() - given.keys()))
