"""`/ask`, `/ask/batch`, `/ask/stream`: questions to the model and its frozen prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from genai_server import sse
from genai_server.errors import ServerError
from genai_server.schemas import (
    AnswerResponse,
    BatchAnswerResponse,
    BatchQuestionRequest,
    Problem,
    QuestionRequest,
)
from genai_server.serving import Asked, Serving, serving_of

router = APIRouter(tags=["ask"], responses={status: {"model": Problem} for status in (400, 401, 413, 422, 429, 503)})

# The model takes question and history as input, the rest as parameters.
_INPUT = {"question", "history"}


@router.post("/ask", response_model=AnswerResponse)
async def ask(body: QuestionRequest, request: Request) -> dict[str, Any]:
    """Answer one question."""
    return await serving_of(request).answer(_asked(body, request))


@router.post("/ask/batch", response_model=BatchAnswerResponse)
async def ask_batch(body: BatchQuestionRequest, request: Request) -> dict[str, Any]:
    """Answer many questions; one bad item does not spoil the rest."""
    serving = serving_of(request)
    items = await asyncio.gather(
        *(_item(index, _asked(question, request), serving) for index, question in enumerate(body.questions))
    )
    return {"answers": items, "failed": sum("error" in item for item in items)}


@router.post(
    "/ask/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": '`data: {"delta": …}` events, then an `event: end` with the whole answer.',
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def ask_stream(body: QuestionRequest, request: Request) -> StreamingResponse:
    """Answer one question piece by piece, as server-sent events. Closing the connection stops the generation."""
    pieces = await sse.begun(serving_of(request).stream(_asked(body, request)))
    return sse.response(_events(pieces))


async def _events(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            if piece["delta"]:
                yield sse.event({"delta": piece["delta"]})
            else:
                yield sse.event(AnswerResponse(**piece).model_dump(), "end")
    except ServerError as exc:  # the response has begun: the error is an event of it
        yield sse.event({"status": exc.status, "code": exc.code, "detail": exc.sentence}, "error")
    finally:
        await pieces.aclose()


async def _item(index: int, asked: Asked, serving: Serving) -> dict[str, Any]:
    try:
        return {"index": index, "answer": await serving.answer(asked)}
    except ServerError as exc:
        return {"index": index, "error": {"status": exc.status, "code": exc.code, "detail": exc.sentence}}


def _asked(body: QuestionRequest, request: Request) -> Asked:
    params = body.model_dump(exclude=_INPUT, exclude_none=True)
    traceparent = request.headers.get("traceparent")
    return Asked(body.model_dump(include=_INPUT), params, request.state.request_id, "ask", traceparent)
