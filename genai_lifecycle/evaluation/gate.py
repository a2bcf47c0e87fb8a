"""The gate: may a version replace the one in use? Pure: it is given scores, and moves, tags and reads no registry.

`prompts/promotion.py` asks it about prompts, the stage `verify` about model versions.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.statistics import more_cases, paired_difference
from genai_lifecycle.runtime.yaml_file import read_yaml


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


MODES = ("on", "dry-run", "off")
CONFIDENCE = 0.95
_HINT = "The file gate.yaml of this checkout shows every key; docs/evaluation.md explains them."


@dataclass(frozen=True)
class Policy:
    """What gate.yaml asks of a version."""

    mode: str = "on"
    metric: str = "token_f1"  # higher is better
    threshold: float = 0.0  # in the metric's unit; the mean must reach it
    margin: float = 0.05  # in the metric's unit, 0 or more: so much worse than the former version is still no loss
    latency_ms: float = 30_000.0  # of the median answer


@dataclass(frozen=True)
class ModelPolicy(Policy):
    """What it asks of a model version: also that it answers at all, whatever the answers are worth."""

    answered_rate: float = 0.5  # share of the questions that must get an answer, 0 to 1 (`scorers.answered`)


POLICIES = {"prompt": Policy, "model": ModelPolicy}
ANSWERED = "answered"  # among the scores of a model version: 1 where a case got an answer


def load_policy(path: Path, subject: str) -> Policy:
    """The policy for `subject` ("prompt" or "model"). Raises ConfigError naming the file and what is wrong in it."""
    content = read_yaml(path, _HINT)
    if not isinstance(content, dict) or set(content) - set(POLICIES):
        raise ConfigError(f"The gate file {path} may have the keys {' and '.join(POLICIES)} only.", hint=_HINT)
    return _policy(path, subject, content.get(subject) or {})


def _policy(path: Path, subject: str, given: Any) -> Policy:
    names = [item.name for item in fields(POLICIES[subject])]
    unknown = sorted(set(given) - set(names)) if isinstance(given, dict) else [given]
    if unknown:
        raise ConfigError(f"{path}, {subject}: {unknown[0]!r} is unknown.", hint=f"Use {', '.join(names)}.")
    values = dict(given)
    if isinstance(values.get("mode"), bool):  # YAML reads a bare `on` as true
        values["mode"] = "on" if values["mode"] else "off"
    policy = POLICIES[subject](**values)
    if policy.mode not in MODES:
        raise ConfigError(f"{path}, {subject}: mode is {policy.mode!r}.", hint=f"Use one of {', '.join(MODES)}.")
    if not isinstance(policy.metric, str):
        raise ConfigError(f"{path}, {subject}: metric is {policy.metric!r}.", hint="Use the name of a score.")
    for name in names[2:]:  # those after mode and metric are numbers
        _require_number(path, subject, name, getattr(policy, name))
    return policy


def _require_number(path: Path, subject: str, name: str, value: Any) -> None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    if not right or (name != "threshold" and value < 0):
        raise ConfigError(f"{path}, {subject}: {name} is {value!r}.", hint="Use a number, 0 or more.")
    if name == "answered_rate" and value > 1:
        raise ConfigError(f"{path}, {subject}: {name} is {value!r}.", hint="Use a share, 0 to 1.")


def decide(
    policy: Policy, candidate: Evidence | None, former: Evidence | None, *, seed: int = 0, override: bool = False
) -> Decision:
    """Whether the candidate may take the place of the former version.

    Args:
        candidate: None when nothing is known about it, which is a refusal.
        former: the version in use; None when there is none to compare with.
        override: let it pass whatever the findings, and record that.
    """
    if policy.mode == "off":
        return Decision(True, True, policy.mode, override, ("the gate is off",))
    findings = sorted(_findings(policy, candidate, former, seed), key=lambda found: found[0])  # what is wrong first
    passed = all(good for good, _ in findings)
    reasons = tuple(text for _, text in findings)
    return Decision(passed or override or policy.mode == "dry-run", passed, policy.mode, override, reasons)


def _findings(policy: Policy, candidate: Evidence | None, former: Evidence | None, seed: int) -> list[tuple[bool, str]]:
    """(good, sentence) for each thing that was looked at."""
    if candidate is None:
        return [(False, "it was not evaluated")]
    scores = candidate.scores.get(policy.metric)
    if not scores:
        return [(False, f"its evaluation has no {policy.metric}")]
    found = [_threshold(policy, scores), _latency(policy, candidate)]
    if isinstance(policy, ModelPolicy):
        found.append(_answers(policy, candidate))
    return [*found, _against(policy, scores, former, candidate, seed)] if former is not None else found


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


def _against(
    policy: Policy, scores: tuple[float, ...], former: Evidence, candidate: Evidence, seed: int
) -> tuple[bool, str]:
    """Non-inferiority (Piaggio et al., CONSORT extension 2012): the interval lies above -margin."""
    before = former.scores.get(policy.metric)
    if not before or former.cases_sha256 != candidate.cases_sha256 or len(before) != len(scores):
        return False, f"{former.subject} was not evaluated over the same cases"
    difference = paired_difference(scores, before, seed, CONFIDENCE)
    interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] {policy.metric}"
    if difference.low >= -policy.margin:
        better = "better than" if difference.low > 0 else "not worse than"
        return True, f"{better} {former.subject}: {interval}"
    if difference.high < 0:
        return False, f"worse than {former.subject}: {interval}"
    above_margin = [a - b + policy.margin for a, b in zip(scores, before, strict=True)]
    more = more_cases(above_margin)
    needed = f"; about {more} more cases needed" if more and difference.mean > -policy.margin else ""
    return False, f"may be worse than {former.subject} by more than {policy.margin:g}: {interval}{needed}"
