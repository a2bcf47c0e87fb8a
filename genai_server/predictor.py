"""The model behind the server: loading it, its golden prompts, and how many questions are taken at once.

Knows the answerers; knows neither HTTP nor the registry.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genai_server.answerers import Answerer
from genai_server.errors import Conflict, NotReady, Overloaded

log = logging.getLogger(__name__)

LOADING, READY, FAILED, STOPPING = "loading", "ready", "failed", "stopping"


@dataclass(frozen=True, eq=False)  # each is itself: the same version may be loaded twice
class LoadedModel:
    """A model with what the registry and its own files say of it."""

    answerer: Answerer
    info: Mapping[str, Any]  # the fields of schemas.ModelInfo


class GoldenMismatch(Exception):
    """A golden prompt was answered with other tokens than those recorded at deploy."""


class Predictor:
    """The model that answers, the one before it, and the questions under way.

    Made at once, loaded by `start`, then it may be asked. All calls come from one event loop.
    """

    def __init__(self, load: Callable[[str], LoadedModel], model_uri: str, queue_limit: int):
        self._load, self._model_uri, self._most = load, model_uri, queue_limit
        self._under_way: Counter[LoadedModel] = Counter()
        self._retired: set[LoadedModel] = set()  # neither running nor kept for a rollback
        self._loading = asyncio.Lock()
        self._stopping = False
        self.model: LoadedModel | None = None
        self.previous: LoadedModel | None = None
        self.failure = ""

    @property
    def status(self) -> str:
        """loading, ready, failed or stopping; an engine that is being restarted counts as loading."""
        if self._stopping:
            return STOPPING
        if self.failure:
            return FAILED
        return READY if self.model is not None and self.model.answerer.is_healthy() else LOADING

    # --- which model ---

    async def start(self) -> None:
        """Load the first model; afterwards `status` is ready or failed."""
        async with self._loading:
            try:
                with _left_out_of_collections():
                    self._swap(await self._checked(self._model_uri))
            except Exception as exc:  # noqa: BLE001 - a model's own code may raise anything while it loads
                self.failure = _first_line(exc)
                log.error("the model cannot be served: %s", self.failure)

    async def reload(self, model_uri: str | None = None, *, waits: bool = False) -> LoadedModel:
        """Load another version beside the running one, check it, and let it answer from the next question on.

        Args:
            waits: for a version that is being loaded already, in place of a Conflict.

        Raises:
            Conflict: a version is being loaded already, or this one cannot be loaded or fails its golden prompts;
                the running version goes on.
        """
        if self._loading.locked() and not waits:
            raise Conflict("Another load is under way already.", "Ask again when it has ended.")
        async with self._loading:
            with _left_out_of_collections():
                if self.previous is not None:
                    gc.collect()  # what is left of versions that were replaced twice
                return await self._replaced(model_uri or self._model_uri)

    async def _replaced(self, model_uri: str) -> LoadedModel:
        try:
            fresh = await self._checked(model_uri)
        except Exception as exc:
            raise Conflict(f"The version cannot be served: {_first_line(exc)}", "The running one goes on.") from exc
        if self._stopping:
            fresh.answerer.close()
            raise NotReady("The server is stopping.", "Ask another one.")
        self._swap(fresh)
        return fresh

    def rollback(self) -> LoadedModel:
        """Let the version before answer again; the two change places."""
        if self.previous is None:
            raise Conflict("There is no version to go back to.")
        self.model, self.previous = self.previous, self.model
        log.info("rolled back to %s", named(self.model))
        return self.model

    def _swap(self, fresh: LoadedModel) -> None:
        oldest, self.previous, self.model = self.previous, self.model, fresh
        self.failure = ""
        log.info("now answering: %s", named(fresh))
        if oldest is not None:
            self._retired.add(oldest)
            self._close_if_idle(oldest)

    def _close_if_idle(self, model: LoadedModel) -> None:
        """End a retired model after its last question."""
        if model in self._retired and not self._under_way[model]:
            self._retired.discard(model)
            # on a thread: an engine takes up to seconds to end, and the event loop has questions to carry
            threading.Thread(target=model.answerer.close, name="close").start()

    async def _checked(self, model_uri: str) -> LoadedModel:
        """Loaded, with its golden prompts answered as at deploy; closed again where they are not."""
        model = await asyncio.to_thread(self._load, model_uri)
        try:
            await _replay_golden(model.answerer)
        except BaseException:
            model.answerer.close()
            raise
        return model

    # --- questions ---

    @contextmanager
    def accepted(self) -> Iterator[LoadedModel]:
        """A place among the requests under way, and the model that will answer this one."""
        if self._stopping:
            raise NotReady("The server is stopping.", "Ask another one.")
        if self.model is None:
            raise NotReady(f"The model is {self.status}.", "Ask again when /health/ready answers 200.")
        if self._under_way.total() >= self._most:
            raise Overloaded("Too many questions wait already.", "Ask again in a second.")
        model = self.model
        self._under_way[model] += 1
        try:
            yield model
        finally:
            self._under_way[model] -= 1
            self._close_if_idle(model)
            self._under_way += Counter()  # drops the models that nobody asks

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way."""
        return self._under_way.total() > 0

    def stop(self) -> None:
        """Not ready any more; what was accepted is finished."""
        self._stopping = True

    def close(self) -> None:
        """End the engines."""
        for model in (self.model, self.previous, *self._retired):
            if model is not None:
                model.answerer.close()


@contextmanager
def _left_out_of_collections() -> Iterator[None]:
    """What is there at the end of the block stays for long: the collector of cycles no longer looks at it.

    It would, several times a minute under load, and every answer and every probe would wait for 0.2 s.
    """
    gc.unfreeze()
    try:
        yield
    finally:
        gc.freeze()


async def _replay_golden(answerer: Answerer) -> None:
    for item in answerer.golden:
        answer = await answerer.ask({"question": item["question"]}, {"max_new_tokens": item["max_new_tokens"]})
        if answer["token_ids"] != item["token_ids"]:
            raise GoldenMismatch(f"The golden question {item['question']!r} got another answer than at deploy.")


def named(model: LoadedModel) -> str:
    """The model for people; one from a folder may have no version."""
    version = model.info["model_version"]
    return f"{model.info['model']} version {version}" if version else model.info["model"]


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
