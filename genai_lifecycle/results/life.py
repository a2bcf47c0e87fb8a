"""What the stages of a whole life return: experiment, deploy, test, serve, export; and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genai_lifecycle.results.verdicts import Check, Decision, Interval, PromptRef, Verdict


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
class VerificationReport:
    """What the fresh process found, and which aliases moved."""

    name: str
    version: str
    checks: tuple[Check, ...]
    champion: str | None  # version that has the alias after the test
    previous: str | None
    compute_s: float
    decision: Decision | None = None  # what the gate said

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class ServePlan:
    """How to serve a version: commands to type, in words of this machine."""

    model_uri: str
    commands: tuple[tuple[str, str], ...]  # (what it is for, command)
    url: str  # of our server
    hint: str = ""  # what keeps it from starting


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
