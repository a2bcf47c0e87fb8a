"""How a loaded model is asked: through its own batching where it has it, else through a bounded number of threads.

Both give the same calls to the predictor; neither knows HTTP.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from genai_server.answer import Answer
from genai_server.answering.model_output import (
    GoldenQuestion,
    ModelPrompt,
    answer_of,
    golden_of,
    load_of,
    pieces_of,
    prompt_of,
    rows_of,
)  # fmt: skip
from genai_server.errors import BadQuestion, ModelFailed, ModelTimeout
from genai_server.runtime.daemon import PREFIX
from genai_server.runtime.metrics import EngineLoad

log = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 4  # of a model that has no batching of its own
DEFAULT_TIMEOUT_S = 60.0  # where a caller names none, as for golden questions
STUCK_AFTER_S = 300.0  # past its deadline; a model whose every thread is stuck has failed
SCORING_THREADS = 64  # of /invocations on one that has: they only wait


class Answerer(Protocol):
    """What the predictor needs of a model."""

    golden: Sequence[GoldenQuestion]  # may be empty
    prompt: ModelPrompt | None
    takes_prompts: bool  # whether a question may have the field `rendered`: the whole prompt, in place of its own

    def new_group(self) -> int:
        """A number for the questions of one request, so that they take turns with other requests'."""

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any], group: int = 0) -> Answer:
        """Answer one question; `{"text": …}` in place of `{"question": …}` is continued as it stands."""

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncGenerator[str | Answer, None]:
        """Answer one question piece by piece: texts, and at the end the whole answer.

        What is wrong with the question or the parameters is raised here, before the first piece.
        """

    def scoring(self) -> Scoring:
        """The model for one request of /invocations."""

    async def score(self, call: Callable[[], T], timeout_s: float) -> T:
        """What `call`, which uses `scoring()`, returns, from a thread. Raises ModelTimeout."""

    def is_healthy(self) -> bool:
        """Whether it can answer now."""

    def failure(self) -> str:
        """Why it will never answer again; empty while it can."""

    def load(self) -> EngineLoad | None:
        """How busy it is; None where nobody counts."""

    def describe(self) -> Mapping[str, str | int | None]:
        """The engine, for people."""

    def close(self) -> None:
        """End what it runs."""


class Scoring:
    """MLflow's model for one request: it predicts on a thread, and may be stopped from the event loop."""

    def __init__(self, pyfunc: PyFuncModel, model: Any = None):
        """`model`: a `QuestionModel` that lets itself be stopped, under MLflow's own checks of what comes in."""
        self.metadata = pyfunc.metadata
        self._pyfunc = PyFuncModel(pyfunc.metadata, _Stoppable(model, self._on_start)) if model else pyfunc
        self._stop: Callable[[], None] | None = None
        self.is_stopped = False

    def predict(self, data: Any, params: Any = None) -> Any:
        return self._pyfunc.predict(data, params=params)

    def stop(self) -> None:
        """End the answers after the step under way; a model that is not ours goes on, and nobody waits for it."""
        self.is_stopped = True
        if self._stop:
            self._stop()

    def _on_start(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        if self.is_stopped:  # before it began
            stop()


class _Stoppable:
    """A `QuestionModel` in the form that MLflow's PyFuncModel calls."""

    def __init__(self, model: Any, on_start: Callable[[Callable[[], None]], None]):
        self._model, self._on_start = model, on_start

    def predict(self, model_input: Any, params: Any = None) -> Any:
        return self._model.answer(model_input, params, on_start=self._on_start)


class EngineAnswerer:
    """A packaged model: its engine batches all callers, and no thread waits for an answer."""

    def __init__(self, pyfunc: Any, model: Any):
        self._pyfunc, self._model = pyfunc, model  # a `QuestionModel`, known here by its methods only
        self.golden: Sequence[GoldenQuestion] = [golden_of(item) for item in model.golden]
        self.prompt: ModelPrompt | None = prompt_of(model.prompt) if model.prompt else None
        self._pool = ThreadPoolExecutor(SCORING_THREADS, thread_name_prefix=f"{PREFIX}scoring")
        # versions registered earlier cannot be stopped, take no prompt, know no groups and report no failure
        self._can_stop = "on_start" in inspect.signature(model.answer).parameters
        self.takes_prompts = "is_rendered" in inspect.signature(model.ask).parameters
        self._knows_groups = hasattr(model, "new_group")
        self._failure = getattr(model, "failure", str)

    def new_group(self) -> int:
        return self._model.new_group() if self._knows_groups else 0

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any], group: int = 0) -> Answer:
        grouping: dict[str, Any] = {"group": group} if self._knows_groups else {}
        if "text" in question:
            return answer_of(await self._model.continue_text(question["text"], dict(params), **grouping))
        turn, rendering = _turn_of(question)
        return answer_of((await self._model.ask(turn, dict(params), **grouping, **rendering))[0])

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncGenerator[str | Answer, None]:
        if "text" in question:
            return pieces_of(self._model.continue_text_stream(question["text"], dict(params)))
        turn, rendering = _turn_of(question)
        return pieces_of(self._model.ask_stream(turn, dict(params), **rendering))

    def scoring(self) -> Scoring:
        return Scoring(self._pyfunc, self._model if self._can_stop else None)

    async def score(self, call: Callable[[], T], timeout_s: float) -> T:
        """The model keeps its own deadline, and gives the answers so far."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def is_healthy(self) -> bool:
        return bool(self._model.is_healthy())

    def failure(self) -> str:
        return self._failure()

    def load(self) -> EngineLoad:
        return load_of(self._model.engine_load())

    def describe(self) -> Mapping[str, str | int | None]:
        return dict(self._model.describe())

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        self._model.close()


def _turn_of(question: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """The model's input, and whether its own prompt stays out because the question is the whole text already."""
    turn = dict(question)
    if (rendered := turn.pop("rendered", None)) is None:
        return turn, {}
    return {**turn, "question": rendered}, {"is_rendered": True}


class ThreadAnswerer:
    """Any other PyFunc: its `predict`, on a bounded number of threads.

    Nobody can stop such a model: at the deadline its caller gets an error, and the thread is lost until it is back.
    """

    def __init__(self, pyfunc: Any, threads: int = THREADS):
        self._pyfunc, self._threads = pyfunc, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"{PREFIX}answer")
        self._overdue: dict[Future[Any], float] = {}  # calls that run past their deadline -> when that was
        self.golden: Sequence[GoldenQuestion] = ()
        self.prompt: ModelPrompt | None = None
        self.takes_prompts = False

    def new_group(self) -> int:
        return 0

    async def ask(self, question: Mapping[str, Any], params: Mapping[str, Any], group: int = 0) -> Answer:
        _require_question(question)
        timeout_s = params.get("timeout_s", DEFAULT_TIMEOUT_S)
        return await self.score(lambda: self._predict(question, params), timeout_s)

    def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncGenerator[str | Answer, None]:
        _require_question(question)
        return self._as_one_piece(question, params)

    async def _as_one_piece(
        self, question: Mapping[str, Any], params: Mapping[str, Any]
    ) -> AsyncGenerator[str | Answer, None]:
        """Such a model makes the answer in one go."""
        answer = await self.ask(question, params)
        if answer.text:
            yield answer.text
        yield answer

    def scoring(self) -> Scoring:
        return Scoring(self._pyfunc)

    async def score(self, call: Callable[[], T], timeout_s: float) -> T:
        running = self._pool.submit(call)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(running), timeout_s)
        except TimeoutError as exc:
            if running.running():
                self._overdue[running] = time.monotonic()
                running.add_done_callback(lambda done: self._overdue.pop(done, None))
            sentence = f"The model did not answer within {timeout_s:g} s."
            raise ModelTimeout(sentence, "Ask for less, or raise REQUEST_TIMEOUT_S.") from exc

    def is_healthy(self) -> bool:
        """Whether a thread is left."""
        return len(self._overdue) < self._threads

    def failure(self) -> str:
        overdue = list(self._overdue.values())
        if len(overdue) < self._threads or time.monotonic() - max(overdue) < STUCK_AFTER_S:
            return ""
        return f"All {self._threads} threads of the model are stuck since {STUCK_AFTER_S:.0f} s."

    def load(self) -> None:
        return None

    def describe(self) -> Mapping[str, str | int | None]:
        return {"name": "pyfunc", "threads": self._threads, "reason": "the model has no batching of its own"}

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _predict(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Answer:
        try:
            rows = rows_of(self._pyfunc.predict([dict(question)], params=dict(params)))
        except MlflowException:
            raise
        except Exception as exc:  # somebody else's code may raise anything
            log.exception("the model failed")
            raise ModelFailed("The model failed.", "The log names the cause.") from exc
        if not rows:
            raise ModelFailed("The model gave no answer.")
        return answer_of(rows[0])


def _require_question(question: Mapping[str, Any]) -> None:
    if "text" in question:
        raise BadQuestion("This model answers questions; it cannot continue a plain text.")


def answerer_of(pyfunc: Any) -> Answerer:
    """Through the model's own batching where it has it."""
    model = None
    with suppress(MlflowException):  # of another flavor than MLflow's PythonModel
        model = getattr(pyfunc.unwrap_python_model(), "model", None)
    return EngineAnswerer(pyfunc, model) if hasattr(model, "ask") else ThreadAnswerer(pyfunc)
