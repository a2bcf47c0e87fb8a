"""PNG plots of a period. matplotlib is imported when the first plot is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genai_lifecycle.monitoring.drift import Sample
from genai_lifecycle.monitoring.measures import Day

_DPI, _NOW, _BEFORE, _BAD = 120, "#3b6ea5", "#999999", "#b5443c"
_MOST_NAMES = 10  # of days below a plot
_MOST_PANELS = 9  # of the drift's plot; more are not readable


def daily(days: Sequence[Day], path: Path) -> None:
    """Volume, errors, latency and, where there is any, feedback, day by day."""
    has_feedback = any(item.opinions for item in days)
    figure, (volume, latency, *feedback) = _panels(2 + has_feedback, 1, (7, 4.4 + 2.1 * has_feedback))
    places = range(len(days))
    volume.bar(places, [item.requests for item in days], color=_NOW, label="requests")
    volume.bar(places, [item.errors for item in days], color=_BAD, label="errors")
    volume.set_ylabel("requests")
    latency.plot(places, [_or_gap(item.p50_ms) for item in days], "o-", color=_NOW, label="p50")
    latency.plot(places, [_or_gap(item.p95_ms) for item in days], "s--", color=_NOW, label="p95")
    latency.set_ylabel("latency in ms")
    latency.set_ylim(0, 1.1 * max([item.p95_ms or 0 for item in days], default=0) or 1)
    for axes in feedback:
        shares = [item.positive / item.opinions if item.opinions else None for item in days]
        axes.plot(places, [_or_gap(share) for share in shares], "o-", color=_NOW, label="positive")
        axes.set_ylim(-0.05, 1.05)
        axes.set_ylabel("share of feedback")
    for axes in (volume, latency, *feedback):
        _name_days(axes, days)
    figure.savefig(path)


def _or_gap(value: float | None) -> float:
    """A line has a gap where there was nothing to measure."""
    return float("nan") if value is None else value


def _name_days(axes, days: Sequence[Day]) -> None:
    shown = range(0, len(days), -(-len(days) // _MOST_NAMES))
    axes.set_xlim(-0.6, len(days) - 0.4)
    axes.set_xticks(shown, [days[place].day.strftime("%d %b") for place in shown], fontsize=8)
    axes.legend(fontsize=8, loc="lower left", framealpha=0.6)


def distributions(samples: Sequence[Sample], path: Path) -> None:
    """Cumulative distribution of each measure, now and in the baseline; D is the largest vertical distance."""
    shown = samples[:_MOST_PANELS]
    figure, panels = _panels(len(shown), 1, (7, 1 + 2.2 * len(shown)))
    for axes, sample in zip(panels, shown, strict=True):
        axes.ecdf(sample.before, color=_BEFORE, label=f"baseline ({len(sample.before)})")
        axes.ecdf(sample.now, color=_NOW, label=f"now ({len(sample.now)})")
        axes.set_title(f"{sample.measure} of {sample.group}", fontsize=9)
        axes.set_ylabel("share up to")
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path)


def _panels(rows: int, columns: int, size_inches: tuple[float, float]):
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: no global state, and safe outside the main thread.
    figure = Figure(figsize=size_inches, dpi=_DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.grid(axis="y", alpha=0.3)
    return figure, panels
