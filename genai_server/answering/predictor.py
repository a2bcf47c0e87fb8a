"""The model behind the server: loading it, checking its golden questions, and counting the questions under way.

Knows the answerers; knows neither HTTP nor the registry.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from genai_server.answering.answerers import Answerer
from genai_server.answering.queue_slots import QueueSlots
from genai_server.errors import Conflict, EngineDown, NotReady
from genai_server.model_info import ModelInfo
from genai_server.runtime.daemon import run_in_daemon
from genai_server.runtime.memory import give_back

log = logging.getLogger(__name__)

LOADING, READY, FAILED, STOPPING = "loading", "ready", "failed", "stopping"
RETIRED_TIMEOUT_S = 65.0  # for the last questions to a version that was replaced; their own deadline is 60 s
RETIRED_POLL_S = 0.05


@dataclass(frozen=True, eq=False)  # each is itself: the same version may be loaded twice
class LoadedModel:
    """A model and what is known of it."""

    answerer: Answerer
    info: ModelInfo


class GoldenMismatch(Exception):
    """A golden question got other tokens than those recorded at deploy."""


class Predictor:
    """The model that answers, the address of the one before it, and the questions under way.

    Made at once, loaded by `start`, then it may be asked. All calls come from one event loop. No more than two models
    are loaded at any time: the one that answers, and one that takes its place or has its last questions under way.

    Args:
        load: the model at an address; may take minutes.
        resolve: an address with an alias as the one of the version that it names now; any other one as it stands.
    """

    def __init__(
        self, load: Callable[[str], LoadedModel], model_uri: str, queue_limit: int, resolve: Callable[[str], str] = str
    ):
        self._load, self._resolve, self._model_uri = load, resolve, model_uri
        self.slots = QueueSlots(queue_limit)
        self._under_way: Counter[LoadedModel] = Counter()
        self._retired: LoadedModel | None = None  # its last questions are under way
        self._loading = asyncio.Lock()
        self._stopping = False
        self.model: LoadedModel | None = None
        self.previous = ""  # address of the version before; empty = none
        self.failure = ""  # of the first load

    @property
    def status(self) -> str:
        """loading, ready, failed or stopping; an engine that is being restarted counts as loading."""
        if self._stopping:
            return STOPPING
        if self.failure or self.engine_failure:
            return FAILED
        return READY if self.model is not None and self.model.answerer.is_healthy() else LOADING

    @property
    def engine_failure(self) -> str:
        """Why the loaded model will never answer again; empty while it can."""
        return self.model.answerer.failure() if self.model is not None else ""

    # --- which model ---

    async def start(self) -> None:
        """Load the first model; afterwards `status` is ready or failed."""
        async with self._loading:
            try:
                self._swap(await self._load_checked(self._model_uri))
            except Exception as exc:  # noqa: BLE001 - a model's own code may raise anything while it loads
                self.failure = _first_line(exc)
                log.error("the model cannot be served: %s", self.failure)
            # What is loaded now stays: the collector of cycles no longer looks at it. It would, several times a
            # minute under load, and every answer and every probe would wait for 0.2 s.
            gc.freeze()

    async def reload(self, model_uri: str | None = None, *, waits: bool = False) -> LoadedModel:
        """Load another version beside the running one, check it, and let it answer from the next question on.

        A registered version that answers already is left alone: nothing is loaded, and the version before stays.

        Args:
            waits: for a version that is being loaded already, in place of a Conflict.

        Raises:
            Conflict: a version is being loaded already, or this one cannot be loaded or fails its golden questions;
                the running version goes on.
        """
        async with self._alone(waits):
            return await self._replace(model_uri or self._model_uri)

    async def rollback(self) -> LoadedModel:
        """Load the version before again, check it, and let it answer; the two change places. Raises Conflict."""
        async with self._alone(waits=False):
            if not self.previous:
                raise Conflict("There is no version to go back to.")
            return await self._replace(self.previous)

    @asynccontextmanager
    async def _alone(self, waits: bool) -> AsyncIterator[None]:
        if self._loading.locked() and not waits:
            raise Conflict("Another load is under way already.", "Ask again when it has ended.")
        async with self._loading:
            yield

    async def _replace(self, model_uri: str) -> LoadedModel:
        try:
            if self.model is not None and await self._is_loaded(self.model, model_uri):
                return self.model
            await self._wait_for_retired()
            fresh = await self._load_checked(model_uri)
        except Exception as exc:
            raise Conflict(f"The version cannot be served: {_first_line(exc)}", "The running one goes on.") from exc
        if self._stopping:
            fresh.answerer.close()
            raise NotReady("The server is stopping.", "Ask another one.")
        self._swap(fresh)
        return fresh

    async def _is_loaded(self, model: LoadedModel, model_uri: str) -> bool:
        """Whether the address names the version that answers already."""
        if not model.answerer.is_healthy():
            return False
        return await run_in_daemon(lambda: self._resolve(model_uri)) == model.info.version_uri

    def _swap(self, fresh: LoadedModel) -> None:
        former, self.model = self.model, fresh
        self.failure = ""
        log.info("now answering: %s", fresh.info)
        if former is not None:
            self.previous = former.info.version_uri or former.info.model_uri
            self._retired = former
            self._close_if_idle(former)

    def _close_if_idle(self, model: LoadedModel) -> None:
        """End a retired model after its last question."""
        if model is self._retired and not self._under_way[model]:
            self._close_retired()

    async def _wait_for_retired(self) -> None:
        """Let the last questions to the version before end; after RETIRED_TIMEOUT_S it is closed under them."""
        end = time.monotonic() + RETIRED_TIMEOUT_S
        while self._retired is not None and time.monotonic() < end:
            await asyncio.sleep(RETIRED_POLL_S)
        self._close_retired()

    def _close_retired(self) -> None:
        retired, self._retired = self._retired, None
        if retired is not None:
            # on a thread: an engine takes up to seconds to end, and the event loop has questions to carry
            threading.Thread(target=_close_all, args=([retired.answerer],), name="close", daemon=True).start()

    async def _load_checked(self, model_uri: str) -> LoadedModel:
        """Load a model and check its golden questions; a model that fails them is closed."""
        loading = run_in_daemon(lambda: self._load(model_uri))
        try:
            model = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_late_model)
            raise
        try:
            await _replay_golden(model.answerer)
        except BaseException:
            model.answerer.close()
            raise
        return model

    # --- questions ---

    @contextmanager
    def accepted(self, slots: int = 1) -> Iterator[LoadedModel]:
        """Slots among the questions under way, and the model that will answer them.

        Args:
            slots: 0 for a question whose request holds its slot already.

        Raises:
            NotReady: no model is loaded, or the server is stopping.
            EngineDown: the model's engine is being restarted, or has failed.
            Overloaded: there is no room.
        """
        model = self._ready_model()
        with self.slots.hold(slots):
            self._under_way[model] += 1
            try:
                yield model
            finally:
                self._under_way[model] -= 1
                self._close_if_idle(model)
                self._under_way += Counter()  # drops the models that nobody asks

    @property
    def loaded(self) -> LoadedModel:
        """The model, whether it answers at this moment or not. Raises NotReady before it is loaded."""
        if self.model is None:
            raise NotReady(f"The model is {self.status}.", "Ask again when /health/ready answers 200.")
        return self.model

    def _ready_model(self) -> LoadedModel:
        if self._stopping:
            raise NotReady("The server is stopping.", "Ask another one.")
        model = self.loaded
        if not model.answerer.is_healthy():
            raise EngineDown(self.engine_failure or "The engine is being restarted.", "Ask again in a few seconds.")
        return model

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way."""
        return self.slots.in_use > 0

    def stop(self) -> None:
        """No longer ready; questions that were accepted are still answered."""
        self._stopping = True

    def close(self) -> None:
        """End the engines."""
        for model in (self.model, self._retired):
            if model is not None:
                model.answerer.close()


def _close_all(answerers: list[Answerer]) -> None:
    """Close them and give their memory back. The list holds the last references, so it is emptied."""
    while answerers:
        answerers.pop().close()
    give_back()


def _close_late_model(loading: asyncio.Future[LoadedModel]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().answerer.close()


async def _replay_golden(answerer: Answerer) -> None:
    for golden in answerer.golden:
        answer = await answerer.ask({"question": golden.question}, {"max_new_tokens": golden.max_new_tokens})
        if answer.token_ids != golden.token_ids:
            raise GoldenMismatch(f"The golden question {golden.question!r} got another answer than at deploy.")


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
