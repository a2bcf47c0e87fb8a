"""OpenAI's routes, so that existing clients plug in: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

GPT-2 has no chat template. Ours, `turns`: a first question goes through the prompt that is frozen in the model, as
`/ask` does; with earlier turns, every turn is followed by the end-of-text token, as DialoGPT was trained. System
messages stand before the first user message, with a line break between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from genai_server.answer import Answer, ServedAnswer
from genai_server.answer_request import AnswerRequest
from genai_server.answering.serving import AnswerStream, Serving, serving_of
from genai_server.errors import BadQuestion, ServerError, UnknownModel
from genai_server.http import sse
from genai_server.http.disconnect import unless_disconnected
from genai_server.http.problems import openai_error
from genai_server.http.schemas.openai import ChatCompletionRequest, CompletionRequest, Message

router = APIRouter(prefix="/v1", tags=["openai"])
OWNER = "local"
SYSTEM = ("system", "developer")
DONE = sse.event("[DONE]")
_LENGTHS = {"length", "timeout", "cancelled"}  # OpenAI knows two endings: by itself, or cut off
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}, **sse.CONTENT}}
}


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The model that answers; empty while none does."""
    model = serving_of(request).predictor.model
    return {"object": "list", "data": [_model(model.info.model)] if model else []}


@router.get("/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model by its name."""
    _require_known(name, serving_of(request))
    return _model(name)


@router.post("/chat/completions", response_model=None, responses=_RESPONSES)
async def chat(body: ChatCompletionRequest, request: Request) -> Response | dict[str, Any]:
    """Answer the last message of a conversation."""
    serving = serving_of(request)
    _require_known(body.model, serving)
    question = _answer_request(chat_question(body.messages), body, request, "chat")
    if body.stream:
        return _stream(_Chat(request, body), question, serving)
    answer = (await unless_disconnected(request, serving.answer(question))).answer
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(answer), "logprobs": None}
    return _Chat(request, body).whole([choice], [answer])


@router.post("/completions", response_model=None, responses=_RESPONSES)
async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
    """Continue one text, or several."""
    serving = serving_of(request)
    _require_known(body.model, serving)
    texts = [_answer_request({"text": text}, body, request, "text_completion") for text in body.prompt]
    if body.stream:
        if len(texts) > 1:
            raise BadQuestion("A stream continues one text.", "Send one prompt.", param="prompt")
        return _stream(_Text(request, body), texts[0], serving)
    with serving.batch(len(texts)) as group:
        served = await unless_disconnected(request, _all([serving.answer(replace(t, group=group)) for t in texts]))
    answers = [one.answer for one in served]
    choices = [
        {"index": i, "text": answer.text, "finish_reason": finish_reason(answer), "logprobs": None}
        for i, answer in enumerate(answers)
    ]
    return _Text(request, body).whole(choices, answers)


# --- from OpenAI's words to ours, and back --------------------------------------------------------


def chat_question(messages: Sequence[Message]) -> dict[str, Any]:
    """The chat template: question and history of a conversation whose last message is the user's."""
    system = [message.content for message in messages if message.role in SYSTEM and message.content.strip()]
    talk = [message for message in messages if message.role not in SYSTEM]
    if any(not message.content.strip() for message in talk):
        raise BadQuestion("A message is empty.", "Leave it out, or write some text.", param="messages")
    first = next(i for i, message in enumerate(talk) if message.role == "user")
    turns = [message.content for message in talk]
    turns[first] = "\n".join((*system, turns[first]))
    return {"question": turns[-1], "history": turns[:-1]}


def finish_reason(answer: Answer) -> str:
    """`length` for whatever was cut off."""
    return "length" if answer.finish_reason in _LENGTHS else "stop"


def _answer_request(
    question: Mapping[str, Any], body: ChatCompletionRequest | CompletionRequest, request: Request, operation: str
) -> AnswerRequest:
    traceparent, headers = request.headers.get("traceparent"), request.state.headers
    return AnswerRequest(question, body.params(), request.state.request_id, operation, traceparent, headers=headers)


def _require_known(name: str, serving: Serving) -> None:
    if name != serving.predictor.loaded.info.model:
        sentence = f"The model {name!r} does not answer here."
        raise UnknownModel(sentence, "GET /v1/models names the one that does.", param="model")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": OWNER}


_STARTED = int(time.time())


async def _all(answers: Sequence[Coroutine[Any, Any, ServedAnswer]]) -> list[ServedAnswer]:
    """All of them, in order; where one fails, nobody waits for the others, so they are cancelled."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _usage(answers: Sequence[Answer]) -> dict[str, int] | None:
    """Tokens that were read and written; None where the model, another PyFunc, does not count them."""
    usages = [answer.usage for answer in answers if answer.usage is not None]
    if len(usages) < len(answers):
        return None
    prompt = sum(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Chat:
    """The objects of a chat completion: id, time and model are the same in every chunk."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(self, request: Request, body: ChatCompletionRequest | CompletionRequest):
        self._head = {
            "id": f"{self.prefix}{request.state.request_id}",
            "created": int(time.time()),
            "model": body.model,
        }
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)

    def whole(self, choices: list[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        return {**self._head, "object": self.object, "choices": choices, "usage": _usage(answers)}

    def opening(self) -> list[dict[str, Any]]:
        """What comes before the first text."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})]

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"delta": {"content": text}})

    def closing(self, answer: Answer) -> list[dict[str, Any]]:
        """How it ended, and the token counts where they were asked for."""
        last = [self._chunk(self._empty(), finish_reason(answer))]
        if self._with_usage:
            last.append({**self._head, "object": self.chunk_object, "choices": [], "usage": _usage([answer])})
        return last

    def _empty(self) -> dict[str, Any]:
        return {"delta": {}}

    def _chunk(self, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, **content, "finish_reason": reason, "logprobs": None}
        usage = {"usage": None} if self._with_usage else {}
        return {**self._head, "object": self.chunk_object, "choices": [choice], **usage}


class _Text(_Chat):
    """The objects of a text completion."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl-"

    def opening(self) -> list[dict[str, Any]]:
        return []

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"text": text})

    def _empty(self) -> dict[str, Any]:
        return {"text": ""}


def _stream(chunks: _Chat, question: AnswerRequest, serving: Serving) -> StreamingResponse:
    stream = serving.stream(question)
    return sse.EventResponse(_events(chunks, stream), stream)


async def _events(chunks: _Chat, stream: AnswerStream) -> AsyncGenerator[bytes, None]:
    try:
        for chunk in chunks.opening():
            yield sse.event(chunk)
        async for piece in stream:
            for chunk in [chunks.piece(piece)] if isinstance(piece, str) else chunks.closing(piece.answer):
                yield sse.event(chunk)
        yield DONE
    except ServerError as exc:  # the response has begun: openai-python raises on this event
        yield sse.event(openai_error(exc.status, exc.code, exc.sentence))
