"""`monitor.yaml`: the limits that a period must keep to, and how things are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from genai_lifecycle.evaluation.scorers import words
from genai_lifecycle.runtime.validation import STRICT
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


Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Limit:
    """What one measure must keep to."""

    at_most: float | None = None
    at_least: float | None = None
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.at_most is None and self.at_least is None:
            raise ValueError("needs at_most, at_least or both")

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

    alpha: Share = 0.05  # how often a run may say drift where there is none, over all its tests
    least_effect: Share = 0.2  # D, or Cramer's V: smaller ones are no drift, however sure
    fails: bool = True  # whether drift is a crossed limit
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Rules:
    """The whole of monitor.yaml."""

    minimum_count: Annotated[int, Ge(2)] = 30  # with fewer, no limit is checked and nothing is tested
    declined: tuple[str, ...] = ("i don't know about that", "i do not know about that")  # how such answers begin
    positive_from: Mapping[str, float] = field(default_factory=lambda: {"default": 0.5})  # by name of the feedback
    limits: Mapping[Literal[*ADVICE], Limit] = field(default_factory=dict)  # by measure
    drift: DriftRules = DriftRules()
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if not all(words(text) for text in self.declined):
            raise ValueError("needs words in each text of 'declined'")

    def least_positive(self, name: str) -> float:
        """From which number on feedback of this name is positive."""
        return self.positive_from.get(name, self.positive_from.get("default", 0.5))


def load_rules(path: Path) -> Rules:
    """Read monitor.yaml. Raises ConfigError naming the file, and the key that is wrong in it."""
    return read_yaml(path, Rules, _HINT)
