"""Which version of the served model answers: reload beside the running one, and back. Needs an admin key."""

from __future__ import annotations

from fastapi import APIRouter, Request

from genai_server.answering.serving import serving_of
from genai_server.errors import Conflict
from genai_server.http.schemas.ask import ModelInfo, Problem, ReloadRequest

router = APIRouter(
    prefix="/admin", tags=["admin"], responses={status: {"model": Problem} for status in (401, 409, 503)}
)


@router.post("/reload")
async def reload(body: ReloadRequest, request: Request) -> ModelInfo:
    """Load a version of the served model, check its golden prompts, and swap without dropping a request."""
    address = _address(body, request.app.state.settings.registered_name)
    return ModelInfo.of((await serving_of(request).predictor.reload(address)).info)


@router.post("/rollback")
async def rollback(request: Request) -> ModelInfo:
    """Load the version before again, check its golden prompts, and swap; the two change places."""
    return ModelInfo.of((await serving_of(request).predictor.rollback()).info)


def _address(body: ReloadRequest, name: str | None) -> str | None:
    """Of a version of the model `name`; None is the configured address. MLflow's loader runs code of what it loads, so
    no address comes from outside."""
    if body.version is None and body.alias is None:
        return None
    if name is None:
        raise Conflict("The model is not served from the registry, so it has no versions.", "Send {} to load it anew.")
    return f"models:/{name}/{body.version}" if body.version is not None else f"models:/{name}@{body.alias}"
