"""What the modes evaluate, verify, monitor and import-feedback return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genai_lifecycle.results.verdicts import Check, Decision, Interval, PromptRef, Verdict


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


@dataclass(frozen=True)
class ServerComparison:
    """A running server beside the registry; a check that did not pass is a difference."""

    url: str
    model_uri: str  # the version that should answer
    alias: str | None  # by which it was found
    checks: tuple[Check, ...]

    @property
    def differences(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Measure:
    """One figure about a period."""

    name: str  # as in monitor.yaml
    value: float | None  # None: nothing to measure it on
    count: int  # of requests or feedback that it was measured on


@dataclass(frozen=True)
class DriftFinding:
    """One measure of one prompt and model version: the period beside the baseline."""

    group: str
    measure: str
    test: str  # Kolmogorov-Smirnov | chi-square
    count_now: int
    count_before: int
    now: str  # in a few words
    before: str
    effect: float = 0.0  # D, or Cramer's V: 0 (the same) to 1
    p_value: float = 1.0  # adjusted by Holm over all tests of the report
    outcome: str = "too few"  # drift | none | too few


@dataclass(frozen=True)
class CrossedLimit:
    """A limit of monitor.yaml that was not kept."""

    measure: str
    said: str  # the value and the limit, in a sentence
    advice: str


@dataclass(frozen=True)
class MonitorReport:
    """What `--mode monitor` found in the traces of a period."""

    run_id: str
    experiment: str  # of the servers' traces
    start_ms: int  # Unix time
    end_ms: int
    measures: tuple[Measure, ...]
    groups: Mapping[str, int]  # requests of each prompt and model version, the most first
    drift: tuple[DriftFinding, ...]
    crossed: tuple[CrossedLimit, ...]
    notes: tuple[str, ...]  # what could not be measured, and why
    report_file: str

    @property
    def requests(self) -> int:
        return int(self.measures[0].value or 0)


@dataclass(frozen=True)
class FeedbackImport:
    """What `--mode import-feedback` did with a server's ledger."""

    ledger: str
    entries: int
    imported: int
    before: int  # were on their trace already
    without_trace: tuple[str, ...]  # request ids
    unreadable: tuple[str, ...]  # sentences
    is_half_written: bool  # the last line: it is left for next time
    cases_file: str | None = None  # None: no cases were asked for, or there were none
    cases: int = 0
    cases_left_out: Mapping[str, int] = field(default_factory=dict)  # why -> how many
    refused: tuple[str, ...] = ()  # request ids of what MLflow does not take
