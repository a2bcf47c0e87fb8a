"""What an experiment or an evaluation found: data only. How it reads is in `report.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.store.prompt_registry import PromptRef


@dataclass(frozen=True)
class PromptResult:
    """One prompt version on one model, over all cases."""

    label: str  # the prompt, and the model version where several were evaluated
    prompt: PromptRef
    model_version: str  # empty: the base model, before it is registered
    run_id: str
    experiment: str
    metrics: Mapping[str, float]  # as logged on its run
    scores: Mapping[str, Interval]  # of each score that every case has


@dataclass(frozen=True)
class EvaluationResult:
    """What was found; one run for each of `results`, and one with the comparison."""

    run_id: str
    results: tuple[PromptResult, ...]  # best first
    verdict: Verdict | None  # None: there was nothing to compare, or no score that every case has
    cases: int
    rows: int  # that MLflow holds afterwards, each with its trace
    reused: int  # answers of an evaluation that was interrupted
    judge: str  # which judge scored, or why none did
    dataset: str | None  # its name in MLflow
    left_out: tuple[str, ...]  # of the case file
    compute_s: float  # answering and scoring
    mlflow_s: float  # MLflow's own writing of traces and assessments
    decision: Decision | None = None  # of the gate; None: nothing was to be promoted, or the winner was there before
    in_production: PromptRef | None = None  # of the winner's prompt, afterwards, where it was to be promoted

    @property
    def winner(self) -> PromptResult:
        """The winner of the verdict; without one, the first."""
        name = self.verdict.winner if self.verdict else self.results[0].label
        return next(item for item in self.results if item.label == name)

    def metrics_of(self, prompt: PromptRef) -> Mapping[str, float]:
        """Of a prompt version; empty where it was not evaluated."""
        return next((item.metrics for item in self.results if str(item.prompt) == str(prompt)), {})
