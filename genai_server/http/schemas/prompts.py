"""Requests and responses of `/prompts`. Swagger and the checks of every request come from here; no logic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from genai_server.http.schemas.fields import printable

PromptName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]  # MLflow's characters
PromptAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
TagKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]  # MLflow's characters, but the space
Tags = Annotated[
    dict[TagKey, Annotated[str, Field(max_length=5_000), printable]],
    Field(max_length=50, description="Of the version."),
]
Template = Annotated[
    str,
    Field(min_length=1, max_length=100_000, description="{{question}} is a variable, a single { is text."),
    printable,
]
Message = Annotated[str, Field(max_length=5_000, description="Why there is a new version."), printable]
_TEMPLATE = "Answer in one sentence.\nQuestion: {{question}}\nAnswer:"


class PromptUpdateRequest(BaseModel):
    """A new version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"template": _TEMPLATE, "commit_message": "shorter answers", "force": False}]},
    )

    template: Template
    commit_message: Message = ""
    tags: Tags = {}
    force: Annotated[bool, Field(description="Put it in production although nobody has evaluated it.")] = False


class PromptCreateRequest(BaseModel):
    """A new prompt; its version 1 goes into production."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "qa-short", "template": _TEMPLATE, "commit_message": "first", "tags": {"owner": "docs-team"}}
            ]
        },
    )

    name: PromptName
    template: Template
    commit_message: Message = ""
    tags: Tags = {}


class AliasRequest(BaseModel):
    """Where an alias is to point."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 2, "force": False}]})

    version: Version
    force: Annotated[bool, Field(description="production: to a version that has not passed the gate.")] = False


class PromptSummary(BaseModel):
    """A prompt with its aliases."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "qa-short", "newest": 3, "aliases": {"production": 2, "previous": 1}, "tags": {"owner": "me"}}
            ]
        }
    )

    name: str
    newest: int | None
    aliases: dict[str, int]
    tags: dict[str, str]


class PromptList(BaseModel):
    """Every prompt of the registry, by name."""

    prompts: list[PromptSummary]


class PromptVersion(BaseModel):
    """One version of a prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "qa-short", "version": 2, "template": _TEMPLATE, "variables": ["question"],
                    "is_chat": False, "commit_message": "shorter answers", "created": "2026-01-01T00:00:00Z",
                    "aliases": ["production"], "tags": {"production.how": "gate"},
                }
            ]
        }
    )  # fmt: skip

    name: str
    version: int
    template: Annotated[str, Field(description="Of a chat prompt: its messages as JSON.")]
    variables: list[str]
    is_chat: bool
    commit_message: str
    created: str
    aliases: list[str]
    tags: dict[str, str]


class PromptVersions(BaseModel):
    """Every version of a prompt, newest first."""

    versions: list[PromptVersion]
