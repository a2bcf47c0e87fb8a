"""What an experiment and an evaluation found: data only. How it reads is in `report.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.store.prompt_registry import PromptRef


@dataclass(frozen=True)
class TemplateScore:
    """How one prompt did over all cases; each value of `metrics` as logged on its nested run."""

    prompt: PromptRef
    run_id: str
    metrics: Mapping[str, float]
    token_f1: Interval


@dataclass(frozen=True)
class ExperimentResult:
    """One parent run with a nested run for each prompt."""

    run_id: str
    scores: tuple[TemplateScore, ...]  # best first
    verdict: Verdict
    winner: PromptRef
    cases: int
    traces: int
    judge: str  # what the judge said, or why there was none
    compute_s: float  # seconds inside the model
    decision: Decision | None = None  # of the gate; None: it was not asked, the winner was in production before
    in_production: PromptRef | None = None  # afterwards: the winner, or the one that the gate kept there


@dataclass(frozen=True)
class Evaluated:
    """One prompt version on one model version, over all cases."""

    label: str  # the prompt, and the model version where several were evaluated
    prompt: PromptRef
    model_version: str
    run_id: str
    experiment: str
    metrics: Mapping[str, float]
    scores: Mapping[str, Interval]  # of each score that every case has


@dataclass(frozen=True)
class EvaluationReport:
    """What `--mode evaluate` found; one run for each of `evaluated`, and one with the comparison."""

    run_id: str
    evaluated: tuple[Evaluated, ...]  # best first
    verdict: Verdict | None  # None: there was nothing to compare, or no score that every case has
    decision: Decision | None  # None: nothing was to be promoted, or the winner was in production before
    cases: int
    rows: int  # that MLflow holds afterwards, each with its trace
    reused: int  # answers of an evaluation that was interrupted
    judge: str
    dataset: str | None  # its name in MLflow
    left_out: tuple[str, ...]  # of the case file
    compute_s: float  # answering and scoring
    mlflow_s: float  # MLflow's own writing of traces and assessments
    in_production: PromptRef | None = None  # of the winner's prompt, afterwards, where it was to be promoted
