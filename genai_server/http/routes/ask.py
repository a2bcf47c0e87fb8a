"""`/ask`, `/ask/batch`, `/ask/stream`: questions to the model, in the prompt in production or one that is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from genai_server.answer_request import AnswerRequest
from genai_server.answering.serving import AnswerStream, Serving, serving_of
from genai_server.errors import BadQuestion, ServerError
from genai_server.http import sse
from genai_server.http.disconnect import unless_disconnected
from genai_server.http.schemas.ask import (
    AnswerResponse,
    BatchAnswerResponse,
    BatchItem,
    BatchQuestionRequest,
    ItemError,
    Problem,
    QuestionRequest,
)
from genai_server.prompts.selection import PromptText

router = APIRouter(
    tags=["ask"], responses={status: {"model": Problem} for status in (400, 401, 404, 409, 413, 422, 429, 503, 504)}
)

# The model takes question and history as input, the rest as parameters.
_INPUT = {"question", "history"}
_PROMPT = {"prompt_name", "prompt_version", "prompt_alias", "variables"}


@router.post("/ask")
async def ask(body: QuestionRequest, request: Request) -> AnswerResponse:
    """Answer one question."""
    _require_question(body, "body")
    return await unless_disconnected(request, _answer(body, request))


@router.post("/ask/batch")
async def ask_batch(body: BatchQuestionRequest, request: Request) -> BatchAnswerResponse:
    """Answer many questions; one bad item does not spoil the rest."""
    for index, question in enumerate(body.questions):
        _require_question(question, "body", "questions", index)
    with serving_of(request).batch(len(body.questions)) as group:
        items = (_item(index, question, request, group) for index, question in enumerate(body.questions))
        answers = await unless_disconnected(request, _gather(items))
    return BatchAnswerResponse(answers=answers, failed=sum(item.error is not None for item in answers))


@router.post(
    "/ask/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": '`data: {"delta": …}` events, then an `event: end` with the whole answer.',
            "content": sse.CONTENT,
        }
    },
)
async def ask_stream(body: QuestionRequest, request: Request) -> StreamingResponse:
    """Answer one question piece by piece, as server-sent events. Closing the connection stops the generation."""
    _require_question(body, "body")
    stream = serving_of(request).stream(await _answer_request(body, request))
    return sse.EventResponse(_events(stream), stream)


async def _events(stream: AnswerStream) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in stream:
            if isinstance(piece, str):
                yield sse.event({"delta": piece})
            else:
                yield sse.event(AnswerResponse.of(piece).model_dump(), "end")
    except ServerError as exc:  # the response has begun: the error is an event of it
        yield sse.event(_item_error(exc).model_dump(), "error")


async def _gather(items: Iterable[Awaitable[BatchItem]]) -> list[BatchItem]:
    return await asyncio.gather(*items)


async def _item(index: int, question: QuestionRequest, request: Request, group: int) -> BatchItem:
    try:
        return BatchItem(index=index, answer=await _answer(question, request, group))
    except ServerError as exc:
        return BatchItem(index=index, error=_item_error(exc))


def _item_error(exc: ServerError) -> ItemError:
    return ItemError(status=exc.status, code=exc.code, detail=exc.sentence)


def _require_question(body: QuestionRequest, *place: str | int) -> None:
    """It may be left out only where variables are given, which a schema cannot say."""
    if body.question is None and not body.variables:
        missing = {"type": "missing", "loc": (*place, "question"), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])


async def _answer(body: QuestionRequest, request: Request, group: int | None = None) -> AnswerResponse:
    served = await serving_of(request).answer(await _answer_request(body, request, group))
    return AnswerResponse.of(served)


async def _answer_request(body: QuestionRequest, request: Request, group: int | None = None) -> AnswerRequest:
    """What the caller asks for, with the prompt that was named, if one was. Raises ServerError."""
    return AnswerRequest(
        question=body.model_dump(include=_INPUT),
        params=body.model_dump(exclude=_INPUT | _PROMPT, exclude_none=True),
        request_id=request.state.request_id,
        operation="ask",
        traceparent=request.headers.get("traceparent"),
        prompt=await _prompt(body, serving_of(request)),
        variables=body.variables,
        headers=request.state.headers,
        group=group,
    )


async def _prompt(body: QuestionRequest, serving: Serving) -> PromptText | None:
    """The one that was named; a version or an alias alone is one of the model's own prompt."""
    if body.prompt_version is not None and body.prompt_alias is not None:
        raise BadQuestion("Both prompt_version and prompt_alias are given.", "Send one of them.")
    if body.prompt_name is None and body.prompt_version is None and body.prompt_alias is None:
        if body.variables:
            raise BadQuestion("Variables are for a prompt that is named.", "Send prompt_name with them.")
        return None
    name = body.prompt_name or serving.model_prompt_name
    return await serving.prompts.named(name, body.prompt_version, body.prompt_alias)
