"""Stage `rollback`: the version before comes back. Two aliases change places, so the same command undoes it."""

from __future__ import annotations

from dataclasses import dataclass

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.prompts import promotion
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store import prompt_registry as registry


@dataclass(frozen=True)
class RollbackSettings(Settings):
    """What goes back."""

    prompt: tuple[str, ...] = setting(
        (), "a prompt's name, may be given again; the registered model when left out", metavar="NAME"
    )


@dataclass(frozen=True)
class RollbackResult:
    """Which version is in use again, and which one it took the place of."""

    name: str
    alias: str  # champion | production
    version: str
    replaced: str


def roll_back(config: E2EConfig, settings: RollbackSettings) -> tuple[RollbackResult, ...]:
    """The prompts of `settings.prompt`, or without one the registered model.

    Raises:
        NotFound: there is no such prompt or model, or no former version is recorded.
    """
    if settings.prompt:
        return tuple(_prompt(name) for name in settings.prompt)
    now, before = model_registry.swap_champion(config.registered_model_name)
    return (RollbackResult(config.registered_model_name, model_registry.CHAMPION, now, before),)


def _prompt(name: str) -> RollbackResult:
    now, before = promotion.roll_back(registry.require(name))
    return RollbackResult(name, registry.PRODUCTION, str(now), str(before))
