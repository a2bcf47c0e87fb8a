"""The model behind the server: loading, the golden prompts, and answering on a bounded number of threads.

Knows MLflow's `predict` and the model's own files; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from genai_server.errors import BadQuestion, NotReady, Overloaded

log = logging.getLogger(__name__)

LOADING, READY, FAILED = "loading", "ready", "failed"


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the registry and its own files say of it."""

    predict: Callable[..., Sequence[Mapping[str, Any]]]
    golden: Sequence[Mapping[str, Any]]  # question, token_ids, max_new_tokens
    info: Mapping[str, Any]  # the fields of schemas.ModelInfo


class GoldenMismatch(Exception):
    """A golden prompt was answered with other tokens than those recorded at deploy."""


def load_from_mlflow(model_uri: str, tracking_uri: str | None) -> LoadedModel:
    """Load a registered version or a folder. Raises MlflowException when it does not exist."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    model = mlflow.pyfunc.load_model(model_uri)
    python_model = model.unwrap_python_model()
    return LoadedModel(model.predict, getattr(python_model, "golden", []), _info(model_uri, python_model))


def _info(model_uri: str, python_model: Any) -> dict[str, Any]:
    prompt = getattr(python_model, "prompt", {})
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
    """One model and its threads. Made at once, loaded by `load`, then `answer` may be called."""

    def __init__(self, load: Callable[[], LoadedModel], workers: int, queue_limit: int):
        self._load, self._most = load, workers + queue_limit
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="answer")
        self._accepted = 0
        self.model: LoadedModel | None = None
        self.status, self.failure = LOADING, ""

    async def load(self) -> None:
        """Load the model and replay its golden prompts; afterwards `status` is ready or failed."""
        try:
            self.model = await asyncio.get_running_loop().run_in_executor(self._pool, self._checked)
            self.status = READY
            log.info("ready: %s version %s", self.model.info["model"], self.model.info["model_version"])
        except (MlflowException, GoldenMismatch, OSError, ImportError, ValueError, RuntimeError) as exc:
            lines = str(exc).strip().splitlines() or [type(exc).__name__]
            self.status, self.failure = FAILED, lines[0]
            log.error("the model cannot be served: %s", self.failure)

    def _checked(self) -> LoadedModel:
        model = self._load()
        for item in model.golden:
            answer = model.predict(item["question"], params={"max_new_tokens": item["max_new_tokens"]})[0]
            if answer["token_ids"] != item["token_ids"]:
                raise GoldenMismatch(f"The golden question {item['question']!r} got another answer than at deploy.")
        return model

    async def answer(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one question. Raises NotReady, Overloaded or BadQuestion."""
        if self.model is None:
            raise NotReady(f"The model is {self.status}.", "Ask again when /health/ready answers 200.")
        if self._accepted >= self._most:
            raise Overloaded("Too many questions wait already.", "Ask again in a second.")
        self._accepted += 1
        try:
            work = self._pool.submit(self._predict, question, params)
            return await asyncio.wrap_future(work)
        finally:
            self._accepted -= 1

    def _predict(self, question: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self.model.predict(dict(question), params=dict(params))[0]
        except MlflowException as exc:
            if exc.error_code == "INVALID_PARAMETER_VALUE":
                raise BadQuestion(exc.message) from exc
            raise

    def close(self) -> None:
        """Wait for what was accepted."""
        self._pool.shutdown(wait=True)
