"""What is compared, what came of it, and what the gate made of it: parts of several stages' results."""

from __future__ import annotations

from dataclasses import dataclass


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
    winner: str  # on a tie the one in production before, else the leading one
    runner_up: str
    metric: str
    difference: Interval  # leader minus runner-up
    cases: int = 0
    cases_needed: int | None = None  # on a tie: about this many more would tell; None: no reasonable number would
    comparisons: tuple[Comparison, ...] = ()  # the leader with every other prompt
    incumbent: str | None = None  # the one in production before, where it was compared

    def __str__(self) -> str:
        """For example `win: qa-expert beats qa-simple by +0.11 [+0.03, +0.19] token_f1`."""
        interval = f"{self.difference.mean:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        if self.outcome == "win":
            return f"win: {self.winner} beats {self.runner_up} by {interval} {self.metric}"
        more = f"; about {self.cases_needed} more cases needed" if self.cases_needed else ""
        if self.winner == self.incumbent:
            return f"tie: {self.winner} stays; the leading two differ by {interval} {self.metric}{more}"
        how = "leads, perhaps by chance" if self.difference.mean else f"is no better than {self.runner_up}"
        return f"tie: {self.winner} {how}: {interval} {self.metric}{more}"


@dataclass(frozen=True)
class Decision:
    """What the gate said of a version, and why."""

    allowed: bool  # whether the alias may move
    passed: bool  # whether the findings alone would let it
    mode: str  # of the gate: on | dry-run | off
    forced: bool  # whether it was told to let the version pass, by --override-gate
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        word = "passed" if self.passed else "refused"
        how = "" if self.passed == self.allowed else " (overridden)" if self.forced else f" ({self.mode})"
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
class Check:
    """One line of the test report."""

    name: str
    passed: bool
    detail: str
