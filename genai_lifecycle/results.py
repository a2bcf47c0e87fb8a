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
class Comparison:
    """The leading prompt against one other, paired over the same cases."""

    leader: str
    other: str
    outcome: str  # win | tie
    difference: Interval  # leader minus other, at the confidence of its step in Holm's procedure
    p_value: float  # adjusted by Holm for the number of comparisons


@dataclass(frozen=True)
class Verdict:
    """The leading prompt against each other one, paired over the same cases."""

    outcome: str  # win | tie
    winner: str  # prompt name; on a tie the one in production before, else the leading one
    runner_up: str
    metric: str
    difference: Interval  # leader minus runner-up
    cases: int = 0
    cases_needed: int | None = None  # on a tie: about this many more would tell; None: no reasonable number would
    comparisons: tuple[Comparison, ...] = ()  # the leader with every other prompt

    def __str__(self) -> str:
        """For example `win: qa-expert beats qa-simple by +0.11 [+0.03, +0.19] token_f1`."""
        interval = f"{self.difference.mean:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        if self.outcome == "win":
            return f"win: {self.winner} beats {self.runner_up} by {interval} {self.metric}"
        more = f"; about {self.cases_needed} more cases needed" if self.cases_needed else ""
        return f"tie: {self.winner} stays; the leading two differ by {interval} {self.metric}{more}"


@dataclass(frozen=True)
class Decision:
    """What the gate said of a version, and why."""

    allowed: bool  # whether the alias may move
    passed: bool  # whether the findings alone would let it
    mode: str  # of the gate: on | dry-run | off
    forced: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        word = "passed" if self.passed else "refused"
        how = "" if self.passed == self.allowed else " (forced)" if self.forced else f" ({self.mode})"
        return f"{word}{how}: {'; '.join(self.reasons)}"

    def tags(self) -> dict[str, str]:
        """As the version's tags."""
        return {
            "gate.decision": "passed" if self.passed else "refused",
            "gate.mode": self.mode,
            "gate.forced": str(self.forced).lower(),
            "gate.reasons": "; ".join(self.reasons),
        }


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as MLflow's registry has it."""

    name: str
    latest: int | None  # its newest version; None when all were deleted
    aliases: Mapping[str, int]  # alias -> version
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """One version of a prompt as MLflow's registry has it."""

    name: str
    version: int
    template: str  # of a chat prompt: its messages as JSON
    is_chat: bool
    commit_message: str
    created_ms: int  # Unix time
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class PromptsResult:
    """What `--mode prompts` did or found."""

    action: str
    message: str = ""  # what was done, in one sentence; empty for what only reads
    prompts: tuple[StoredPrompt, ...] = ()
    versions: tuple[StoredVersion, ...] = ()
    diff: str = ""  # unified
    decision: Decision | None = None  # of the gate, where `production` was to move


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
    decision: Decision | None  # None: nothing was to be promoted
    cases: int
    rows: int  # that MLflow holds afterwards, each with its trace
    reused: int  # answers of an evaluation that was interrupted
    judge: str
    dataset: str | None  # its name in MLflow
    left_out: tuple[str, ...]  # of the case file
    compute_s: float  # answering and scoring
    mlflow_s: float  # MLflow's own writing of traces and assessments


@dataclass(frozen=True)
class RollbackResult:
    """Which version is in use again, and which one it took the place of."""

    name: str
    alias: str  # champion | production
    version: str
    replaced: str


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
    decision: Decision | None = None  # what the gate said

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
class MovedColumn:
    """Addresses in one column of MLflow's tables that are below the old place."""

    column: str  # table.column
    rows: int
    before: str  # one of them, and what becomes of it
    after: str


@dataclass(frozen=True)
class Relocation:
    """What `relocate` found, and what it changed (nothing without --apply)."""

    old: str
    new: str
    columns: tuple[MovedColumn, ...]
    changed: int  # addresses
    backup: str | None  # the copy of the database from before
    missing: tuple[str, ...]  # models that are not at the new place; only with --force


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    state: str  # ok | warning | problem
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class Disposal:
    """One thing that `clean` removes, or would remove."""

    kind: str  # version | model | run | scratch
    name: str
    why: str
    size_bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What `clean` found, and what it removed (nothing without --apply)."""

    disposals: tuple[Disposal, ...]
    removed: int
    kept: str  # a sentence about what stays, and why
    note: str = ""  # what somebody else has to do

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.disposals)


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
