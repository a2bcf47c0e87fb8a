"""What `monitor` leaves for people: a Markdown report and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from genai_lifecycle.monitoring import plots
from genai_lifecycle.monitoring.drift import DriftFinding, Sample
from genai_lifecycle.monitoring.measures import CrossedLimit, Day, Measure


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
    folder: Path, result: MonitorReport, days: Sequence[Day], failed: Mapping[str, int], compared: Sequence[Sample]
) -> None:
    """Write the report and, where there is something to draw, the plots below `folder`."""
    (folder / REPORT_FILE).write_text(markdown(result, days, failed), "utf-8")
    if result.requests:
        plots.daily(days, folder / "daily.png")
    drawn = [item for item in compared if not item.is_category]
    if drawn:
        plots.distributions(drawn, folder / "drift.png")


def markdown(result: MonitorReport, days: Sequence[Day], failed: Mapping[str, int]) -> str:
    """The report as text."""
    lines = ["# Quality over time", "", f"{_when(result.start_ms)} to {_when(result.end_ms)} (UTC), "
             f"experiment `{result.experiment}`.", "", f"**{verdict(result)}**", ""]  # fmt: skip
    lines += [f"- {item.said}. {item.advice}" for item in result.crossed]
    lines += [""] * bool(result.crossed)
    if result.requests:
        lines += _figures(result) + _days(days)
    lines += _listed("Errors", failed) + _listed("Who answered", result.groups) + _drift(result.drift)
    lines += ["## Notes", "", *(f"- {note}." for note in result.notes), ""] if result.notes else []
    return "\n".join(lines)


def lines_of(result: MonitorReport) -> list[str]:
    """The report in a few lines, for a terminal."""
    figures = [f"{item.name:16}{number(item.value):>10}  ({item.count})" for item in result.measures[1:]]
    tested = [
        f"{item.outcome:9} {item.measure} of {item.group}: {item.now}; baseline {item.before}" for item in result.drift
    ]
    return [*(figures if result.requests else []), *tested, *result.notes, verdict(result)]


def verdict(result: MonitorReport) -> str:
    """One sentence on the whole period."""
    if result.crossed:
        return f"{len(result.crossed)} limit(s) crossed."
    return "No limit was crossed." if result.requests else "Nothing was traced in this period."


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _figures(result: MonitorReport) -> list[str]:
    lines = ["## The period", "", *_header("measure", "value", "counted", "")]
    for item in result.measures:
        lines.append(_row(item.name, number(item.value), str(item.count), _MEANING[item.name]))
    return [*lines, ""]


def number(value: float | None) -> str:
    """Three or four digits are enough to read; nothing measured is a dash."""
    if value is None or math.isnan(value):
        return _NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _days(days: Sequence[Day]) -> list[str]:
    lines = ["## Day by day", "", "![volume and latency](daily.png)", ""]
    lines += _header("day (UTC)", "requests", "errors", "p50 ms", "p95 ms", "feedback", "positive")
    for item in days:
        share = f"{item.positive / item.opinions:.0%}" if item.opinions else _NOTHING
        counts = str(item.requests), str(item.errors), number(item.p50_ms), number(item.p95_ms), str(item.opinions)
        lines.append(_row(str(item.day), *counts, share))
    return [*lines, ""]


def _header(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return [f"## {title}", "", *(f"- {name}: {count}" for name, count in counts.items()), ""]


def _drift(findings: Sequence[DriftFinding]) -> list[str]:
    if not findings:
        return []
    lines = ["## Drift from the baseline", ""]
    lines += _header("prompt and model", "measure", "now", "baseline", "test", "effect", "p (Holm)", "")
    for item in findings:
        few = item.outcome == "too few"
        figures = [_NOTHING, _NOTHING] if few else [f"{item.effect:.2f}", f"{item.p_value:.2g}"]
        sides = f"{item.now} ({item.count_now})", f"{item.before} ({item.count_before})"
        lines.append(_row(item.group, item.measure, *sides, item.test, *figures, item.outcome))
    explained = (
        "The effect is D (the largest distance of two distributions) or Cramer's V: 0 is no difference, 1 the largest. "
        "The latency is not compared, because an evaluation answers in batches."
    )
    return [*lines, "", explained, ""]
