"""The figures of a period, the limits that they cross, and the sentences about both. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genai_lifecycle.monitoring.drift import DriftResult
from genai_lifecycle.monitoring.request_table import CALLER_LEFT, GROUP, answered, group_name
from genai_lifecycle.monitoring.rules import ADVICE, DRIFT_ADVICE, Limit, Rules

if TYPE_CHECKING:
    from pandas import DataFrame, Series


@dataclass(frozen=True)
class Measure:
    """One figure about a period."""

    name: str  # as in monitor.yaml
    value: float | None  # None: nothing to measure it on
    count: int  # of requests or feedback that it was measured on


@dataclass(frozen=True)
class CrossedLimit:
    """A limit of monitor.yaml that was not kept."""

    measure: str
    message: str  # the value and the limit, in a sentence
    advice: str


_ANY_COUNT = ("requests",)  # a limit on it holds for few as well


def measure(requests: DataFrame) -> tuple[Measure, ...]:
    """Every figure of the period; `requests` comes first."""
    answers = answered(requests)
    opinions = int(requests["opinions"].sum())
    return (
        Measure("requests", float(len(requests)), len(requests)),
        *(_measure(f"latency_p{share}_ms", answers["latency_ms"], share / 100) for share in (50, 95, 99)),
        _measure("error_rate", requests["error"].notna()[requests["error"] != CALLER_LEFT]),
        _measure("timeout_share", answers["finish_reason"] == "timeout"),
        _measure("answer_tokens", answers["answer_tokens"]),
        _measure("repetition", answers["repetition"]),
        _measure("declined_share", answers["declined"]),
        Measure("positive_share", int(requests["positive"].sum()) / opinions if opinions else None, opinions),
    )


def _measure(name: str, column: Series, quantile: float | None = None) -> Measure:
    """The mean of a column, or its quantile, without what was not measured."""
    values = column.dropna()
    if values.empty:
        return Measure(name, None, 0)
    return Measure(name, float(values.mean() if quantile is None else values.quantile(quantile)), len(values))


def errors(requests: DataFrame) -> Mapping[str, int]:
    """How often each error came, the most frequent first; callers who left among them."""
    return requests["error"].value_counts().to_dict()


def groups(requests: DataFrame) -> Mapping[str, int]:
    """How many requests each prompt and model version had, the most first."""
    return {group_name(*group): count for group, count in requests[GROUP].value_counts().items()}


def by_day(requests: DataFrame, start_ms: int, end_ms: int) -> DataFrame:
    """A row for every day (UTC) of the period, also those on which nothing happened."""
    import pandas as pd

    day = pd.to_datetime(requests["time_ms"], unit="ms").dt.floor("D")
    is_error = requests["error"].notna() & (requests["error"] != CALLER_LEFT)
    days = requests.assign(is_error=is_error, answered_ms=answered(requests)["latency_ms"]).groupby(day)
    figures = days.agg(requests=("time_ms", "size"), errors=("is_error", "sum"), opinions=("opinions", "sum"),
                       positive=("positive", "sum"))  # fmt: skip
    every_day = pd.date_range(*pd.to_datetime([start_ms, end_ms - 1], unit="ms").floor("D"))
    return figures.reindex(every_day, fill_value=0).assign(
        p50_ms=days["answered_ms"].quantile(0.5), p95_ms=days["answered_ms"].quantile(0.95)
    )


# --- limits ---------------------------------------------------------------------------------------


def crossed_limits(measures: Sequence[Measure], drift: Sequence[DriftResult], rules: Rules) -> tuple[CrossedLimit, ...]:
    """Every limit that was not kept, with the value and what to do."""
    values = {item.name: item for item in measures}
    limits = [
        CrossedLimit(name, _message(values[name], limit), ADVICE[name])
        for name, limit in rules.limits.items()
        if _is_checked(values[name], rules) and limit.is_crossed(values[name].value or 0.0)
    ]
    drifts = [item for item in drift if item.outcome == "drift"] if rules.drift.fails else []
    return (*limits, *(CrossedLimit(f"drift of {item.measure}", str(item), DRIFT_ADVICE) for item in drifts))


def _is_checked(item: Measure, rules: Rules) -> bool:
    return item.name in _ANY_COUNT or (item.value is not None and item.count >= rules.minimum_count)


def _message(item: Measure, limit: Limit) -> str:
    unit = "feedback" if item.name == "positive_share" else "requests"
    over = "" if item.name in _ANY_COUNT else f" over {item.count} {unit}"
    return f"{item.name} is {item.value:.4g}{over}; the limit is {limit}"


def too_few(measures: Sequence[Measure], rules: Rules) -> list[str]:
    """The limits that were not checked, in a sentence; none where every one was."""
    unchecked = [item for item in measures if item.name in rules.limits and not _is_checked(item, rules)]
    names = ", ".join(f"{item.name} ({item.count})" for item in unchecked)
    return [f"too few for a verdict, fewer than {rules.minimum_count}: {names}"] if unchecked else []
