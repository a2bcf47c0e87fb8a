"""`create_app`: routes, middleware and lifespan put together. The model loads in the lifespan, never at import."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles

from genai_server import __version__
from genai_server.answering.model_loader import load_from_mlflow, resolve, with_identity
from genai_server.answering.predictor import FAILED, LoadedModel, Predictor
from genai_server.answering.serving import Serving
from genai_server.feedback.keeper import FeedbackKeeper
from genai_server.http import problems
from genai_server.http.body import BodyLimit, BodyTimeout
from genai_server.http.context import RequestContext
from genai_server.http.document import TITLE, openapi_document
from genai_server.http.former_files import move_former_files
from genai_server.http.routes import admin, ask, feedback, health, openai, pages, prompts, scoring, webhook
from genai_server.http.security import OPEN_PATHS, WEBHOOK_PATH, HostCheck, KeyCheck
from genai_server.http.webhook import AliasFollower, Deliveries
from genai_server.prompts.registry import PromptRegistry
from genai_server.prompts.selection import MODEL, Prompts
from genai_server.runtime.memory import IdleTrimmer
from genai_server.runtime.metrics import Metrics
from genai_server.settings import ServerSettings
from genai_server.tracing.tracer import Tracer

WATCH_EVERY_S = 0.5  # how often it is looked whether the engine has failed for good
GIVE_BACK_EVERY_S = 5.0  # at most so often; it takes a few milliseconds


def create_app(
    settings: ServerSettings,
    load_model: Callable[[str, str | None], LoadedModel] = load_from_mlflow,
    on_failure: Callable[[], None] = lambda: None,
    resolve_model: Callable[[str, str | None], str] = resolve,
) -> FastAPI:
    """The app for one model.

    Args:
        load_model: from (model_uri, tracking_uri) to the model; tests pass their own.
        on_failure: called once when the model cannot be served, or its engine has failed for good.
        resolve_model: from (model_uri, tracking_uri) to the address of the version that it names now.
    """
    app = FastAPI(
        title=TITLE, version=__version__, lifespan=partial(_lifespan, on_failure=on_failure),
        docs_url=None, redoc_url=None,  # pages.py has them, with files from here
    )  # fmt: skip
    serving = _serving(settings, load_model, resolve_model)
    app.state.settings, app.state.serving = settings, serving
    app.state.feedback = FeedbackKeeper(
        Path(settings.feedback_file), settings.trace_sampling_ratio > 0, settings.trace_experiment,
        lambda: serving.tracer.waiting, partial(serving.metrics.write_failed, "feedback"),
        settings.tracking_uri,
    )  # fmt: skip
    for family in (ask, openai, scoring, feedback, health, admin, prompts, pages):
        app.include_router(family.router, max_body_size=settings.max_body_bytes)
    if settings.webhook_secret:
        app.state.follower, app.state.deliveries = AliasFollower(serving.predictor), Deliveries()
        app.include_router(webhook.router, max_body_size=settings.max_body_bytes)
    app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
    app.openapi = openapi_document(app)  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    problems.install(app)
    _add_middleware(app, settings, serving)
    return app


def _serving(
    settings: ServerSettings,
    load_model: Callable[[str, str | None], LoadedModel],
    resolve_model: Callable[[str, str | None], str],
) -> Serving:
    def load(model_uri: str) -> LoadedModel:
        loaded = load_model(model_uri, settings.tracking_uri)
        is_configured_folder = model_uri == settings.model_uri and not model_uri.startswith("models:/")
        return with_identity(loaded, settings.model_identity if is_configured_folder else None)

    predictor = Predictor(
        load, settings.model_uri, settings.queue_limit, lambda uri: resolve_model(uri, settings.tracking_uri)
    )
    metrics = Metrics(
        lambda: predictor.model.info.model if predictor.model else "",
        lambda: predictor.model.answerer.load() if predictor.model else None,
    )
    tracer = _tracer(settings, predictor, metrics)
    registry = PromptRegistry(settings.tracking_uri) if settings.has_registry else None
    on_write_failure = partial(metrics.write_failed, "prompt")
    prompt_selection = Prompts(registry, settings.refresh_s, Path(settings.prompt_file), on_write_failure)
    return Serving(predictor, metrics, tracer, settings.request_timeout_s, prompt_selection)


def _tracer(settings: ServerSettings, predictor: Predictor, metrics: Metrics) -> Tracer:
    environment = {"MLFLOW_EXPERIMENT_NAME": settings.trace_experiment}
    if settings.tracking_uri:
        environment["MLFLOW_TRACKING_URI"] = settings.tracking_uri
    tracer = Tracer(
        settings.trace_sampling_ratio, settings.trace_texts, settings.spool_file, environment,
        lambda: predictor.is_busy, partial(metrics.write_failed, "traces"),
    )  # fmt: skip
    if settings.trace_sampling_ratio:
        metrics.traces(lambda: tracer.waiting, lambda: tracer.dropped)
    return tracer


def _add_middleware(app: FastAPI, settings: ServerSettings, serving: Serving) -> None:
    """The last one added is the outermost: every answer, refusals too, has its id and is counted."""
    app.add_middleware(BodyTimeout)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    open_paths = OPEN_PATHS | {WEBHOOK_PATH} if settings.webhook_secret else OPEN_PATHS
    app.add_middleware(KeyCheck, keys=settings.api_keys, admin_keys=settings.admin_keys, open_paths=open_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_headers=["*"],
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            expose_headers=["X-Request-ID", "X-Model-Version", "X-Prompt-Version", "X-Prompt-Source"],
        )  # fmt: skip
    app.add_middleware(HostCheck, allowed=settings.host_names)
    app.add_middleware(RequestContext, metrics=serving.metrics, versions=lambda: _versions(serving))


def _versions(serving: Serving) -> Mapping[str, str]:
    """Headers that say who answers now."""
    if (model := serving.predictor.model) is None:
        return {}
    return {
        "X-Model-Version": str(model.info.model_version or ""),
        "X-Prompt-Version": model.info.prompt,
        "X-Prompt-Source": MODEL,  # an answer that was made with another prompt says so itself
    }


@asynccontextmanager
async def _lifespan(app: FastAPI, on_failure: Callable[[], None]) -> AsyncIterator[None]:
    """Live at once; the model loads beside, and readiness follows."""
    serving: Serving = app.state.serving
    move_former_files(app.state.settings)
    serving.tracer.start()
    trimmer = IdleTrimmer()
    trimmer.start()

    async def load_and_watch() -> None:
        await serving.predictor.start()
        serving.prompts.start(partial(_prompt_name, serving))
        await _watch(serving, trimmer)
        on_failure()

    watching = asyncio.create_task(load_and_watch())
    yield
    watching.cancel()  # a load that is under way is not waited for
    await asyncio.wait({watching})
    app.state.feedback.stop()
    serving.prompts.stop()
    serving.predictor.close()
    serving.tracer.stop()
    trimmer.stop()


def _prompt_name(serving: Serving) -> str | None:
    """Of the prompt of the model that answers now."""
    prompt = serving.predictor.model.answerer.prompt if serving.predictor.model else None
    return prompt.name if prompt else None


async def _watch(serving: Serving, trimmer: IdleTrimmer) -> None:
    """Until the model or its engine has failed for good; what requests left behind is given back in quiet moments."""
    handled, not_before = 0, 0.0
    while serving.predictor.status != FAILED:
        await asyncio.sleep(WATCH_EVERY_S)
        is_due = serving.metrics.requests != handled and time.monotonic() >= not_before
        if is_due and not serving.predictor.is_busy:
            handled, not_before = serving.metrics.requests, time.monotonic() + GIVE_BACK_EVERY_S
            trimmer.ask()
