"""What the stages return: frozen dataclasses, data only. `to_json` of a whole life is the run's summary file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of what was measured."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True)
class PromptRef:
    """A prompt version. `version` is None where the tracking server keeps no prompts."""

    name: str
    version: int | None
    template: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else f"{self.name} (not in a registry)"


@dataclass(frozen=True)
class TemplateScore:
    """How one prompt did over all cases; each value of `metrics` as logged on its nested run."""

    prompt: PromptRef
    run_id: str
    metrics: Mapping[str, float]
    token_f1: Interval


@dataclass(frozen=True)
class Verdict:
    """The leading prompt against the next best one, paired over the same cases."""

    outcome: str  # win | tie
    winner: str  # prompt name; on a tie the one in production before, else the leading one
    runner_up: str
    metric: str
    difference: Interval  # leader minus runner-up

    def __str__(self) -> str:
        """For example `win: qa-expert beats qa-simple by +0.11 [+0.03, +0.19] token_f1`."""
        interval = f"{self.difference.mean:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        if self.outcome == "win":
            return f"win: {self.winner} beats {self.runner_up} by {interval} {self.metric}"
        return f"tie: {self.winner} stays; the leading two differ by {interval} {self.metric}"


@dataclass(frozen=True)
class ExperimentResult:
    """One parent run with a nested run for each template."""

    run_id: str
    scores: tuple[TemplateScore, ...]  # best first
    verdict: Verdict
    winner: PromptRef
    cases: int
    traces: int
    judge: str  # what the judge said, or why there was none
    compute_s: float  # seconds inside the model


@dataclass(frozen=True)
class DeploymentResult:
    """A new model version with the alias `candidate`."""

    name: str
    version: str
    model_id: str
    run_id: str
    prompt: PromptRef
    weights_sha256: str
    compute_s: float


@dataclass(frozen=True)
class Check:
    """One line of the test report."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class VerificationReport:
    """What the fresh process found, and which aliases moved."""

    name: str
    version: str
    checks: tuple[Check, ...]
    champion: str | None  # version that has the alias after the test
    previous: str | None
    compute_s: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class ServePlan:
    """How to serve a version: commands to type, in words of this machine."""

    model_uri: str
    commands: tuple[tuple[str, str], ...]  # (what it is for, command)


@dataclass(frozen=True)
class ExportResult:
    """A bundle, as its manifest describes it."""

    folder: str
    name: str
    version: str
    alias: str | None  # by which the version was found
    image: str  # name:version that build.sh gives the image
    engine: str
    precision: str
    weights_sha256: str
    files: int  # without the manifest itself
    size_bytes: int


@dataclass(frozen=True)
class LifecycleResult:
    """What `--mode all` did; `seconds` has the wall time of each stage."""

    experiment: ExperimentResult
    deployment: DeploymentResult
    report: VerificationReport
    serve: ServePlan
    export: ExportResult | None  # None: no bundle was written, and `export_declined` says why
    export_declined: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
