"""The figures of a period, which limits they cross, and what is tested for drift. Pure functions of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from genai_lifecycle.monitoring.drift import DriftFinding, Sample
from genai_lifecycle.monitoring.records import CALLER_LEFT, Answer, Request
from genai_lifecycle.monitoring.rules import ADVICE, DRIFT_ADVICE, Rules


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
    said: str  # the value and the limit, in a sentence
    advice: str


_ANY_COUNT = ("requests",)  # a limit on it holds for few as well


@dataclass(frozen=True)
class Day:
    """One day of the period (UTC). Figures that there was nothing for are None."""

    day: date
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    opinions: int
    positive: int


def measure(requests: Sequence[Request]) -> tuple[Measure, ...]:
    """Every figure of the period; `requests` comes first."""
    waited = [item for item in requests if item.error != CALLER_LEFT]
    answered = [item for item in requests if item.answer is not None]
    answers = [item.answer for item in answered]
    latencies = [item.latency_ms for item in answered]
    opinions = [opinion for item in requests for opinion in item.opinions]
    return (
        Measure("requests", float(len(requests)), len(requests)),
        *(Measure(f"latency_p{share}_ms", percentile(latencies, share), len(latencies)) for share in (50, 95, 99)),
        _mean("error_rate", [item.error is not None for item in waited]),
        _mean("timeout_share", [item.finish_reason == "timeout" for item in answers]),
        _mean("answer_tokens", known(answers, "answer_tokens")),
        _mean("repetition", known(answers, "repetition")),
        _mean("declined_share", known(answers, "declined")),
        _mean("positive_share", opinions),
    )


def _mean(name: str, values: Sequence[float]) -> Measure:
    return Measure(name, sum(values) / len(values) if values else None, len(values))


def known(answers: Iterable[Answer], name: str) -> list[float]:
    """The values of one field, without those that were not measured."""
    return [value for item in answers if (value := getattr(item, name)) is not None]


def percentile(values: Sequence[float], share: int) -> float | None:
    """None of nothing."""
    import numpy as np

    return float(np.percentile(values, share)) if values else None


def errors(requests: Iterable[Request]) -> Mapping[str, int]:
    """How often each error came, the most frequent first; callers who left among them."""
    return dict(Counter(item.error for item in requests if item.error).most_common())


def by_day(requests: Iterable[Request], start_ms: int, end_ms: int) -> list[Day]:
    """Every day of the period in order, also those on which nothing happened."""
    days: dict[date, list[Request]] = {_day(start_ms) + timedelta(step): [] for step in range(
        (_day(end_ms - 1) - _day(start_ms)).days + 1)}  # fmt: skip
    for item in requests:
        days[_day(item.time_ms)].append(item)
    return [_summed(day, items) for day, items in days.items()]


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()


def _summed(day: date, items: Sequence[Request]) -> Day:
    latencies = [item.latency_ms for item in items if item.answer is not None]
    opinions = [opinion for item in items for opinion in item.opinions]
    failed = sum(item.error not in (None, CALLER_LEFT) for item in items)
    return Day(day, len(items), failed, percentile(latencies, 50), percentile(latencies, 95), len(opinions),
               sum(opinions))  # fmt: skip


# --- drift ----------------------------------------------------------------------------------------


def samples(group: str, now: Sequence[Answer], before: Sequence[Answer]) -> list[Sample]:
    """What is compared with the baseline. The latency is not: an evaluation answers in batches."""
    found = [
        Sample(group, name, known(now, name), known(before, name))
        for name in ("prompt_tokens", "answer_tokens", "repetition")
    ]
    words = ("answered", "declined")
    declined = [[words[int(value)] for value in known(side, "declined")] for side in (now, before)]
    reasons = [[item.finish_reason for item in side] for side in (now, before)]
    found.append(Sample(group, "declined_share", *declined, is_category=True))
    found.append(Sample(group, "finish_reason", *reasons, is_category=True))
    return [item for item in found if item.now and item.before]


# --- limits ---------------------------------------------------------------------------------------


def crossed(found: Sequence[Measure], drift: Sequence[DriftFinding], rules: Rules) -> tuple[CrossedLimit, ...]:
    """Every limit that was not kept, with the value and what to do."""
    values = {item.name: item for item in found}
    limits = [
        CrossedLimit(limit.measure, _said(values[limit.measure], limit), ADVICE[limit.measure])
        for limit in rules.limits
        if _counts(values[limit.measure], rules) and limit.is_crossed(values[limit.measure].value or 0.0)
    ]
    drifted = [item for item in drift if item.outcome == "drift"] if rules.drift.fails else []
    return (*limits, *(CrossedLimit(f"drift of {item.measure}", drift_said(item), DRIFT_ADVICE) for item in drifted))


def _counts(item: Measure, rules: Rules) -> bool:
    return item.name in _ANY_COUNT or (item.value is not None and item.count >= rules.minimum_count)


def _said(item: Measure, limit: object) -> str:
    counted = "feedback" if item.name == "positive_share" else "requests"
    over = "" if item.name in _ANY_COUNT else f" over {item.count} {counted}"
    return f"{item.name} is {item.value:.4g}{over}; the limit is {limit}"


def drift_said(item: DriftFinding) -> str:
    """For example `answer_tokens of qa/3 has drifted: median 12, in the baseline median 30 (...)`."""
    name = "D" if item.test.startswith("Kolmogorov") else "V"
    return (
        f"{item.measure} of {item.group} has drifted: {item.now}, in the baseline {item.before} "
        f"({item.test}, {name} {item.effect:.2f}, p {item.p_value:.2g})"
    )


def too_few(found: Sequence[Measure], rules: Rules) -> list[str]:
    """The limits that were not checked, in a sentence; none where every one was."""
    values = {item.name: item for item in found}
    waiting = [values[limit.measure] for limit in rules.limits if not _counts(values[limit.measure], rules)]
    names = ", ".join(f"{item.name} ({item.count})" for item in waiting)
    return [f"too few for a verdict, fewer than {rules.minimum_count}: {names}"] if waiting else []
