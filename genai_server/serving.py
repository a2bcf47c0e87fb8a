"""One question on its way through the server: a place, the deadline, the model, the metrics and the trace.

The routes translate between HTTP and this; which model answers is the predictor's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request
from mlflow.exceptions import MlflowException

from genai_server.errors import BadQuestion, CallerLeft, Conflict, EngineDown, NotReady, ServerError, UnknownPrompt
from genai_server.metrics import Metrics
from genai_server.predictor import LoadedModel, Predictor
from genai_server.prompts import MODEL, OWN_ONLY, QUESTION, Prompts, PromptText, filled
from genai_server.tracing import Tracer

VERSIONS = ("model", "model_version", "prompt", "prompt_source")  # of the model's info, on every answer


@dataclass(frozen=True)
class Asked:
    """What a caller asked for."""

    question: Mapping[str, Any]  # question and history, or a text to continue
    params: Mapping[str, Any]
    request_id: str
    operation: str  # ask | chat | text_completion
    traceparent: str | None = None
    prompt: PromptText | None = None  # that the caller named
    variables: Mapping[str, str] = field(default_factory=dict)  # beside the question
    headers: dict[str, str] = field(default_factory=dict)  # of the response: who answers is written there


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

    async def answer(self, asked: Asked) -> dict[str, Any]:
        """The whole answer, with the versions that gave it. Raises ServerError."""
        started_ns = time.time_ns()
        with self._accepted(asked) as (model, prompt), self._told(asked, model, started_ns), in_our_words():
            answer = await model.answerer.ask(_question(asked, prompt), self._params(asked))
        return self._done(asked, answer, model, started_ns)

    async def stream(self, asked: Asked) -> AsyncIterator[dict[str, Any]]:
        """`{"delta": text}` as it comes, then the whole answer. Closing the iterator stops the generation."""
        started_ns = time.time_ns()
        with self._accepted(asked) as (model, prompt), self._told(asked, model, started_ns), in_our_words():
            pieces, whole = model.answerer.stream(_question(asked, prompt), self._params(asked)), {}
            try:
                async for piece in pieces:
                    if not piece["delta"]:
                        whole = self._done(asked, piece, model, started_ns)
                        break
                    yield dict(piece)
            finally:
                await pieces.aclose()
        yield whole

    @contextmanager
    def _accepted(self, asked: Asked) -> Iterator[tuple[LoadedModel, PromptText | None]]:
        """A place, the model with the prompt it will say it used, and that prompt where it is not the model's own."""
        with self.predictor.accepted() as model:
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
    def _told(self, asked: Asked, model: LoadedModel, started_ns: int) -> Iterator[None]:
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

    def _params(self, asked: Asked) -> dict[str, Any]:
        """The caller's deadline where it is shorter than the server's."""
        wanted = asked.params.get("timeout_s", self._timeout_s)
        return {**asked.params, "timeout_s": min(wanted, self._timeout_s)}

    def _done(self, asked: Asked, answer: Mapping[str, Any], model: LoadedModel, started_ns: int) -> dict[str, Any]:
        self.metrics.answer(answer)
        self.tracer.answered(asked, answer, model.info, started_ns, time.time_ns())
        return {**answer, **{name: model.info[name] for name in VERSIONS}, "request_id": asked.request_id}


def told_of(model: LoadedModel, prompt: PromptText | None) -> dict[str, str]:
    """Name and source of the prompt; None is the model's own."""
    if prompt is None:
        return {"prompt": model.info["prompt"], "prompt_source": MODEL}
    return {"prompt": str(prompt), "prompt_source": prompt.source}


def _has_text_of(model: LoadedModel, prompt: PromptText) -> bool:
    return model.answerer.prompt.get("template") == prompt.template


def _question(asked: Asked, prompt: PromptText | None) -> dict[str, Any]:
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
