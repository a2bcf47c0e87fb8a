"""How a loaded model is asked: through its own batching where it has it, else through a bounded number of threads.

Both give the same calls to the predictor; neither knows HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from mlflow.exceptions import MlflowException

from genai_server.errors import BadQuestion

THREADS = 4  # of a model that has no batching of its own
SCORING_THREADS = 64  # of /invocations on one that has: they only wait


class Answerer(Protocol):
    """What the predictor needs of a model."""

    golden: Sequence[Mapping[str, Any]]  # question, token_ids, max_new_tokens; may be empty
    prompt: Mapping[str, Any]  # name and version; may be empty
    pyfunc: Any  # MLflow's model, for /invocations
    pool: ThreadPoolExecutor  # where `pyfunc` may be called

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one question; `{"text": …}` in place of `{"question": …}` is continued as it stands."""

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Answer one question piece by piece: `{"delta": text}`, the last piece with the whole answer's fields."""

    def is_healthy(self) -> bool:
        """Whether it can answer now."""

    def load(self) -> Any:
        """running, waiting, cancelled and restarts, or None where nobody counts them."""

    def describe(self) -> Mapping[str, Any]:
        """The engine, for people."""

    def close(self) -> None:
        """End what it runs."""

    def close_when_idle(self) -> None:
        """The same, once the questions under way are answered."""


class _Counting:
    """Knows how many questions are under way, to close after the last one."""

    def __init__(self) -> None:
        self._under_way, self._closing = 0, False

    def close_when_idle(self) -> None:
        self._closing = True
        self._close_if_idle()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self._under_way:
            self.close()


class EngineAnswerer(_Counting):
    """A model of ours: its engine joins all callers, and no thread waits for an answer."""

    def __init__(self, pyfunc: Any, model: Any):
        super().__init__()
        self.pyfunc, self._model = pyfunc, model  # a `QuestionModel`, known here by its methods only
        self.golden, self.prompt = model.golden, model.prompt
        self.pool = ThreadPoolExecutor(SCORING_THREADS, thread_name_prefix="scoring")

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._counted():
            if "text" in question:
                return await self._model.continue_text(question["text"], dict(params))
            return (await self._model.ask(dict(question), dict(params)))[0]

    async def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        with self._counted():
            if "text" in question:
                pieces = self._model.continue_text_stream(question["text"], dict(params))
            else:
                pieces = self._model.ask_stream(dict(question), dict(params))
            async for piece in pieces:
                yield piece

    def is_healthy(self) -> bool:
        return self._model.is_healthy()

    def load(self) -> Any:
        return self._model.engine_load()

    def describe(self) -> Mapping[str, Any]:
        return self._model.describe()

    def close(self) -> None:
        self.pool.shutdown(wait=False)
        self._model.close()


class ThreadAnswerer(_Counting):
    """Any other PyFunc: its `predict`, on a bounded number of threads."""

    def __init__(self, pyfunc: Any, threads: int = THREADS):
        super().__init__()
        self.pyfunc, self._threads = pyfunc, threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="answer")
        self.golden: Sequence[Mapping[str, Any]] = ()
        self.prompt: Mapping[str, Any] = {}

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        if "text" in question:
            raise BadQuestion("This model answers questions; it cannot continue a plain text.")
        with self._counted():
            answers = await asyncio.wrap_future(self.pool.submit(self._predict, question, params))
        answer = answers[0]
        return answer if isinstance(answer, Mapping) else {"answer": str(answer)}

    async def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """The whole answer as one piece: such a model makes it in one go."""
        answer = await self.ask(question, params)
        if answer["answer"]:
            yield {"delta": answer["answer"]}
        yield {"delta": "", **answer}

    def is_healthy(self) -> bool:
        return True

    def load(self) -> None:
        return None

    def describe(self) -> Mapping[str, Any]:
        return {"name": "pyfunc", "threads": self._threads, "reason": "the model has no batching of its own"}

    def close(self) -> None:
        self.pool.shutdown(wait=False)

    def _predict(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> list:
        return list(self.pyfunc.predict([dict(question)], params=dict(params)))


def answerer_of(pyfunc: Any) -> Answerer:
    """The quick way in where the model has one."""
    model = None
    with suppress(MlflowException):  # of another flavor than MLflow's PythonModel
        model = getattr(pyfunc.unwrap_python_model(), "model", None)
    return EngineAnswerer(pyfunc, model) if hasattr(model, "ask") else ThreadAnswerer(pyfunc)
