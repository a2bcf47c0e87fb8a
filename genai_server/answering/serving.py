"""One question on its way through the server: a slot, the deadline, the model, the metrics and the trace.

The routes translate between HTTP and this; which model answers is the predictor's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from mlflow.exceptions import MlflowException

from genai_server.answer import Answer, AnswerVersions, ServedAnswer
from genai_server.answer_request import AnswerRequest
from genai_server.answering.predictor import LoadedModel, Predictor
from genai_server.errors import BadQuestion, ClientDisconnected, Conflict, EngineDown, ServerError, UnknownPrompt
from genai_server.prompts.selection import MODEL, OWN_ONLY, QUESTION, Prompts, PromptText, render
from genai_server.runtime.metrics import Metrics
from genai_server.tracing.tracer import Tracer


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What one answer is made with."""

    request: AnswerRequest
    model: LoadedModel
    prompt: PromptText | None  # None = the model's own
    versions: AnswerVersions
    started_ns: int


class Serving:
    """The predictor with everything that happens around an answer."""

    def __init__(
        self, predictor: Predictor, metrics: Metrics, tracer: Tracer, timeout_s: float, prompts: Prompts = OWN_ONLY
    ):
        self.predictor, self.metrics, self.tracer, self._timeout_s = predictor, metrics, tracer, timeout_s
        self.prompts = prompts

    @property
    def model_prompt_name(self) -> str:
        """Of the prompt that is frozen in the model. Raises NotReady, or UnknownPrompt where there is none."""
        prompt = self.predictor.loaded.answerer.prompt
        if prompt is None:
            raise UnknownPrompt("This model has no prompt of its own.", "Send prompt_name.")
        return prompt.name

    @contextmanager
    def batch(self, count: int) -> Iterator[int]:
        """Slots for the questions of one request, and the group in which they take turns with other requests'."""
        with self.predictor.slots.hold(count):
            model = self.predictor.model
            yield model.answerer.new_group() if model else 0

    async def answer(self, request: AnswerRequest) -> ServedAnswer:
        """The whole answer, with the versions that made it. Raises ServerError."""
        with self._context(request) as context:
            group = request.group or 0
            answer = await context.model.answerer.ask(_question(context), self._params(request), group)
        return self._finish(context, answer)

    def stream(self, request: AnswerRequest) -> AnswerStream:
        """An answer piece by piece; whatever can be refused is refused here. Raises ServerError."""
        return AnswerStream(self, request)

    @contextmanager
    def _context(self, request: AnswerRequest) -> Iterator[AnswerContext]:
        """A slot, the model and the prompt; what goes wrong is counted, traced and raised."""
        started_ns = time.time_ns()
        with self.predictor.accepted(slots=1 if request.group is None else 0) as model:
            prompt = self._prompt(request, model)
            versions = versions_of(model, prompt)
            request.headers.update({"X-Prompt-Version": versions.prompt, "X-Prompt-Source": versions.prompt_source})
            is_own = prompt is None or (request.prompt is None and _is_frozen(prompt, model))
            context = AnswerContext(request, model, None if is_own else prompt, versions, started_ns)
            with self._failures_recorded(context), model_errors_translated():
                yield context

    def _prompt(self, request: AnswerRequest, model: LoadedModel) -> PromptText | None:
        """The prompt that the caller named, else the one in use; none for a text that is only continued."""
        if request.prompt is not None and not model.answerer.takes_prompts:
            raise Conflict("This model answers with its own prompt only.", "Leave prompt and variables out.")
        return None if "text" in request.question else request.prompt or self.prompt_in_use(model)

    def prompt_in_use(self, model: LoadedModel) -> PromptText | None:
        """The prompt in production, where the model has one of that name and takes it; None for the model's own."""
        own = model.answerer.prompt
        prompt = self.prompts.current(own.name if own else None)
        is_usable = prompt is not None and (model.answerer.takes_prompts or _is_frozen(prompt, model))
        return prompt if is_usable else None

    @contextmanager
    def _failures_recorded(self, context: AnswerContext) -> Iterator[None]:
        """Counts a caller who disconnects, and traces what fails; both are raised on."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.cancelled()
            self._trace_failure(context, ClientDisconnected.code)
            raise
        except Exception as exc:
            self._trace_failure(context, exc.code if isinstance(exc, ServerError) else type(exc).__name__)
            raise

    def _trace_failure(self, context: AnswerContext, error_type: str) -> None:
        self.tracer.failed(context.request, error_type, context.versions, context.started_ns, time.time_ns())

    def _params(self, request: AnswerRequest) -> dict[str, Any]:
        """The caller's deadline where it is shorter than the server's."""
        timeout_s = request.params.get("timeout_s", self._timeout_s)
        return {**request.params, "timeout_s": min(timeout_s, self._timeout_s)}

    def _finish(self, context: AnswerContext, answer: Answer) -> ServedAnswer:
        self.metrics.answer(answer)
        self.tracer.answered(context.request, answer, context.versions, context.started_ns, time.time_ns())
        return ServedAnswer(answer, context.versions, context.request.request_id)


class AnswerStream:
    """One answer piece by piece: texts as they come, then the whole answer.

    It holds its slot from the start until it is closed, or has come to its end.
    """

    def __init__(self, serving: Serving, request: AnswerRequest):
        self._serving = serving
        with ExitStack() as stack:
            self._context = stack.enter_context(serving._context(request))
            self._pieces = self._context.model.answerer.stream(_question(self._context), serving._params(request))
            self._stack = stack.pop_all()
        self._iterator = self._iterate()

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> str | ServedAnswer:
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """Stop the generation and give the slot back; does nothing where the answer is whole."""
        await self._iterator.aclose()
        await self._close(GeneratorExit())

    async def _iterate(self) -> AsyncGenerator[str | ServedAnswer, None]:
        try:
            async for piece in self._pieces:
                if isinstance(piece, Answer):
                    served = self._serving._finish(self._context, piece)
                    await self._close()
                    yield served
                    return
                yield piece
        except BaseException as exc:
            await self._close(exc)
            raise

    async def _close(self, cause: BaseException | None = None) -> None:
        """With the cause of a bad end: the contexts on the stack count, trace and translate it."""
        stack, self._stack = self._stack, ExitStack()
        try:
            await self._pieces.aclose()
        finally:
            stack.__exit__(type(cause) if cause else None, cause, None)


def versions_of(model: LoadedModel, prompt: PromptText | None) -> AnswerVersions:
    """Of an answer that the model makes with the prompt; None is the model's own."""
    info = model.info
    if prompt is None:
        return AnswerVersions(info.model, info.model_version, info.prompt, MODEL)
    return AnswerVersions(info.model, info.model_version, str(prompt), prompt.source)


def _is_frozen(prompt: PromptText, model: LoadedModel) -> bool:
    """Whether the model's own prompt has the same text."""
    return model.answerer.prompt is not None and model.answerer.prompt.template == prompt.template


def _question(context: AnswerContext) -> dict[str, Any]:
    """For the answerer: the question, in the text of the prompt where that is not the model's own.

    A prompt is for a first question; later turns go to the model without one.
    """
    request, prompt = context.request, context.prompt
    question, text = dict(request.question), request.question.get(QUESTION)
    if request.prompt is not None and question.get("history"):
        raise BadQuestion("A prompt is for a first question.", "Leave the history or the prompt out.")
    if prompt is None or question.get("history"):
        return question
    if text is not None and not text.strip():
        raise BadQuestion("A question is empty; write some text.")
    values = dict(request.variables) if text is None else {**request.variables, QUESTION: text}
    return {**question, "rendered": render(prompt, values)}


@contextmanager
def model_errors_translated() -> Iterator[None]:
    """MLflow's exceptions, which the model raises, as the server's own."""
    try:
        yield
    except MlflowException as exc:
        if exc.error_code == "INVALID_PARAMETER_VALUE":
            raise BadQuestion(exc.message) from exc
        raise EngineDown(exc.message, "Ask again in a few seconds.") from exc


def serving_of(request: Request) -> Serving:
    """The app's own."""
    serving: Serving = request.app.state.serving
    return serving
