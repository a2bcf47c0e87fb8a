"""One question on its way through the server: a place, the deadline, the model, the metrics and the trace.

The routes translate between HTTP and this; which model answers is the predictor's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from mlflow.exceptions import MlflowException

from genai_server.errors import BadQuestion, EngineDown, NotReady
from genai_server.metrics import Metrics
from genai_server.predictor import LoadedModel, Predictor
from genai_server.tracing import Tracer

VERSIONS = ("model", "model_version", "prompt")  # of the model's info, on every answer


@dataclass(frozen=True)
class Asked:
    """What a caller asked for."""

    question: Mapping[str, Any]  # question and history, or a text to continue
    params: Mapping[str, Any]
    request_id: str
    operation: str  # ask | chat | text_completion
    traceparent: str | None = None


class Serving:
    """The predictor with everything that happens around an answer."""

    def __init__(self, predictor: Predictor, metrics: Metrics, tracer: Tracer, timeout_s: float):
        self.predictor, self.metrics, self.tracer, self._timeout_s = predictor, metrics, tracer, timeout_s

    @property
    def info(self) -> Mapping[str, Any]:
        """Who answers now. Raises NotReady while nobody does."""
        if self.predictor.model is None:
            raise NotReady(f"The model is {self.predictor.status}.", "Ask again when /health/ready answers 200.")
        return self.predictor.model.info

    async def answer(self, asked: Asked) -> dict[str, Any]:
        """The whole answer, with the versions that gave it. Raises ServerError."""
        started_ns = time.time_ns()
        with self.predictor.accepted() as model, in_our_words():
            answer = await model.answerer.ask(asked.question, self._params(asked))
        return self._done(asked, answer, model, started_ns)

    async def stream(self, asked: Asked) -> AsyncIterator[dict[str, Any]]:
        """`{"delta": text}` as it comes, then the whole answer. Closing the iterator stops the generation."""
        started_ns = time.time_ns()
        with self.predictor.accepted() as model, in_our_words():
            pieces = model.answerer.stream(asked.question, self._params(asked))
            try:
                async for piece in pieces:
                    yield dict(piece) if piece["delta"] else self._done(asked, piece, model, started_ns)
            finally:
                await pieces.aclose()

    def _params(self, asked: Asked) -> dict[str, Any]:
        """The caller's deadline where it is shorter than the server's."""
        wanted = asked.params.get("timeout_s", self._timeout_s)
        return {**asked.params, "timeout_s": min(wanted, self._timeout_s)}

    def _done(self, asked: Asked, answer: Mapping[str, Any], model: LoadedModel, started_ns: int) -> dict[str, Any]:
        self.metrics.answer(answer)
        self.tracer.answered(asked, answer, model.info, started_ns, time.time_ns())
        return {**answer, **{name: model.info[name] for name in VERSIONS}, "request_id": asked.request_id}


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
