"""What `monitor` leaves for people: a Markdown report and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from genai_lifecycle.monitoring import plots
from genai_lifecycle.monitoring.drift import DriftResult, Sample
from genai_lifecycle.monitoring.measures import CrossedLimit, Measure

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class MonitorReport:
    """What the traces of a period show."""

    run_id: str
    experiment: str  # of the servers' traces
    start_ms: int  # Unix time
    end_ms: int
    measures: tuple[Measure, ...]
    groups: Mapping[str, int]  # requests of each prompt and model version, the most first
    drift: tuple[DriftResult, ...]
    crossed: tuple[CrossedLimit, ...]
    notes: tuple[str, ...]  # what could not be measured, and why
    report_file: str

    @property
    def requests(self) -> int:
        return int(self.measures[0].value or 0)


REPORT_FILE = "report.md"
_NOTHING = "–"
_MEANING = {
    "requests": "traced requests", "latency_p50_ms": "half of the answers came within",
    "latency_p95_ms": "95 of 100 answers came within", "latency_p99_ms": "99 of 100 answers came within",
    "error_rate": "failed, without those whose caller left", "timeout_share": "answers cut by their deadline",
    "answer_tokens": "mean length of an answer", "repetition": "mean share of repeated word triples",
    "declined_share": "answers that say that they do not know", "positive_share": "of the feedback with a score",
}  # fmt: skip


def write(
    folder: Path, result: MonitorReport, days: DataFrame, errors: Mapping[str, int], samples: Sequence[Sample]
) -> None:
    """Write the report and, where there is something to draw, the plots below `folder`."""
    (folder / REPORT_FILE).write_text(markdown(result, days, errors), "utf-8")
    if result.requests:
        plots.daily(days, folder / "daily.png")
    distributions = [item for item in samples if not item.is_category]
    if distributions:
        plots.distributions(distributions, folder / "drift.png")


def markdown(result: MonitorReport, days: DataFrame, errors: Mapping[str, int]) -> str:
    """The report as text."""
    lines = ["# Quality over time", "", f"{_when(result.start_ms)} to {_when(result.end_ms)} (UTC), "
             f"experiment `{result.experiment}`.", "", f"**{verdict(result)}**", ""]  # fmt: skip
    lines += [f"- {item.message}. {item.advice}" for item in result.crossed]
    lines += [""] * bool(result.crossed)
    if result.requests:
        lines += _measures(result.measures) + _days(days)
    lines += _list("Errors", [f"{name}: {count}" for name, count in errors.items()])
    lines += _list("Who answered", [f"{name}: {count}" for name, count in result.groups.items()])
    lines += _drift(result.drift) + _list("Notes", [f"{note}." for note in result.notes])
    return "\n".join(lines)


def lines_of(result: MonitorReport) -> list[str]:
    """The report in a few lines, for a terminal."""
    figures = [f"{item.name:16}{number(item.value):>10}  ({item.count})" for item in result.measures[1:]]
    tests = [
        f"{item.outcome:9} {item.measure} of {item.group}: {item.now}; baseline {item.before}" for item in result.drift
    ]
    return [*(figures if result.requests else []), *tests, *result.notes, verdict(result)]


def verdict(result: MonitorReport) -> str:
    """One sentence on the whole period."""
    if result.crossed:
        return f"{len(result.crossed)} limit(s) crossed."
    return "No limit was crossed." if result.requests else "Nothing was traced in this period."


def number(value: float | None) -> str:
    """Three or four digits are enough to read; nothing measured is a dash."""
    if value is None or math.isnan(value):
        return _NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _measures(measures: Sequence[Measure]) -> list[str]:
    rows = [(item.name, number(item.value), item.count, _MEANING[item.name]) for item in measures]
    return ["## The period", "", *_table(("measure", "value", "counted", ""), rows), ""]


def _days(days: DataFrame) -> list[str]:
    rows = [
        (day.Index.date(), day.requests, day.errors, number(day.p50_ms), number(day.p95_ms), day.opinions,
         f"{day.positive / day.opinions:.0%}" if day.opinions else _NOTHING)
        for day in days.itertuples()
    ]  # fmt: skip
    names = ("day (UTC)", "requests", "errors", "p50 ms", "p95 ms", "feedback", "positive")
    return ["## Day by day", "", "![volume and latency](daily.png)", "", *_table(names, rows), ""]


def _drift(results: Sequence[DriftResult]) -> list[str]:
    if not results:
        return []
    rows = [
        (item.group, item.measure, f"{item.now} ({item.count_now})", f"{item.before} ({item.count_before})", item.test,
         *((_NOTHING, _NOTHING) if item.outcome == "too few" else (f"{item.effect:.2f}", f"{item.p_value:.2g}")),
         item.outcome)
        for item in results
    ]  # fmt: skip
    names = ("prompt and model", "measure", "now", "baseline", "test", "effect", "p (Holm)", "")
    explanation = (
        "The effect is D (the largest distance of two distributions) or Cramer's V: 0 is no difference, 1 the largest. "
        "The latency is not compared, because an evaluation answers in batches."
    )
    return ["## Drift from the baseline", "", *_table(names, rows), "", explanation, ""]


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names), *map(_row, rows)]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
