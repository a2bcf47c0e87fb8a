"""`create_app`: routes, lifespan and error answers put together. The model loads in the lifespan, never at import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from genai_server.errors import ServerError
from genai_server.predictor import FAILED, LoadedModel, Predictor, load_from_mlflow
from genai_server.routes import ask, health
from genai_server.settings import ServerSettings

RETRY_AFTER_S = 1


def create_app(
    settings: ServerSettings,
    load_model: Callable[[str, str | None], LoadedModel] = load_from_mlflow,
    on_failure: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The app for one model.

    Args:
        load_model: from (model_uri, tracking_uri) to the model; tests pass their own.
        on_failure: told once when the model cannot be served.
    """
    app = FastAPI(title="Causal language model server", lifespan=partial(_lifespan, on_failure=on_failure))
    app.state.settings = settings
    app.state.predictor = Predictor(
        partial(load_model, settings.model_uri, settings.tracking_uri), settings.queue_limit
    )
    app.include_router(ask.router)
    app.include_router(health.router)
    app.add_exception_handler(ServerError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, on_failure: Callable[[], None]) -> AsyncIterator[None]:
    """Live at once; the model loads beside, and readiness follows."""

    async def load() -> None:
        await app.state.predictor.load()
        if app.state.predictor.status == FAILED:
            on_failure()

    loading = asyncio.create_task(load())
    yield
    await loading
    app.state.predictor.close()


def _problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _refused(request: Request, exc: ServerError) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if exc.status in (429, 503) else None
    return _problem(exc.status, type(exc).__name__, f"{exc.message} {exc.hint}".strip(), headers)


async def _malformed(request: Request, exc: RequestValidationError) -> JSONResponse:
    """One sentence about the first thing that is wrong; the caller's text is not repeated."""
    first = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return _problem(422, "MalformedRequest", f"{place}: {first['msg']}.")
