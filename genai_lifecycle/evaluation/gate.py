"""The gate: may a version replace the one in use? Pure: it is given scores, and moves, tags and reads no registry.

`prompts/promotion.py` asks it about prompts, the stage `verify` about model versions.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.statistics import difference_interval, more_cases, paired_differences
from genai_lifecycle.runtime.validation import STRICT
from genai_lifecycle.runtime.yaml_file import read_yaml


@dataclass(frozen=True)
class Decision:
    """Whether a version may replace another one, and why."""

    allowed: bool  # whether the alias may move
    passed: bool  # whether every check passed
    mode: str  # of the gate: on | dry-run | off
    forced: bool  # whether --override-gate was given
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


_HINT = "The file gate.yaml of this checkout shows every key; docs/evaluation.md explains them."
NotNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Policy:
    """What gate.yaml asks of a version."""

    mode: Literal["on", "dry-run", "off"] = "on"
    metric: str = "token_f1"  # higher is better
    threshold: float = 0.0  # in the metric's unit; the mean must reach it
    margin: NotNegative = 0.05  # in the metric's unit: so much worse than the former version is still no loss
    latency_ms: NotNegative = 30_000.0  # of the median answer
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class ModelPolicy(Policy):
    """What it asks of a model version: also that it answers at all, whatever the answers are worth."""

    answered_rate: Annotated[float, Ge(0), Le(1)] = 0.5  # of the questions must get an answer (`scorers.answered`)


@dataclass(frozen=True)
class Policies:
    """The whole of gate.yaml."""

    prompt: Policy = Policy()
    model: ModelPolicy = ModelPolicy()
    __pydantic_config__ = STRICT


ANSWERED = "answered"  # among the scores of a model version: 1 where a case got an answer


def load_policy(path: Path, subject: Literal["prompt", "model"]) -> Policy:
    """Of gate.yaml, the policy for `subject`. Raises ConfigError naming the file and what is wrong in it."""
    policies = read_yaml(path, Policies, _HINT)
    return policies.prompt if subject == "prompt" else policies.model


def decide(policy: Policy, candidate: Evidence | None, former: Evidence | None, *, override: bool = False) -> Decision:
    """Whether the candidate may take the place of the former version.

    Args:
        candidate: None when nothing is known about it, which is a refusal.
        former: the version in use; None when there is none to compare with.
        override: let it pass whatever the checks say, and record that.
    """
    if policy.mode == "off":
        return Decision(True, True, policy.mode, override, ("the gate is off",))
    checks = sorted(_checks(policy, candidate, former), key=lambda check: check[0])  # what is wrong first
    passed = all(good for good, _ in checks)
    reasons = tuple(reason for _, reason in checks)
    return Decision(passed or override or policy.mode == "dry-run", passed, policy.mode, override, reasons)


def _checks(policy: Policy, candidate: Evidence | None, former: Evidence | None) -> list[tuple[bool, str]]:
    """(good, reason) for each thing that the policy asks."""
    if candidate is None:
        return [(False, "it was not evaluated")]
    scores = candidate.scores.get(policy.metric)
    if not scores:
        return [(False, f"its evaluation has no {policy.metric}")]
    checks = [_threshold(policy, scores), _latency(policy, candidate)]
    if isinstance(policy, ModelPolicy):
        checks.append(_answers(policy, candidate))
    if former is not None:
        checks.append(_not_worse(policy, scores, former, candidate))
    return checks


def _threshold(policy: Policy, scores: tuple[float, ...]) -> tuple[bool, str]:
    mean = sum(scores) / len(scores)
    good = mean >= policy.threshold
    return good, f"{policy.metric} {mean:.3f} is {'at least' if good else 'below'} {policy.threshold:g}"


def _answers(policy: ModelPolicy, candidate: Evidence) -> tuple[bool, str]:
    answered = candidate.scores.get(ANSWERED, ())
    rate = sum(answered) / len(answered) if answered else 0.0
    good = rate >= policy.answered_rate
    counts = f"{sum(answered):.0f} of {len(answered)} questions got an answer"
    if good:
        return good, f"{counts}: {rate:.2f} is at least {policy.answered_rate:g}"
    others = "the others nothing, one token over and over, or a piece before the time was up"
    return good, f"{counts}, {others}: {rate:.2f} is below {policy.answered_rate:g}"


def _latency(policy: Policy, candidate: Evidence) -> tuple[bool, str]:
    if not candidate.latencies_ms:
        return True, "no latency was measured"
    median = statistics.median(candidate.latencies_ms)
    good = median <= policy.latency_ms
    return good, f"median answer in {median:.0f} ms, {'at most' if good else 'more than'} {policy.latency_ms:g} ms"


def _not_worse(policy: Policy, scores: tuple[float, ...], former: Evidence, candidate: Evidence) -> tuple[bool, str]:
    """Non-inferiority (Piaggio et al., CONSORT extension 2012): the interval lies above -margin."""
    before = former.scores.get(policy.metric)
    if not before or former.cases_sha256 != candidate.cases_sha256 or len(before) != len(scores):
        return False, f"{former.subject} was not evaluated over the same cases"
    differences = paired_differences(scores, before)
    difference = difference_interval(differences)
    interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] {policy.metric}"
    if difference.low >= -policy.margin:
        better = "better than" if difference.low > 0 else "not worse than"
        return True, f"{better} {former.subject}: {interval}"
    if difference.high < 0:
        return False, f"worse than {former.subject}: {interval}"
    more = more_cases([value + policy.margin for value in differences])
    needed = f"; about {more} more cases needed" if more and difference.mean > -policy.margin else ""
    return False, f"may be worse than {former.subject} by more than {policy.margin:g}: {interval}{needed}"
