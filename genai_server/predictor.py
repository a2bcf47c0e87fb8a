"""The model behind the server: loading, the golden prompts, and how many questions are taken at once.

Knows the registry and the answerers; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from genai_server.answerers import Answerer, answerer_of
from genai_server.errors import BadQuestion, EngineDown, NotReady, Overloaded

log = logging.getLogger(__name__)

LOADING, READY, FAILED = "loading", "ready", "failed"


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the registry and its own files say of it."""

    answerer: Answerer
    info: Mapping[str, Any]  # the fields of schemas.ModelInfo


class GoldenMismatch(Exception):
    """A golden prompt was answered with other tokens than those recorded at deploy."""


def load_from_mlflow(model_uri: str, tracking_uri: str | None) -> LoadedModel:
    """Load a registered version or a folder. Raises MlflowException when it does not exist."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    answerer = answerer_of(mlflow.pyfunc.load_model(model_uri))
    return LoadedModel(answerer, _info(model_uri, answerer.prompt) | {"engine": dict(answerer.describe())})


def _info(model_uri: str, prompt: Mapping[str, Any]) -> dict[str, Any]:
    info = {
        "model": model_uri,
        "model_version": None,
        "prompt": f"{prompt.get('name')}/{prompt.get('version')}" if prompt else "",
        "run_id": None,
        "base_model": None,
        "weights_sha256": None,
    }
    return info | _registered(model_uri)


def _registered(model_uri: str) -> dict[str, Any]:
    """What the registry knows of a `models:/NAME/VERSION` or `models:/NAME@ALIAS` address."""
    import mlflow

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    if not model_uri.startswith("models:/") or not (alias or number):
        return {}
    client = mlflow.MlflowClient()
    found = client.get_model_version_by_alias(name, alias) if separator else client.get_model_version(name, number)
    return {
        "model": name,
        "model_version": str(found.version),
        "run_id": found.run_id,
        "base_model": found.tags.get("model"),
        "weights_sha256": found.tags.get("weights_sha256"),
    }


class Predictor:
    """One model and the questions it was given. Made at once, loaded by `load`, then it may be asked."""

    def __init__(self, load: Callable[[], LoadedModel], queue_limit: int):
        self._load, self._most = load, queue_limit
        self._accepted = 0
        self.model: LoadedModel | None = None
        self.failure = ""

    @property
    def status(self) -> str:
        """loading, ready or failed; an engine that is being started afresh counts as loading."""
        if self.failure:
            return FAILED
        return READY if self.model is not None and self.model.answerer.is_healthy() else LOADING

    async def load(self) -> None:
        """Load the model and replay its golden prompts; afterwards `status` is ready or failed."""
        try:
            model = await asyncio.to_thread(self._load)
            await self._replay_golden(model.answerer)
            self.model = model
            log.info("ready: %s version %s", model.info["model"], model.info["model_version"])
        except (MlflowException, GoldenMismatch, OSError, ImportError, ValueError, RuntimeError) as exc:
            lines = str(exc).strip().splitlines() or [type(exc).__name__]
            self.failure = lines[0]
            log.error("the model cannot be served: %s", self.failure)

    async def _replay_golden(self, answerer: Answerer) -> None:
        for item in answerer.golden:
            params = {"max_new_tokens": item["max_new_tokens"]}
            answer = await answerer.ask({"question": item["question"]}, params)
            if answer["token_ids"] != item["token_ids"]:
                raise GoldenMismatch(f"The golden question {item['question']!r} got another answer than at deploy.")

    async def answer(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one question. Raises NotReady, Overloaded, BadQuestion or EngineDown."""
        with self._accepted_one() as answerer, _in_our_words():
            return await answerer.ask(question, params)

    async def stream(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """As `answer`, piece by piece. Closing the iterator stops the generation."""
        with self._accepted_one() as answerer, _in_our_words():
            async for piece in answerer.stream(question, params):
                yield piece

    @contextmanager
    def _accepted_one(self) -> Iterator[Answerer]:
        if self.model is None:
            raise NotReady(f"The model is {self.status}.", "Ask again when /health/ready answers 200.")
        if self._accepted >= self._most:
            raise Overloaded("Too many questions wait already.", "Ask again in a second.")
        self._accepted += 1
        try:
            yield self.model.answerer
        finally:
            self._accepted -= 1

    def close(self) -> None:
        """End the model's engine."""
        if self.model is not None:
            self.model.answerer.close()


@contextmanager
def _in_our_words() -> Iterator[None]:
    """MLflow's exceptions, which the model raises, as the server's own."""
    try:
        yield
    except MlflowException as exc:
        if exc.error_code == "INVALID_PARAMETER_VALUE":
            raise BadQuestion(exc.message) from exc
        raise EngineDown(exc.message, "Ask again in a few seconds.") from exc
