"""`monitor.yaml`: the limits that a period must keep to, and how things are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.runtime.yaml_file import read_yaml

_HINT = "The file monitor.yaml of this checkout shows every key; docs/monitoring.md explains them."

# Everything a limit can be set on, and what to do when it is crossed.
ADVICE = {
    "requests": "Is the server running, and MLFLOW_TRACE_SAMPLING_RATIO above 0? Ask GET /health/ready.",
    "latency_p50_ms": "See GET /metrics for queue and batch size; give the server more threads, or start a second one.",
    "latency_p95_ms": "See GET /metrics for queue and batch size; give the server more threads, or start a second one.",
    "latency_p99_ms": "Look at the slowest traces in --mode ui; a lower QUEUE_LIMIT refuses instead of waiting long.",
    "error_rate": "Look at the traces in state ERROR in --mode ui, and at the server's log.",
    "timeout_share": "Answers were cut by their deadline: raise REQUEST_TIMEOUT_S, or lower max_new_tokens.",
    "answer_tokens": "Compare the prompt and the callers' max_new_tokens with those of the evaluation.",
    "repetition": "Evaluate the prompt again (--mode evaluate); --mode rollback puts the former version back.",
    "declined_share": "Read what was asked in --mode ui: questions beyond the model's subject need another model.",
    "positive_share": "Read the comments in --mode ui and turn them into cases (--mode import-feedback --to-cases); "
    "--mode rollback puts the former version back.",
}
DRIFT_ADVICE = (
    "Evaluate on cases like today's questions (--mode import-feedback --to-cases); --mode rollback puts the former"
    " version back."
)


@dataclass(frozen=True)
class Limit:
    """What one measure must keep to."""

    measure: str
    at_most: float | None = None
    at_least: float | None = None

    def is_crossed(self, value: float) -> bool:
        return (self.at_most is not None and value > self.at_most) or (
            self.at_least is not None and value < self.at_least
        )

    def __str__(self) -> str:
        """For example `at most 0.05`."""
        sides = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {value:g}" for word, value in sides if value is not None)


@dataclass(frozen=True)
class DriftRules:
    """When a difference from the baseline is drift."""

    alpha: float = 0.05  # how often a run may say drift where there is none, over all its tests
    least_effect: float = 0.2  # 0 to 1 (D, or Cramer's V): smaller ones are no drift, however sure
    fails: bool = True  # whether drift is a crossed limit


@dataclass(frozen=True)
class Rules:
    """The whole of monitor.yaml."""

    minimum_count: int = 30  # with fewer, no limit is checked and nothing is tested
    declined: tuple[str, ...] = ("i don't know about that", "i do not know about that")  # how such answers begin
    positive_from: Mapping[str, float] = field(default_factory=lambda: {"default": 0.5})  # by name of the feedback
    limits: tuple[Limit, ...] = ()
    drift: DriftRules = DriftRules()

    def least_positive(self, name: str) -> float:
        """From which number on feedback of this name is positive."""
        return self.positive_from.get(name, self.positive_from.get("default", 0.5))


def load_rules(path: Path) -> Rules:
    """Read monitor.yaml. Raises ConfigError naming the file, and the key that is wrong in it."""
    return _Reader(path).rules(read_yaml(path, _HINT))


class _Reader:
    """Checks what stands in one file."""

    def __init__(self, path: Path):
        self.path = path

    def wrong(self, what: str, hint: str = _HINT) -> ConfigError:
        return ConfigError(f"{self.path}: {what}.", hint=hint)

    def rules(self, given: Any) -> Rules:
        values = self.mapping("the file", given, [item.name for item in fields(Rules)])
        known = Rules()
        return Rules(
            int(self.number("minimum_count", values.get("minimum_count", known.minimum_count), 2)),
            self.phrases(values.get("declined", list(known.declined))),
            self.thresholds(values.get("positive_from", dict(known.positive_from))),
            tuple(self.limit(name, sides) for name, sides in self.mapping(
                "limits", values.get("limits"), list(ADVICE)).items()),
            self.drift(self.mapping("drift", values.get("drift"), [item.name for item in fields(DriftRules)])),
        )  # fmt: skip

    def mapping(self, what: str, given: Any, known: list[str]) -> Mapping[str, Any]:
        if not isinstance(given or {}, dict):
            raise self.wrong(f"{what} has no keys with values")
        unknown = [name for name in given or {} if name not in known]
        if unknown:
            raise self.wrong(f"{unknown[0]!r} in {what} is unknown", f"Use {', '.join(known)}.")
        return given or {}

    def number(self, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and low <= value <= high):
            between = f" from {low:g} to {high:g}" if math.isfinite(high) else f", {low:g} or more" * math.isfinite(low)
            raise self.wrong(f"{name} is {value!r}", f"Use a number{between}.")
        return value

    def phrases(self, given: Any) -> tuple[str, ...]:
        if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
            raise self.wrong(f"declined is {given!r}", "Use a list of texts.")
        return tuple(given)

    def thresholds(self, given: Any) -> Mapping[str, float]:
        if not isinstance(given, dict):
            raise self.wrong(f"positive_from is {given!r}", "Use names of feedback with a number each.")
        return {str(name): self.number(f"positive_from.{name}", value) for name, value in given.items()}

    def limit(self, name: str, sides: Any) -> Limit:
        found = self.mapping(name, sides, ["at_most", "at_least"])
        if not found:
            raise self.wrong(f"the limit of {name} is empty", "Use at_most, at_least or both.")
        return Limit(name, **{side: self.number(f"{name}.{side}", value) for side, value in found.items()})

    def drift(self, given: Mapping[str, Any]) -> DriftRules:
        known = DriftRules()
        fails = given.get("fails", known.fails)
        if not isinstance(fails, bool):
            raise self.wrong(f"drift.fails is {fails!r}", "Use true or false.")
        return DriftRules(
            self.number("drift.alpha", given.get("alpha", known.alpha), 0, 1),
            self.number("drift.least_effect", given.get("least_effect", known.least_effect), 0, 1),
            fails,
        )
