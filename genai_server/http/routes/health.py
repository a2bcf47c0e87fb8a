"""Probes, who answers, and the metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from genai_server.answering.predictor import FAILED, READY
from genai_server.answering.serving import serving_of, versions_of
from genai_server.http.problems import RETRY
from genai_server.http.schemas.ask import Health, ModelInfo, Problem

router = APIRouter(tags=["health"])
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health/live", responses={503: {"model": Health}})
@router.get("/livez", include_in_schema=False)
async def live(request: Request, response: Response) -> Health:
    """200 while the process answers, or will; 503 once it cannot mend itself and is about to end."""
    health = _health(request)
    if health.status == FAILED:
        response.status_code = 503
    return health


@router.get("/health", responses={503: {"model": Health}})
@router.get("/health/ready", responses={503: {"model": Health}})
@router.get("/healthz", include_in_schema=False)
@router.get("/readyz", include_in_schema=False)
@router.get("/startupz", include_in_schema=False)
async def ready(request: Request, response: Response) -> Health:
    """200 when the golden prompts were answered as recorded and the engine is up, else 503."""
    health = _health(request)
    if health.status != READY:
        response.status_code = 503
        response.headers.update(RETRY)
    return health


@router.get("/model/info", responses={503: {"model": Problem}})
async def info(request: Request) -> ModelInfo:
    """Which version answers, with which prompt, weights and engine."""
    serving = serving_of(request)
    model = serving.predictor.loaded
    return ModelInfo.of(model.info, versions_of(model, serving.prompt_in_use(model)))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(serving_of(request).metrics.text(), media_type=METRICS_TYPE)


def _health(request: Request) -> Health:
    predictor = serving_of(request).predictor
    return Health(status=predictor.status, detail=predictor.failure or predictor.engine_failure)
