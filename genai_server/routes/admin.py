"""Which version answers: reload beside the running one, and back. Needs a key, so it is closed without API_KEYS."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from genai_server.errors import Forbidden
from genai_server.schemas import ModelInfo, Problem, ReloadRequest
from genai_server.serving import serving_of


async def keys_are_set(request: Request) -> None:
    """Without keys anybody who reaches the port could change the model."""
    if not request.app.state.settings.api_keys:
        raise Forbidden("The admin routes are closed.", "Set API_KEYS or API_KEYS_FILE to open them.")


router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(keys_are_set)],
    responses={status: {"model": Problem} for status in (401, 403, 409, 503)},
)


@router.post("/reload", response_model=ModelInfo)
async def reload(body: ReloadRequest, request: Request) -> dict[str, Any]:
    """Load a version, check its golden prompts, and swap without dropping a request."""
    return dict((await serving_of(request).predictor.reload(body.model_uri)).info)


@router.post("/rollback", response_model=ModelInfo)
async def rollback(request: Request) -> dict[str, Any]:
    """Load the version before again, check its golden prompts, and swap; the two change places."""
    return dict((await serving_of(request).predictor.rollback()).info)
