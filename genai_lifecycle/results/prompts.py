"""What the modes prompts and rollback return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genai_lifecycle.results.verdicts import Decision


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as MLflow's registry has it."""

    name: str
    latest: int | None  # its newest version; None when all were deleted
    aliases: Mapping[str, int]  # alias -> version
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """One version of a prompt as MLflow's registry has it."""

    name: str
    version: int
    template: str  # of a chat prompt: its messages as JSON
    is_chat: bool
    commit_message: str
    created_ms: int  # Unix time
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class PromptsResult:
    """What `--mode prompts` did or found."""

    action: str
    message: str = ""  # what was done, in one sentence; empty for what only reads
    prompts: tuple[StoredPrompt, ...] = ()
    versions: tuple[StoredVersion, ...] = ()
    diff: str = ""  # unified
    decision: Decision | None = None  # of the gate, where `production` was to move


@dataclass(frozen=True)
class RollbackResult:
    """Which version is in use again, and which one it took the place of."""

    name: str
    alias: str  # champion | production
    version: str
    replaced: str
