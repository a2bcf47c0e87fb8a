"""How a loaded model is asked: through its own batching where it has it, else through a bounded number of threads.

Both give the same three calls (`ask`, `stream`, `close`) to the predictor; neither knows HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

THREADS = 4  # of a model that has no batching of its own


class Answerer(Protocol):
    """What the predictor needs of a model."""

    golden: Sequence[Mapping[str, Any]]  # question, token_ids, max_new_tokens; may be empty
    prompt: Mapping[str, Any]  # name and version; may be empty

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one question."""

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Answer one question piece by piece: `{"delta": text}`, the last piece with the whole answer's fields."""

    def is_healthy(self) -> bool:
        """Whether it can answer now."""

    def describe(self) -> Mapping[str, Any]:
        """The engine, for people."""

    def close(self) -> None:
        """End what it runs."""


class EngineAnswerer:
    """A model of ours: its engine joins all callers, and no thread waits for an answer.

    Args:
        model: the `QuestionModel` of a packaged model; known here by its methods only.
    """

    def __init__(self, model: Any):
        self._model = model
        self.golden, self.prompt = model.golden, model.prompt

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        return (await self._model.ask(dict(question), dict(params)))[0]

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        return self._model.ask_stream(dict(question), dict(params))

    def is_healthy(self) -> bool:
        return self._model.is_healthy()

    def describe(self) -> Mapping[str, Any]:
        return self._model.describe()

    def close(self) -> None:
        self._model.close()


class ThreadAnswerer:
    """Any other PyFunc: its `predict`, on a bounded number of threads."""

    def __init__(self, pyfunc: Any, threads: int = THREADS):
        self._pyfunc, self._threads = pyfunc, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="answer")
        self.golden: Sequence[Mapping[str, Any]] = ()
        self.prompt: Mapping[str, Any] = {}

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        answers = await asyncio.wrap_future(self._pool.submit(self._predict, question, params))
        answer = answers[0]
        return answer if isinstance(answer, Mapping) else {"answer": str(answer)}

    async def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """The whole answer as one piece: such a model makes it in one go."""
        answer = await self.ask(question, params)
        yield {"delta": answer["answer"]}
        yield {"delta": "", **answer}

    def is_healthy(self) -> bool:
        return True

    def describe(self) -> Mapping[str, Any]:
        return {"name": "pyfunc", "threads": self._threads, "reason": "the model has no batching of its own"}

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _predict(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> list:
        return list(self._pyfunc.predict([dict(question)], params=dict(params)))


def answerer_of(pyfunc: Any) -> Answerer:
    """The quick way in where the model has one."""
    model = getattr(pyfunc.unwrap_python_model(), "model", None)
    return EngineAnswerer(model) if hasattr(model, "ask") else ThreadAnswerer(pyfunc)
