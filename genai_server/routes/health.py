"""Liveness, readiness and who answers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from genai_server.errors import NotReady
from genai_server.predictor import READY
from genai_server.schemas import Health, ModelInfo

router = APIRouter(tags=["health"])


@router.get("/health/live", response_model=Health)
async def live(request: Request) -> Health:
    """The process answers."""
    return _health(request)


@router.get("/health", response_model=Health)
@router.get("/health/ready", response_model=Health)
async def ready(request: Request, response: Response) -> Health:
    """200 when the golden prompts were answered as recorded, else 503."""
    health = _health(request)
    response.status_code = 200 if health.status == READY else 503
    return health


@router.get("/model/info", response_model=ModelInfo)
async def info(request: Request) -> dict:
    """Which version answers, with which prompt and weights."""
    model = request.app.state.predictor.model
    if model is None:
        raise NotReady("The model is still loading.", "Ask again when /health/ready answers 200.")
    return dict(model.info)


def _health(request: Request) -> Health:
    predictor = request.app.state.predictor
    return Health(status=predictor.status, detail=predictor.failure)
