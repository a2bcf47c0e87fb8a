"""One question on its way through the server: a place, the deadline, the model, the metrics and the trace.

The routes translate between HTTP and this; which model answers is the predictor's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from fastapi import Request
from mlflow.exceptions import MlflowException

from genai_server.answer_request import AnswerRequest
from genai_server.answering.predictor import LoadedModel, Predictor
from genai_server.errors import BadQuestion, CallerLeft, Conflict, EngineDown, NotReady, ServerError, UnknownPrompt
from genai_server.prompts.selection import MODEL, OWN_ONLY, QUESTION, Prompts, PromptText, filled
from genai_server.runtime.metrics import Metrics
from genai_server.tracing.tracer import Tracer

VERSIONS = ("model", "model_version", "prompt", "prompt_source")  # of the model's info, on every answer


class Serving:
    """The predictor with everything that happens around an answer."""

    def __init__(
        self, predictor: Predictor, metrics: Metrics, tracer: Tracer, timeout_s: float, prompts: Prompts = OWN_ONLY
    ):
        self.predictor, self.metrics, self.tracer, self._timeout_s = predictor, metrics, tracer, timeout_s
        self.prompts = prompts

    @property
    def info(self) -> Mapping[str, Any]:
        """Who answers now. Raises NotReady while nobody does."""
        if self.predictor.model is None:
            raise NotReady(f"The model is {self.predictor.status}.", "Ask again when /health/ready answers 200.")
        return self.predictor.model.info

    @property
    def own_prompt(self) -> str:
        """Name of the prompt that is frozen in the model. Raises NotReady, or UnknownPrompt where there is none."""
        _ = self.info
        name = self.predictor.model.answerer.prompt.get("name")
        if not name:
            raise UnknownPrompt("This model has no prompt of its own.", "Send prompt_name.")
        return name

    @contextmanager
    def together(self, count: int) -> Iterator[int]:
        """Places for the questions of one request, and the group in which they take turns with other requests'."""
        with self.predictor.places.take(count):
            model = self.predictor.model
            yield model.answerer.new_group() if model else 0

    async def answer(self, asked: AnswerRequest) -> dict[str, Any]:
        """The whole answer, with the versions that gave it. Raises ServerError."""
        with self._answering(asked) as (model, prompt, started_ns):
            answer = await model.answerer.ask(_question(asked, prompt), self._params(asked), asked.group or 0)
        return self._done(asked, answer, model, started_ns)

    def stream(self, asked: AnswerRequest) -> AnswerStream:
        """An answer piece by piece; whatever can be refused is refused here. Raises ServerError."""
        return AnswerStream(self, asked)

    @contextmanager
    def _answering(self, asked: AnswerRequest) -> Iterator[tuple[LoadedModel, PromptText | None, int]]:
        """A place, the model and the prompt, and when it began; what goes wrong is counted, traced and raised."""
        started_ns = time.time_ns()
        with self._accepted(asked) as (model, prompt), self._told(asked, model, started_ns), in_our_words():
            yield model, prompt, started_ns

    @contextmanager
    def _accepted(self, asked: AnswerRequest) -> Iterator[tuple[LoadedModel, PromptText | None]]:
        """A place, the model with the prompt it will say it used, and that prompt where it is not the model's own."""
        with self.predictor.accepted(places=1 if asked.group is None else 0) as model:
            is_asked = "text" not in asked.question  # a text to continue has no prompt
            prompt = (asked.prompt or self.prompt_in_use(model)) if is_asked else None
            if asked.prompt is not None and not model.answerer.takes_prompts:
                raise Conflict("This model answers with its own prompt only.", "Leave prompt and variables out.")
            told = told_of(model, prompt)
            asked.headers.update({"X-Prompt-Version": told["prompt"], "X-Prompt-Source": told["prompt_source"]})
            is_own = prompt is None or (asked.prompt is None and _has_text_of(model, prompt))
            yield replace(model, info={**model.info, **told}), None if is_own else prompt

    def prompt_in_use(self, model: LoadedModel) -> PromptText | None:
        """The prompt in production, where the model has one of that name and takes it; None for the model's own."""
        prompt = self.prompts.current(model.answerer.prompt.get("name"))
        is_taken = prompt is not None and (model.answerer.takes_prompts or _has_text_of(model, prompt))
        return prompt if is_taken else None

    @contextmanager
    def _told(self, asked: AnswerRequest, model: LoadedModel, started_ns: int) -> Iterator[None]:
        """Counts a caller who leaves, and traces what fails; both are raised on."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.left()
            self.tracer.failed(asked, CallerLeft.code, model.info, started_ns, time.time_ns())
            raise
        except Exception as exc:
            kind = exc.code if isinstance(exc, ServerError) else type(exc).__name__
            self.tracer.failed(asked, kind, model.info, started_ns, time.time_ns())
            raise

    def _params(self, asked: AnswerRequest) -> dict[str, Any]:
        """The caller's deadline where it is shorter than the server's."""
        wanted = asked.params.get("timeout_s", self._timeout_s)
        return {**asked.params, "timeout_s": min(wanted, self._timeout_s)}

    def _done(
        self, asked: AnswerRequest, answer: Mapping[str, Any], model: LoadedModel, started_ns: int
    ) -> dict[str, Any]:
        self.metrics.answer(answer)
        self.tracer.answered(asked, answer, model.info, started_ns, time.time_ns())
        return {**answer, **{name: model.info[name] for name in VERSIONS}, "request_id": asked.request_id}


class AnswerStream:
    """One answer piece by piece: `{"delta": text}` as it comes, then the whole answer.

    It holds its place from the start until it is closed, or has come to its end.
    """

    def __init__(self, serving: Serving, asked: AnswerRequest):
        self._serving, self._asked = serving, asked
        with ExitStack() as stack:
            model, prompt, started_ns = stack.enter_context(serving._answering(asked))
            pieces = model.answerer.stream(_question(asked, prompt), serving._params(asked))
            self._model, self._pieces, self._started_ns = model, pieces, started_ns
            self._held = stack.pop_all()
        self._iterator = self._iterate()

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """Stop the generation and give the place back; does nothing where the answer is whole."""
        await self._iterator.aclose()
        await self._end(GeneratorExit())

    async def _iterate(self) -> AsyncIterator[dict[str, Any]]:
        try:
            async for piece in self._pieces:
                if not piece["delta"]:
                    whole = self._serving._done(self._asked, piece, self._model, self._started_ns)
                    await self._end()
                    yield whole
                    return
                yield dict(piece)
        except BaseException as exc:
            await self._end(exc)
            raise

    async def _end(self, cause: BaseException | None = None) -> None:
        """With the cause, where it is no good end: the held contexts count, trace and translate it."""
        held, self._held = self._held, ExitStack()
        try:
            await self._pieces.aclose()
        finally:
            held.__exit__(type(cause) if cause else None, cause, None)


def told_of(model: LoadedModel, prompt: PromptText | None) -> dict[str, str]:
    """Name and source of the prompt; None is the model's own."""
    if prompt is None:
        return {"prompt": model.info["prompt"], "prompt_source": MODEL}
    return {"prompt": str(prompt), "prompt_source": prompt.source}


def _has_text_of(model: LoadedModel, prompt: PromptText) -> bool:
    return model.answerer.prompt.get("template") == prompt.template


def _question(asked: AnswerRequest, prompt: PromptText | None) -> dict[str, Any]:
    """For the answerer: the question, in the text of the prompt where that is not the model's own.

    A prompt is for a first question: later turns speak for themselves.
    """
    question, given = dict(asked.question), asked.question.get(QUESTION)
    if asked.prompt is not None and question.get("history"):
        raise BadQuestion("A prompt is for a first question.", "Leave the history or the prompt out.")
    if prompt is None or question.get("history"):
        return question
    if given is not None and not given.strip():
        raise BadQuestion("A question is empty; write some text.")
    values = {**asked.variables} if given is None else {**asked.variables, QUESTION: given}
    return {**question, "rendered": filled(prompt, values)}


@contextmanager
def in_our_words() -> Iterator[None]:
    """MLflow's exceptions, which the model raises, as the server's own."""
    try:
        yield
    except MlflowException as exc:
        if exc.error_code == "INVALID_PARAMETER_VALUE":
            raise BadQuestion(exc.message) from exc
        raise EngineDown(exc.message, "Ask again in a few seconds.") from exc


def serving_of(request: Request) -> Serving:
    """The app's own."""
    return request.app.state.serving
