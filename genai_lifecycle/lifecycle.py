"""The whole life, one stage after the other. Passes results on; does no work of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ExportDeclined
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.models.source import ModelSource, find_model
from genai_lifecycle.monitoring.report import MonitorReport
from genai_lifecycle.serving.client import first_key
from genai_lifecycle.stages.clean import Cleaning, CleanSettings, clean
from genai_lifecycle.stages.deploy import DeploymentResult, DeploySettings, deploy_model
from genai_lifecycle.stages.evaluate import EvaluateSettings, run_evaluation
from genai_lifecycle.stages.export import ExportResult, ExportSettings, export_model
from genai_lifecycle.stages.import_feedback import FeedbackImport, ImportFeedbackSettings, import_feedback
from genai_lifecycle.stages.monitor import MonitorSettings, run_monitor
from genai_lifecycle.stages.prompts import PromptsResult, PromptsSettings, run_prompts
from genai_lifecycle.stages.rollback import RollbackResult, RollbackSettings, roll_back
from genai_lifecycle.stages.serve import ServePlan, ServeSettings, serve_plan
from genai_lifecycle.stages.test import VerificationReport, verify_candidate
from genai_lifecycle.stages.verify import ServerComparison, VerifySettings, compare_server
from genai_lifecycle.store import runs
from genai_lifecycle.store.store_lock import only_run_on
from genai_lifecycle.store.tracking_store import Store, open_store


@dataclass(frozen=True)
class LifecycleResult:
    """What `--mode all` did; `seconds` has the wall time of each stage."""

    experiment: EvaluationResult
    deployment: DeploymentResult
    report: VerificationReport
    serve: ServePlan
    export: ExportResult | None  # None: no bundle was written, and `export_declined` says why
    export_declined: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


if TYPE_CHECKING:
    from genai_lifecycle.prompts.promotion import Gate

log = logging.getLogger(__name__)
T = TypeVar("T")


class MLflow3E2ELifecycle:
    """The stages of one configuration. The store and the model are looked up once, when first needed."""

    def __init__(self, config: E2EConfig, *, writes: bool = True):
        self.config, self._writes = config, writes  # False: makes no experiment, and changes no run
        self._locked = False

    @cached_property
    def source(self) -> ModelSource:
        """The base model. Raises ModelNotLoadable or UnsafeWeights."""
        return find_model(self.config)

    @cached_property
    def store(self) -> Store:
        """The MLflow store, opened. Raises TrackingUnavailable, StorageFailed or ConfigError."""
        store = open_store(self.config, writes=self._writes)
        if self._writes and (dead := runs.close_dead_runs(store)):
            log.info("%d run(s) of a process that was killed were marked as KILLED.", dead)
        return store

    def experiment(self) -> EvaluationResult:
        """Compare the prompt templates; the winner goes into production."""
        from genai_lifecycle.stages.experiment import run_experiment

        with self._alone():
            return run_experiment(self.config, self.source, self.store)

    def deploy(
        self, settings: DeploySettings = DeploySettings(), *, experiment: EvaluationResult | None = None
    ) -> DeploymentResult:
        """Register the model with the prompt in production as `candidate`.

        Args:
            experiment: the one just made; None = what it left is looked up.
        """
        from genai_lifecycle.prompts.production import prompt_in_production, require_question

        with self._alone():
            if experiment is not None and experiment.in_production is not None:
                prompt = require_question(experiment.in_production)
                metrics = experiment.metrics_of(prompt)
                return deploy_model(self.config, self.source, self.store, prompt, metrics, settings)
            prompt = prompt_in_production(self.config, self.store)
            identity = {"prompt": str(prompt), "weights_sha256": self.source.weights_sha256}
            measured = runs.measured(self.store, identity)
            return deploy_model(self.config, self.source, self.store, prompt, measured, settings)

    def test(self, deployment: DeploymentResult | None = None) -> VerificationReport:
        """Test the candidate in a fresh process; it becomes champion when it passes.

        Args:
            deployment: the one just made; None = the version with the alias `candidate`.
        """
        with self._alone():
            return verify_candidate(self.config, self.store, deployment.model_version if deployment else None)

    def prompts(self, settings: PromptsSettings = PromptsSettings()) -> PromptsResult:
        """One action on the prompts. Takes no lock: a rollback must not wait for an experiment."""
        self.store.activate()
        return run_prompts(settings, self._prompt_gate)

    def _prompt_gate(self) -> Gate:
        from genai_lifecycle.evaluation.evidence import StoredEvidence
        from genai_lifecycle.evaluation.gate import load_policy
        from genai_lifecycle.prompts.promotion import Gate

        return Gate(load_policy(self.config.gate, "prompt"), StoredEvidence())

    def evaluate(self, settings: EvaluateSettings = EvaluateSettings()) -> EvaluationResult:
        """Prompt versions over a case file, through a registered model."""
        with self._alone():
            return run_evaluation(self.config, self.store, settings)

    def rollback(self, settings: RollbackSettings = RollbackSettings()) -> tuple[RollbackResult, ...]:
        """Put the former champion, or the named prompts' former version, back. Takes no lock: it may be urgent."""
        self.store.activate()
        return roll_back(self.config, settings)

    def import_feedback(self, settings: ImportFeedbackSettings = ImportFeedbackSettings()) -> FeedbackImport:
        """A server's ledger of feedback onto its traces, and into a case file. Has a lock of its own."""
        return import_feedback(self.config, self.store, settings)

    def monitor(self, settings: MonitorSettings = MonitorSettings()) -> MonitorReport:
        """The servers' last days as figures, limits and drift. Takes no lock: a scheduler must not wait for a run."""
        return run_monitor(self.config, self.store, settings)

    def serve(self, settings: ServeSettings = ServeSettings()) -> ServePlan:
        """The commands that serve the registered model."""
        return serve_plan(self.config, self.store, settings)

    def export(self, settings: ExportSettings = ExportSettings()) -> ExportResult:
        """Write the bundle of the champion, or of the version that the settings name. The store is only read."""
        return export_model(self.config, self.store, settings)

    def verify(self, settings: VerifySettings) -> ServerComparison:
        """A running server beside the registry; changes nothing."""
        return compare_server(self.config, settings, first_key())

    def clean(self, settings: CleanSettings = CleanSettings()) -> Cleaning:
        """What may be removed; it is, when the settings say `apply`."""
        with self._alone() if settings.apply else nullcontext():
            return clean(self.config, self.store, settings)

    def run_all(
        self,
        done: Callable[[str, object], None] = lambda stage, result: None,
        *,
        deploy: DeploySettings = DeploySettings(),
        serve: ServeSettings = ServeSettings(),
        export: ExportSettings = ExportSettings(),
    ) -> LifecycleResult:
        """Every stage in order; stops at the first LifecycleError. `done` is told each stage's result.

        An export that is declined is no failure: the version is registered, tested and can be served.
        """
        seconds: dict[str, float] = {}
        declined: list[str] = []

        def exported() -> ExportResult | None:
            try:
                return self.export(export)
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
            experiment = timed("experiment", self.experiment)
            deployment = timed("deploy", lambda: self.deploy(deploy, experiment=experiment))
            return LifecycleResult(
                experiment=experiment,
                deployment=deployment,
                report=timed("test", lambda: self.test(deployment)),
                serve=timed("serve", lambda: self.serve(serve)),
                export=timed("export", exported),
                export_declined="".join(declined),
                seconds=seconds,
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the store. `run_all` holds it from the first stage to the last, so the stages inside it
        find it held.
        """
        if self._locked:
            yield
            return
        with only_run_on(self.store.uri):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False
