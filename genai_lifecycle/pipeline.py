"""The whole life, one stage after the other. Passes results on; does no work of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ExportDeclined
from genai_lifecycle.lock import only_run
from genai_lifecycle.model_source import ModelSource, find_model
from genai_lifecycle.results import (
    DeploymentResult,
    ExperimentResult,
    ExportResult,
    LifecycleResult,
    ServePlan,
    VerificationReport,
)
from genai_lifecycle.tracking import runs
from genai_lifecycle.tracking.store import Store, open_store

log = logging.getLogger(__name__)
T = TypeVar("T")


class MLflow3E2ELifecycle:
    """The stages of one configuration. The store and the model are looked up once, when first needed."""

    def __init__(self, config: E2EConfig):
        self.config = config
        self._locked = False

    @cached_property
    def source(self) -> ModelSource:
        """The base model. Raises ModelNotLoadable or UnsafeWeights."""
        return find_model(self.config)

    @cached_property
    def store(self) -> Store:
        """The MLflow store, opened. Raises TrackingUnavailable, StorageFailed or ConfigError."""
        store = open_store(self.config)
        if dead := runs.close_dead_runs(store):
            log.info("%d run(s) of a process that was killed were marked as KILLED.", dead)
        return store

    def experiment(self) -> ExperimentResult:
        """Compare the prompt templates; the winner goes into production."""
        from genai_lifecycle.stages.experiment import run_experiment

        with self._alone():
            return run_experiment(self.config, self.source, self.store)

    def deploy(self) -> DeploymentResult:
        """Register the model with the prompt in production as `candidate`."""
        from genai_lifecycle.prompts.production import prompt_in_production
        from genai_lifecycle.stages.deploy import deploy_model

        with self._alone():
            prompt = prompt_in_production(self.config, self.store)
            identity = {"prompt": str(prompt), "weights_sha256": self.source.weights_sha256}
            return deploy_model(self.config, self.source, self.store, prompt, runs.measured(self.store, identity))

    def test(self) -> VerificationReport:
        """Test the candidate in a fresh process; it becomes champion when it passes."""
        from genai_lifecycle.stages.verify import verify_candidate

        with self._alone():
            return verify_candidate(self.config, self.store)

    def serve(self) -> ServePlan:
        """The commands that serve the registered model."""
        from genai_lifecycle.stages.serve import serve_plan

        return serve_plan(self.config, self.store)

    def export(self) -> ExportResult:
        """Write the bundle of the champion, or of the version that the configuration names."""
        from genai_lifecycle.stages.export import export_model

        with self._alone():
            return export_model(self.config, self.store)

    def run_all(self, done: Callable[[str, object], None] = lambda stage, result: None) -> LifecycleResult:
        """Every stage in order; stops at the first LifecycleError. `done` is told each stage's result.

        An export that is declined is no failure: the version is registered, tested and can be served.
        """
        seconds: dict[str, float] = {}
        declined: list[str] = []

        def export() -> ExportResult | None:
            try:
                return self.export()
            except ExportDeclined as exc:
                declined.append(str(exc))
                return None

        def timed(stage: str, function: Callable[[], T]) -> T:
            started = time.monotonic()
            result = function()
            seconds[stage] = time.monotonic() - started
            done(stage, result)
            return result

        with self._alone():
            return LifecycleResult(
                experiment=timed("experiment", self.experiment),
                deployment=timed("deploy", self.deploy),
                report=timed("test", self.test),
                serve=timed("serve", self.serve),
                export=timed("export", export),
                export_declined="".join(declined),
                seconds=seconds,
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the artifact root (of the staging folder where a server keeps the artifacts).

        `run_all` holds it from the first stage to the last, so the stages inside it find it held.
        """
        if self._locked:
            yield
            return
        folder = Path(self.config.data_dir) if self.store.direct else self.config.staging_dir
        with only_run(folder):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False
