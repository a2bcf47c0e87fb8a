"""`/prompts`: MLflow's prompt registry over HTTP. What changes a prompt needs an admin key (`security.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response

from genai_server.answering.serving import serving_of
from genai_server.errors import BadQuestion
from genai_server.http.schemas.ask import Problem
from genai_server.http.schemas.prompts import (
    AliasRequest,
    PromptAlias,
    PromptCreateRequest,
    PromptList,
    PromptName,
    PromptSummary,
    PromptUpdateRequest,
    PromptVersion,
    PromptVersions,
    Version,
)
from genai_server.prompts.registry import PromptRegistry, StoredVersion
from genai_server.prompts.selection import template_error, variables_of

T = TypeVar("T")
TIMEOUT_S = 15.0  # of one request to MLflow's registry, which may be several calls
RESERVED = ("mlflow.", "_mlflow", "production.", "gate.")  # prefixes of tags that programs set

router = APIRouter(
    prefix="/prompts",
    tags=["prompts"],
    responses={status: {"model": Problem} for status in (400, 401, 404, 409, 413, 422, 503)},
)
Name = Annotated[PromptName, Path(examples=["qa-simple"])]
Alias = Annotated[PromptAlias, Path(examples=["production"])]
Force = Annotated[bool, Query(description="Also what is in production.")]


@router.get("")
async def all_prompts(request: Request) -> PromptList:
    """Every prompt with its aliases and tags."""
    stored = await _ask(request, lambda registry: registry.all())
    return PromptList(prompts=[PromptSummary(**asdict(prompt)) for prompt in stored])


@router.post("", status_code=201)
async def create(body: PromptCreateRequest, request: Request) -> PromptVersion:
    """Make a prompt; its version 1 is in production."""
    _require_sound(body)
    return _version(
        await _ask(request, lambda registry: registry.create(body.name, body.template, body.commit_message, body.tags))
    )


@router.get("/{name}")
async def get(
    name: Name, request: Request, version: Version | None = None, alias: PromptAlias | None = None
) -> PromptVersion:
    """One version, by its number or an alias; by neither, the one in production."""
    if version is not None and alias is not None:
        raise BadQuestion("Both version and alias are given.", "Send one of them.")
    return _version(await _ask(request, lambda registry: registry.find(name, version, alias)))


@router.get("/{name}/versions")
async def versions(name: Name, request: Request) -> PromptVersions:
    """Every version, newest first. Its tags say when it was in production, and what the gate said."""
    stored = await _ask(request, lambda registry: registry.versions(registry.get(name)))
    return PromptVersions(versions=[_version(version) for version in stored])


@router.post("/{name}/versions", status_code=201)
async def update(name: Name, body: PromptUpdateRequest, request: Request) -> PromptVersion:
    """Make a new version. It is in production only with `force`, which is recorded: nobody has evaluated it yet."""
    _require_sound(body)
    return _version(
        await _ask(
            request,
            lambda registry: registry.update(name, body.template, body.commit_message, body.tags, force=body.force),
        )
    )


@router.put("/{name}/aliases/{alias}")
async def point(name: Name, alias: Alias, body: AliasRequest, request: Request) -> PromptVersion:
    """Point an alias at a version; `production` at one that passed the gate, or with `force`."""
    return _version(await _ask(request, lambda registry: registry.point(name, alias, body.version, force=body.force)))


@router.post("/{name}/rollback")
async def rollback(name: Name, request: Request) -> PromptVersion:
    """Put the version before in production again; servers follow within their PROMPT_REFRESH_S."""
    return _version(await _ask(request, lambda registry: registry.roll_back(name)))


@router.delete("/{name}", status_code=204, response_class=Response)
async def delete(name: Name, request: Request, version: Version | None = None, force: Force = False) -> Response:
    """Delete a version, or the prompt with all of them; never what is in production without `force`."""
    await _ask(request, lambda registry: registry.delete(name, version, force=force))
    return Response(status_code=204)


async def _ask(request: Request, call: Callable[[PromptRegistry], T]) -> T:
    return await serving_of(request).prompts.ask(call, TIMEOUT_S)


def _require_sound(body: PromptCreateRequest | PromptUpdateRequest) -> None:
    if sentence := template_error(body.template):
        raise BadQuestion(sentence, "{{name}} is a variable, a single { is text.", param="template")
    if reserved := [key for key in body.tags if key.startswith(RESERVED)]:
        raise BadQuestion(f"The tag {reserved[0]!r} has a meaning of its own.", "Use another key.", param="tags")


def _version(stored: StoredVersion) -> PromptVersion:
    fields: dict[str, Any] = asdict(stored) | {"variables": list(variables_of(stored.template))}
    return PromptVersion(**fields)
